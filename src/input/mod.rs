//! What bytes are read from: a local file, bytes in memory, or a file that a server sends in ranges.
//!
//! [`ReadAt`] is the one thing that readers ask for: bytes at an offset. [`Input`] is an open file with a name and a size,
//! whatever stands behind it. [`remote`] reads the files of a repository of the Hugging Face hub by HTTP ranges, and [`ahead`]
//! fetches their bytes before they are asked for.
//!
//! ```
//! use srd_rs::input::ReadAt;
//!
//! let mut middle = [0; 2];
//! b"abcd"[..].read_exact_from(1, &mut middle)?;
//! assert_eq!(&middle, b"bc");
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod ahead;
mod client;
mod kept;
pub mod remote;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::os::{self, FileMap};
use remote::RemoteFile;

/// Bytes that can be read at any offset, by several threads at the same time.
pub trait ReadAt: Send + Sync {
    /// Fills `buf` with the bytes from `offset` on. The error is [`io::ErrorKind::UnexpectedEof`] if there are not so many
    /// bytes, and holds a [`FetchError`](crate::error::FetchError) where a server does not send them.
    fn read_exact_from(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_from(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        os::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_from(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let bytes = start.and_then(|s| self.get(s..s.checked_add(buf.len())?));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// An open file that weights are read from. A clone reads the same open file.
#[derive(Clone)]
pub struct Input {
    /// The path of a local file, or the address of a remote one. Messages name it.
    pub path: PathBuf,
    /// Size in bytes when the file was opened.
    pub size: u64,
    place: Place,
}

/// Where the bytes of an input are.
#[derive(Clone)]
enum Place {
    Local(Arc<File>),
    Mapped(Arc<File>, Arc<FileMap>),
    Remote(RemoteFile),
}

impl Input {
    /// Makes an input of an open local file of `size` bytes.
    pub fn local(path: impl Into<PathBuf>, file: File, size: u64) -> Self {
        Self { path: path.into(), size, place: Place::Local(Arc::new(file)) }
    }

    /// Makes an input of a file of a repository.
    pub fn remote(file: RemoteFile) -> Self {
        Self { path: file.address().into(), size: file.size(), place: Place::Remote(file) }
    }

    /// Returns the same input, read through a map of the file. A remote file stays as it is.
    ///
    /// # Errors
    /// What the system says when it cannot map the file.
    pub fn mapped(self) -> io::Result<Self> {
        let place = match self.place {
            Place::Local(file) if self.size > 0 => {
                let map = FileMap::new(&file)?;
                Place::Mapped(file, Arc::new(map))
            }
            place => place,
        };
        Ok(Self { place, ..self })
    }

    /// Returns the local file. `None` if the bytes come from a server.
    pub fn as_local(&self) -> Option<&File> {
        match &self.place {
            Place::Local(file) | Place::Mapped(file, _) => Some(file),
            Place::Remote(_) => None,
        }
    }

    /// Returns the remote file. `None` if the bytes come from a local file.
    pub fn as_remote(&self) -> Option<&RemoteFile> {
        match &self.place {
            Place::Local(_) | Place::Mapped(..) => None,
            Place::Remote(file) => Some(file),
        }
    }

    /// Returns the name of the file, without its folder.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl ReadAt for Input {
    fn read_exact_from(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self.place {
            Place::Local(file) => file.read_exact_from(offset, buf),
            Place::Mapped(file, map) => map.read_exact_at(file, buf, offset),
            Place::Remote(file) => file.read_exact_from(offset, buf),
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("path", &self.path).field("size", &self.size).finish_non_exhaustive()
    }
}
