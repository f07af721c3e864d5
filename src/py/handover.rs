//! The files of a conversion that are taken away while it runs.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::convert::parts;
use crate::py::watch::detached;

/// The queue between `Plan.run` and the thread that takes its files.
///
/// The run waits where two files are on the disk that were not returned.
#[pyclass(frozen, module = "srd_rs._core")]
pub struct Handover {
    pub(super) inner: parts::Handover,
}

#[pymethods]
impl Handover {
    #[new]
    fn new() -> Self {
        Self { inner: parts::Handover::default() }
    }

    /// Waits for the next complete file. None when there will be no more.
    fn next(&self, py: Python<'_>) -> PyResult<Option<PathBuf>> {
        detached(py, || self.inner.next())
    }

    /// Returns a file, of which only the header stays on the disk.
    fn give_back(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        detached(py, || self.inner.give_back(&path))
    }

    /// Says that no more files are taken. The run fails.
    fn fail(&self, why: &str) {
        self.inner.fail(why);
    }

    /// Says that there will be no more files.
    fn close(&self) {
        self.inner.close();
    }
}
