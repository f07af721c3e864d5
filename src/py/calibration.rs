//! Calibration files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;

use crate::formats::calibration;
use crate::formats::imatrix;
use crate::py::records::record;
use crate::py::watch::detached;

record! {
    /// Statistics of the inputs of one tensor: `n` inputs in blocks of `block`, and the number of tokens that each expert
    /// saw (one number for a dense tensor).
    CalibratedTensor {
        name: String,
        input: String,
        n: u64,
        block: u64,
        tokens: Vec<u64>,
    }
}

/// Statistics of a model's inputs, in an open file.
#[pyclass(frozen)]
pub struct Calibration {
    pub(super) inner: Arc<calibration::Calibration>,
}

#[pymethods]
impl Calibration {
    #[getter]
    fn path(&self) -> PathBuf {
        self.inner.path().to_path_buf()
    }

    /// `sha256:` and 64 hex digits, which identify the contents.
    #[getter]
    fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// `random`, `builtin`, or the name of the text file.
    #[getter]
    fn text(&self) -> &str {
        &self.inner.info.text
    }

    #[getter]
    fn tokens(&self) -> u64 {
        self.inner.info.tokens
    }

    #[getter]
    fn chunks(&self) -> u64 {
        self.inner.info.chunks()
    }

    /// Whether tokens count by the length of their gradients.
    #[getter]
    fn weighed(&self) -> bool {
        self.inner.info.weighed
    }

    #[getter]
    fn source_digest(&self) -> &str {
        &self.inner.info.source_digest
    }

    /// The tensors whose inputs are known.
    #[getter]
    fn tensors(&self) -> Vec<CalibratedTensor> {
        let known = self.inner.tensors().into_iter().filter_map(|name| Some((name, self.inner.get(name)?)));
        known
            .map(|(name, m)| CalibratedTensor {
                name: name.to_string(),
                input: m.input().to_string(),
                n: m.n() as u64,
                block: m.block() as u64,
                tokens: (0..m.experts()).map(|e| m.tokens(e)).collect(),
            })
            .collect()
    }

    /// Writes the diagonals as a llama.cpp imatrix (GGUF).
    fn write_imatrix(&self, py: Python<'_>, path: PathBuf, overwrite: bool) -> PyResult<()> {
        detached(py, || imatrix::write_imatrix(&self.inner, &path, overwrite))
    }

    /// Writes a copy of the file.
    fn copy_to(&self, py: Python<'_>, path: PathBuf, overwrite: bool) -> PyResult<()> {
        detached(py, || self.inner.copy_to(&path, overwrite))
    }
}

/// Opens a calibration file. `kept` says that the file is one of the cache: its parts are then verified when they are used.
#[pyfunction]
#[pyo3(signature = (path, kept=false))]
pub fn open_calibration(py: Python<'_>, path: PathBuf, kept: bool) -> PyResult<Calibration> {
    let inner = detached(py, || match kept {
        true => calibration::Calibration::open_kept(&path),
        false => calibration::Calibration::open(&path),
    })?;
    Ok(Calibration { inner: Arc::new(inner) })
}

/// Whether a file says that it is a calibration file.
#[pyfunction]
pub fn is_calibration(path: PathBuf) -> bool {
    calibration::Calibration::recognize(Path::new(&path))
}
