//! Calibration: a forward pass that leaves a file of second moments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;

use crate::calibrate::{self as calibration_pass, Accumulator};
use crate::formats::calibration::{self, Info, Output};
use crate::formats::imatrix;
use crate::forward::{self, RunOptions};
use crate::progress::Progress;
use crate::py::convert::Plan;
use crate::py::options::cpus;
use crate::py::records::record;
use crate::py::watch::{detached, watched};

/// What to measure, from `srd_rs.calibration.Request`.
#[derive(FromPyObject)]
pub struct Request {
    text: String,
    text_sha256: Option<String>,
    seed: u64,
    tokens: Vec<Vec<u32>>,
    ctx: u64,
    block: u64,
    source_digest: String,
    /// The file to write, or where `named` is false, the file beside which a file without a name lies.
    output: PathBuf,
    named: bool,
    overwrite: bool,
    threads: Option<usize>,
    /// Bytes of weights and activations that are in memory at any time.
    max_memory: u64,
}

impl Request {
    fn output(&self) -> Output {
        match self.named {
            true => Output::File { path: self.output.clone(), overwrite: self.overwrite },
            false => Output::Unnamed { beside: self.output.clone() },
        }
    }

    fn info(&self) -> Info {
        Info {
            text: self.text.clone(),
            text_sha256: self.text_sha256.clone(),
            seed: self.seed,
            tokens: self.tokens.iter().map(|chunk| chunk.len() as u64).sum(),
            ctx: self.ctx,
            block: self.block,
            source_digest: self.source_digest.clone(),
        }
    }
}

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

/// Runs the model of `plan` on chunks of tokens and writes the second moments of the inputs of its matrices.
/// `progress(done, total)` is called about 20 times a second with steps of the pass.
#[pyfunction]
#[pyo3(signature = (plan, request, progress=None))]
pub fn calibrate(
    py: Python<'_>,
    plan: &Plan,
    request: Request,
    progress: Option<Py<PyAny>>,
) -> PyResult<Calibration> {
    let state = Progress::default();
    let work = || {
        let shapes: Vec<_> =
            plan.inner.model.tensors.iter().map(|t| (t.name.as_str(), t.ne.as_slice())).collect();
        let mut observer = Accumulator::create(&shapes, request.info(), &request.output())?;
        let run = RunOptions {
            logits: false,
            threads: request.threads.unwrap_or_else(cpus),
            max_memory: request.max_memory.max(1),
            spill_folder: plan.inner.folder(),
            progress: &state,
        };
        forward::run(&plan.inner.model, &request.tokens, &mut observer, &run)?;
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
    let inner = detached(py, || calibration::Calibration::open(&path))?;
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
    detached(py, || calibration_pass::random_tokens(&ids, count, seed))
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
                tokens: (0..m.experts()).map(|e| m.tokens(e) as u64).collect(),
            })
            .collect()
    }

    /// Writes the diagonals as a llama.cpp imatrix (GGUF).
    fn write_imatrix(&self, py: Python<'_>, path: PathBuf, overwrite: bool) -> PyResult<()> {
        detached(py, || imatrix::write_imatrix(&self.inner, &path, overwrite))
    }
}
