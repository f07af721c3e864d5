//! The SHA-256 of a range of a file.
//!
//! ```
//! use std::io::Write;
//! use std::path::Path;
//!
//! use srd_rs::progress::Progress;
//! use srd_rs::sign::file::hash_range;
//! use srd_rs::sign::sha256;
//!
//! let mut file = tempfile::tempfile()?;
//! file.write_all(b"header, data")?;
//! let hash = hash_range(&file, Path::new("file"), 8..12, &Progress::default())?;
//! assert_eq!(hash, sha256(&[b"data"]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::Range;
use std::path::Path;

use super::{Hash, Sha256};
use crate::error::{Error, Place, Result};
use crate::input::ReadAt;
use crate::progress::Progress;

/// The SHA-256 of a range of an open file; `path` is used in messages only. `progress` can end the run early.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read or is shorter, [`Error::Interrupted`] when the run was cancelled.
pub fn hash_range<S: ReadAt + ?Sized>(
    file: &S,
    path: &Path,
    range: Range<u64>,
    progress: &Progress,
) -> Result<Hash> {
    Ok(hasher_of_range(file, path, range, progress)?.finish())
}

/// As [`hash_range`], for a range that goes on: the SHA-256 can take the bytes behind it.
///
/// # Errors
/// As [`hash_range`].
pub fn hasher_of_range<S: ReadAt + ?Sized>(
    file: &S,
    path: &Path,
    range: Range<u64>,
    progress: &Progress,
) -> Result<Sha256> {
    let mut hasher = Sha256::default();
    let mut buffer = vec![0; (range.end - range.start).min(1 << 20) as usize];
    let mut at = range.start;
    while at < range.end {
        progress.check()?;
        let n = (range.end - at).min(buffer.len() as u64) as usize;
        let failed = |e| Error::read(Place::file(path), "read", e, "Check the disk and try again");
        file.read_exact_from(at, &mut buffer[..n]).map_err(failed)?;
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(hasher)
}
