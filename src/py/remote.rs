//! Files of the hub that are read by ranges.

use std::path::Path;
use std::sync::Arc;

use pyo3::prelude::*;

use crate::error::Result;
use crate::formats::safetensors::Checkpoint;
use crate::input::remote::{Listed, Remote};

/// The weight files of a model on the hub, which are read by HTTP ranges and not downloaded.
///
/// `label` is what messages call the model, `files` are (name, address, size, SHA-256 or None). The `token` is sent to the
/// server of the addresses and to no other. `commit` is the commit that the hub must name in its answers.
#[pyclass(frozen, module = "srd_rs._core")]
pub struct RemoteFiles {
    pub(super) inner: Arc<Remote>,
}

#[pymethods]
impl RemoteFiles {
    #[new]
    #[pyo3(signature = (label, files, token=None, commit=None))]
    fn new(
        label: String,
        files: Vec<(String, String, u64, Option<String>)>,
        token: Option<String>,
        commit: Option<String>,
    ) -> Self {
        let listed = |(name, url, size, sha256)| Listed { name, url, size, sha256 };
        Self { inner: Remote::new(label, files.into_iter().map(listed).collect(), token, commit) }
    }

    /// Names of the files.
    #[getter]
    fn names(&self) -> Vec<String> {
        self.inner.names().map(str::to_string).collect()
    }

    /// Bytes that were received so far.
    #[getter]
    fn received(&self) -> u64 {
        self.inner.received()
    }

    fn __repr__(&self) -> String {
        format!("<RemoteFiles of {}>", self.inner.label())
    }
}

/// Opens the checkpoint at `path`, whose weight files are `remote` or in the folder.
pub(super) fn open_checkpoint(path: &Path, remote: Option<&Arc<Remote>>) -> Result<Checkpoint> {
    match remote {
        Some(remote) => Checkpoint::open_remote(path, remote),
        None => Checkpoint::open(path),
    }
}
