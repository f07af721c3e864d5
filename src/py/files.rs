//! Whole files, written at once.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;

use crate::error::Result;
use crate::formats::sink::Sink;
use crate::py::watch::detached;

/// Writes a file that has its name only when the file is complete.
pub fn write_whole(path: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    let sink = Sink::create(path, bytes.len() as u64, overwrite)?;
    sink.write_at(bytes, 0)?;
    sink.commit()
}

/// Writes `data` to `path`; the file has its name only when the file is complete. With `overwrite` an existing file is
/// replaced, without it UsageError is raised.
#[pyfunction]
#[pyo3(signature = (path, data, overwrite=false))]
pub fn write_file(py: Python<'_>, path: PathBuf, data: &[u8], overwrite: bool) -> PyResult<()> {
    detached(py, || write_whole(&path, data, overwrite))
}
