//! Calibration: a forward pass that leaves a file of second moments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::json;

use crate::calibrate::{self as calibration_pass, Accumulator};
use crate::error::{Error, Result};
use crate::formats::calibration::{self, Info, Output};
use crate::formats::imatrix;
use crate::forward::{self, RunOptions};
use crate::progress::Progress;
use crate::py::convert::Plan;
use crate::py::errors::ToPy;
use crate::py::watch::watched;

/// Options of `calibrate`, as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    info: Info,
    /// The file to write, or where `named` is false, what it lies beside without a name.
    output: PathBuf,
    named: bool,
    overwrite: bool,
    threads: usize,
    /// Bytes of weights and activations alive at any time.
    max_memory: u64,
}

impl Options {
    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|e| Error::usage(format!("options: {e}"), "Check the arguments of the call"))
    }

    fn output(&self) -> Output {
        match self.named {
            true => Output::File { path: self.output.clone(), overwrite: self.overwrite },
            false => Output::Unnamed { beside: self.output.clone() },
        }
    }
}

/// Statistics of a model's inputs, in an open file.
#[pyclass(frozen)]
pub struct Calibration {
    pub(super) inner: Arc<calibration::Calibration>,
}

/// Runs the model of `plan` on chunks of tokens and writes what its matrices are fed. `progress(done, total)` is
/// called about 20 times a second with steps of the pass.
#[pyfunction]
#[pyo3(signature = (plan, tokens, options, progress=None))]
pub fn calibrate(
    py: Python<'_>,
    plan: &Plan,
    tokens: Vec<Vec<u32>>,
    options: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<Calibration> {
    let options = Options::parse(options).py(py)?;
    let state = Progress::default();
    let work = || {
        let shapes: Vec<_> =
            plan.inner.model.tensors.iter().map(|t| (t.name.as_str(), t.ne.as_slice())).collect();
        let mut observer = Accumulator::create(&shapes, options.info.clone(), &options.output())?;
        let run = RunOptions {
            logits: false,
            threads: options.threads,
            max_memory: options.max_memory,
            spill_folder: plan.inner.folder(),
            progress: &state,
        };
        forward::run(&plan.inner.model, &tokens, &mut observer, &run)?;
        observer.finish()
    };
    let tick = || match &progress {
        Some(f) => f.call1(py, (state.done(), state.total())).map(drop),
        None => Ok(()),
    };
    let inner = Arc::new(watched(py, work, || state.cancel(), tick)?);
    Ok(Calibration { inner })
}

/// Opens a calibration file.
#[pyfunction]
pub fn open_calibration(py: Python<'_>, path: PathBuf) -> PyResult<Calibration> {
    let inner = py.detach(|| calibration::Calibration::open(&path)).py(py)?;
    Ok(Calibration { inner: Arc::new(inner) })
}

/// Whether a file says that it is a calibration file.
#[pyfunction]
pub fn is_calibration(path: PathBuf) -> bool {
    calibration::Calibration::recognise(Path::new(&path))
}

/// `count` ids drawn uniformly from `ids`.
#[pyfunction]
pub fn random_tokens(py: Python<'_>, ids: Vec<u32>, count: usize, seed: u64) -> PyResult<Vec<u32>> {
    calibration_pass::random_tokens(&ids, count, seed).py(py)
}

#[pymethods]
impl Calibration {
    /// JSON: path, digest, what the tokens were, and each tensor's shape of statistics.
    fn to_json(&self) -> String {
        let calibration = &self.inner;
        let tensors: Vec<_> = calibration
            .tensors()
            .into_iter()
            .filter_map(|name| Some((name, calibration.get(name)?)))
            .map(|(name, m)| {
                let tokens: Vec<_> = (0..m.experts()).map(|e| m.tokens(e)).collect();
                json!({"name": name, "input": m.input(), "n": m.n(), "block": m.block(), "tokens": tokens})
            })
            .collect();
        json!({"path": calibration.path(), "digest": calibration.digest, "info": calibration.info,
               "chunks": calibration.info.chunks(), "tensors": tensors})
        .to_string()
    }

    /// Writes the diagonals as a llama.cpp imatrix (GGUF).
    fn write_imatrix(&self, py: Python<'_>, path: PathBuf, overwrite: bool) -> PyResult<()> {
        py.detach(|| imatrix::write_imatrix(&self.inner, &path, overwrite)).py(py)
    }
}
