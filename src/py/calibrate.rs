//! Calibration: a forward pass that leaves a file of second moments.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;

use crate::calibrate::{self as calibration_pass, Accumulator, part};
use crate::convert::{asymmetric, calibrated};
use crate::error::{Error, Result};
use crate::formats::calibration::{Info, Output};
use crate::formats::sink::check_not_input;
use crate::forward::{self, RunOptions};
use crate::progress::Progress;
use crate::py::calibration::Calibration;
use crate::py::convert::{Plan, part_options};
use crate::py::options::{ConvertOptions, cpus};
use crate::py::watch::{detached, watched};
use crate::py::written::Written;

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
    /// Whether what is complete is kept when the pass is interrupted, and taken by the next pass. `output` then says all that the
    /// calibration depends on.
    kept: bool,
    overwrite: bool,
    threads: Option<usize>,
    /// Bytes of weights and activations that are in memory at any time.
    max_memory: u64,
    /// Whether tokens have weights by what their errors do to the model's answer.
    weigh_tokens: bool,
}

impl Request {
    fn output(&self) -> Output {
        match self.named {
            _ if self.kept => Output::Kept { path: self.output.clone() },
            true => Output::File { path: self.output.clone(), overwrite: self.overwrite },
            false => Output::Unnamed { beside: self.output.clone() },
        }
    }

    fn info(&self) -> Info {
        Info {
            text: self.text.clone(),
            text_sha256: self.text_sha256.clone(),
            seed: self.seed,
            weighed: self.weigh_tokens,
            tokens: self.tokens.iter().map(|chunk| chunk.len() as u64).sum(),
            ctx: self.ctx,
            block: self.block,
            source_digest: self.source_digest.clone(),
        }
    }

    /// Refuses an output that the plan reads.
    fn check_output(&self, plan: &Plan) -> Result<()> {
        match self.output() {
            Output::File { path, .. } | Output::Kept { path } => {
                check_not_input(&path, &plan.inner.model.source.file_ids()?)
            }
            Output::Unnamed { .. } => Ok(()),
        }
    }

    /// How the forward pass is run.
    fn pass<'a>(&self, plan: &'a Plan, progress: &'a Progress) -> RunOptions<'a> {
        RunOptions {
            logits: false,
            threads: self.threads.unwrap_or_else(cpus),
            max_memory: self.max_memory.max(1),
            spill_folder: plan.inner.folder(),
            progress,
            token_weights: None,
        }
    }
}

/// Calls `progress(done, total)`.
fn tell(py: Python<'_>, progress: Option<&Py<PyAny>>, state: &Progress) -> PyResult<()> {
    progress.map_or(Ok(()), |f| f.call1(py, (state.done(), state.total())).map(drop))
}

/// Runs the model of `plan` on chunks of tokens and writes the second moments of the inputs of its matrices. With `options`,
/// those of effort max, the matrices are quantized to the types of the plan as well. `progress(done, total)` is called about 20
/// times a second with steps of the pass.
#[pyfunction]
#[pyo3(signature = (plan, request, progress=None, options=None))]
pub fn calibrate(
    py: Python<'_>,
    plan: &Plan,
    request: Request,
    progress: Option<Py<PyAny>>,
    options: Option<ConvertOptions>,
) -> PyResult<Calibration> {
    let state = Progress::default();
    let work = || {
        let shapes: Vec<_> =
            plan.inner.model.tensors.iter().map(|t| (t.name.as_str(), t.ne.as_slice())).collect();
        request.check_output(plan)?;
        let (output, run) = (request.output(), request.pass(plan, &state));
        if let Some(options) = &options {
            let to = (request.info(), &output);
            return asymmetric::quantize(&plan.inner, &request.tokens, to, &options.effort(), &run);
        }
        Accumulator::create(&shapes, request.info(), &output)?.fill(|observer| {
            let weights = observer.token_weights(&plan.inner.model, &request.tokens, &run)?;
            let run = RunOptions { token_weights: weights.as_ref(), ..run };
            forward::run(&plan.inner.model, &request.tokens, observer, &run).map(drop)
        })
    };
    let tick = || tell(py, progress.as_ref(), &state);
    let inner = Arc::new(watched(py, work, || plan.cancel(&state), tick)?);
    Ok(Calibration { inner })
}

/// Does the same as `calibrate`, and quantizes the matrices of each layer as soon as the inputs of the layer are known. `plan` is
/// that of the whole output; `options` and `resume` are those of `Plan.run`, which completes the output.
#[pyfunction]
#[pyo3(signature = (plan, request, options, resume, progress=None))]
pub fn calibrate_and_quantize(
    py: Python<'_>,
    plan: &Plan,
    request: Request,
    options: ConvertOptions,
    resume: (String, String),
    progress: Option<Py<PyAny>>,
) -> PyResult<(Calibration, Written)> {
    let state = Progress::default();
    let how = part_options(&options, resume);
    let work = || {
        request.check_output(plan)?;
        let (output, pass) = (request.output(), request.pass(plan, &state));
        calibrated::calibrate(&plan.inner, &request.tokens, (request.info(), &output), &how, &pass)
    };
    let tick = || tell(py, progress.as_ref(), &state);
    let (made, inner) = watched(py, work, || plan.cancel(&state), tick)?;
    Ok((Calibration { inner: Arc::new(made) }, Written { inner }))
}

/// A part of a calibration, from `srd_rs.cluster.Part`: see `calibrate::part`.
#[derive(FromPyObject)]
pub struct Part {
    step: usize,
    longest: usize,
    states: Option<PathBuf>,
    sums: Option<PathBuf>,
    to: (PathBuf, PathBuf),
    gradients: Vec<PathBuf>,
    first: usize,
}

/// Computes one step of a calibration for the chunks of `request`, which are a share of all chunks, and writes the states and the sums
/// to two files.
#[pyfunction]
pub fn calibrate_part(py: Python<'_>, plan: &Plan, request: Request, part: Part) -> PyResult<()> {
    let state = Progress::default();
    let Part { step, longest, states, sums, to, gradients, first } = part;
    let part = part::Part { step, longest, block: request.block, states, sums, to, gradients, first };
    let work = || part::run(&plan.inner.model, &request.tokens, &part, &request.pass(plan, &state));
    watched(py, work, || plan.cancel(&state), || Ok(()))
}

/// Computes the gradients of the tokens of `request`, which are a share of all tokens that begins with the token number `first`, and
/// writes them to a file, which `Part.gradients` names.
#[pyfunction]
pub fn weigh_part(
    py: Python<'_>,
    plan: &Plan,
    request: Request,
    first: usize,
    longest: usize,
    to: PathBuf,
) -> PyResult<()> {
    let state = Progress::default();
    let work = || {
        let run = request.pass(plan, &state);
        let at = (first, longest);
        calibration_pass::weigh_part(&plan.inner.model, &request.tokens, at, request.seed, &to, &run)
    };
    watched(py, work, || plan.cancel(&state), || Ok(()))
}

/// A calibration that is put together from parts. The file vanishes with the value before `finish`.
#[pyclass(frozen, module = "srd_rs._core")]
pub struct CalibrationParts {
    inner: Mutex<Option<Accumulator>>,
    /// Number of the steps.
    #[pyo3(get)]
    steps: usize,
}

#[pymethods]
impl CalibrationParts {
    #[new]
    fn new(py: Python<'_>, plan: &Plan, request: Request) -> PyResult<Self> {
        let model = &plan.inner.model;
        let shapes: Vec<_> = model.tensors.iter().map(|t| (t.name.as_str(), t.ne.as_slice())).collect();
        detached(py, || {
            request.check_output(plan)?;
            let steps = forward::steps(model)?;
            let accumulator = Accumulator::create(&shapes, request.info(), &request.output())?;
            Ok(Self { inner: Mutex::new(Some(accumulator)), steps })
        })
    }

    /// Takes the sums of the next step over all shares.
    fn take(&self, py: Python<'_>, sums: PathBuf) -> PyResult<()> {
        detached(py, || match self.inner.lock().unwrap_or_else(|p| p.into_inner()).as_mut() {
            Some(accumulator) => accumulator.take_sums(&sums),
            None => Err(complete()),
        })
    }

    /// Ends a calibration that failed.
    fn failed(&self, py: Python<'_>) {
        let accumulator = || self.inner.lock().unwrap_or_else(|p| p.into_inner()).take();
        py.detach(|| accumulator().map_or((), Accumulator::failed));
    }

    /// Completes the file.
    fn finish(&self, py: Python<'_>) -> PyResult<Calibration> {
        detached(py, || {
            let accumulator = self.inner.lock().unwrap_or_else(|p| p.into_inner()).take();
            let inner = Arc::new(accumulator.ok_or_else(complete)?.finish()?);
            Ok(Calibration { inner })
        })
    }
}

fn complete() -> Error {
    Error::usage("the calibration is complete", "Begin another one")
}

/// Cuts chunks of these lengths into at most `most` runs of about as many tokens. Each run is the number of its first chunk, and the
/// number behind its last chunk.
#[pyfunction]
pub fn runs_of_chunks(lengths: Vec<usize>, most: usize) -> Vec<(usize, usize)> {
    calibration_pass::runs(&lengths, most).into_iter().map(|run| (run.start, run.end)).collect()
}

/// `count` ids drawn uniformly from `ids`.
#[pyfunction]
pub fn random_tokens(py: Python<'_>, ids: Vec<u32>, count: usize, seed: u64) -> PyResult<Vec<u32>> {
    detached(py, || calibration_pass::random_tokens(&ids, count, seed))
}
