//! The SHA-256 of a file, or of the first bytes of a file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Hash, Sha256};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The SHA-256 of the first `bytes` bytes of an open file; `path` is used in messages only. `progress` can end the run
/// early.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read or is shorter, [`Error::Interrupted`] when the run was cancelled.
pub fn hash_start(file: &File, path: &Path, bytes: u64, progress: &Progress) -> Result<Hash> {
    let mut hasher = Sha256::default();
    let mut buffer = vec![0; bytes.min(1 << 20) as usize];
    let mut at = 0;
    while at < bytes {
        progress.check()?;
        let n = (bytes - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..n], at).map_err(|e| Error::io(path, "read", e))?;
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(hasher.finish())
}
