//! Whole files, written at once.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;

use crate::convert::digest;
use crate::error::Result;
use crate::formats::sink::Sink;
use crate::formats::source::{self, open_regular};
use crate::progress::Progress;
use crate::py::watch::{detached, watched};
use crate::sign::file::hash_range;
use crate::sign::to_hex;

/// Writes a file that has its name only when the file is complete.
pub fn write_whole(path: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    let sink = Sink::create(path, bytes.len() as u64, overwrite)?;
    sink.write_at(bytes, 0)?;
    sink.commit()
}

/// Returns ``sha256:`` and the digest of the whole contents of files: of the lines of name, size and SHA-256 of each file.
/// The order of the paths does not matter.
#[pyfunction]
pub fn content_digest(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<String> {
    detached(py, || {
        let parts = paths.iter().map(|path| digest::whole(path)).collect::<Result<Vec<_>>>()?;
        Ok(digest::source_digest(&digest::describe(&parts)?))
    })
}

/// Returns a text that names a file and the state that it is in, without reading the file: while the text is the same, so are the
/// bytes. None where the system cannot promise so, where the file was changed a moment ago, and where it cannot be opened.
#[pyfunction]
pub fn file_identity(path: PathBuf) -> Option<String> {
    source::file_identity(&path)
}

/// Returns the number of bytes and the SHA-256 of the whole contents of a regular file, in hexadecimal digits.
#[pyfunction]
pub fn file_sha256(py: Python<'_>, path: PathBuf) -> PyResult<(u64, String)> {
    let state = Progress::default();
    let hash = || {
        let (file, bytes) = open_regular(&path)?;
        Ok((bytes, to_hex(&hash_range(&file, &path, 0..bytes, &state)?)))
    };
    watched(py, hash, || state.cancel(), || Ok(()))
}

/// Writes `data` to `path`; the file has its name only when the file is complete. With `overwrite` an existing file is
/// replaced, without it UsageError is raised.
#[pyfunction]
#[pyo3(signature = (path, data, overwrite=false))]
pub fn write_file(py: Python<'_>, path: PathBuf, data: &[u8], overwrite: bool) -> PyResult<()> {
    detached(py, || write_whole(&path, data, overwrite))
}
