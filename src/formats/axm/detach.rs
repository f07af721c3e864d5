//! The manifest file of a container: the container without its shards, with which a GGUF can be verified where the
//! container is not at hand.

use super::reader::{Container, as_verification};
use crate::error::{Place, Result};
use crate::formats::source;

impl Container {
    /// Returns the bytes of the manifest file: everything before the first shard, then the manifest and the seal.
    /// The bytes come from the file that is open, even if its name stands for another file by now.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the file cannot be read, [`crate::Error::Verification`] when it is no longer the file that
    /// was opened.
    pub fn detach(&self) -> Result<Vec<u8>> {
        let mut out = vec![0; self.layout.detached_bytes() as usize];
        let (before, after) = out.split_at_mut(self.layout.data_offset as usize);
        source::read_at(&self.file, Place::file(&self.path), 0, before).map_err(as_verification)?;
        let at = if self.detached { self.layout.data_offset } else { self.layout.manifest_offset };
        source::read_at(&self.file, Place::file(&self.path), at, after).map_err(as_verification)?;
        self.check_detached(&out)?;
        Ok(out)
    }
}
