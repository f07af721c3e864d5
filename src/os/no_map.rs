//! Systems on which a map of a file cannot be kept from ending the process: there are none here.

use std::fs::File;
use std::io;

/// See [`crate::os`].
pub struct FileMap(());

impl FileMap {
    /// See [`crate::os`].
    pub fn new(_: &File) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// See [`crate::os`].
    pub fn read_exact_at(&self, _: &File, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
