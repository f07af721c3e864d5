//! Plans and their runs.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::convert::options::{Calibrated, PlanOptions, Provenance, Resume, RunOptions};
use crate::convert::{asymmetric, digest, journal, measure, plan, planned, prices, run, sensitivity, shared};
use crate::error::{Error, Place, Result};
use crate::formats::calibration::Calibration;
use crate::formats::gguf::values::KeyValues;
use crate::formats::gguf::{Gguf, Value};
use crate::formats::imatrix::Importance;
use crate::formats::safetensors::{Checkpoint, Listed};
use crate::forward::{self, Rounding};
use crate::model::bound::BoundModel;
use crate::model::source::Source;
use crate::model::spec::TensorSpec;
use crate::progress::Progress;
use crate::py::calibration::Calibration as CalibrationFile;
use crate::py::errors::ToPy;
use crate::py::handover::Handover;
use crate::py::metadata;
use crate::py::options::{ConvertOptions, Facts};
use crate::py::records::{Names, Shape, record};
use crate::py::remote::{RemoteFiles, open_checkpoint};
use crate::py::sealed::SealedContainer;
use crate::py::watch::{detached, watched};
use crate::py::written::Written;
use crate::quant::budget;
use crate::quant::recipe::{ModelFacts, Overrides, Recipe};

record! {
    /// An output tensor.
    ///
    /// `shape` is GGUF's ne (row length first); `source_types` are the types of the tensors that the tensor is made of;
    /// `file` is the index of the output file, and `offset` is in bytes from the start of the file.
    PlannedTensor {
        name: String,
        shape: Shape,
        r#type: String,
        source_types: Names,
        file: usize,
        offset: u64,
        bytes: u64,
        n_weights: u64,
    }
}

record! {
    /// An output file and its exact size; `header_bytes` counts everything before the tensor data.
    PlannedFile {
        path: PathBuf,
        bytes: u64,
        header_bytes: usize,
    }

    /// The same file under another path.
    fn at(&self, path: PathBuf) -> Self {
        Self { path, ..self.clone() }
    }
}

record! {
    /// The .axm beside the GGUF: its exact size, its id, and the bytes of its residual planes.
    PlannedContainer {
        path: PathBuf,
        bytes: u64,
        id: String,
        residual_bytes: u64,
    }
}

record! {
    /// What the pass over the weights cost, and the container that was written.
    ///
    /// `seconds` is wall time, `cpu_seconds` is user and system time, `peak_rss_bytes` is the peak memory of the process;
    /// `replaced` counts weights that were made finite; `resumed_bytes` are the bytes that an interrupted run had written.
    /// `errors` has what rounding adds to the energy of the output of each tensor of the plan, as a share of this energy;
    /// None where the inputs of the tensor are not known.
    RunReport {
        seconds: f64,
        cpu_seconds: f64,
        peak_rss_bytes: u64,
        replaced: u64,
        resumed_bytes: u64,
        threads: usize,
        container: Option<SealedContainer>,
        errors: Vec<Option<f64>>,
    }
}

record! {
    /// A type that a tensor could have: the size of the tensor, and what the type adds to the energy of its output, as a
    /// share of this energy. `energy` is the mean energy of one output, and `rounding` is the error where the tensor is rounded as
    /// `sensitivity` rounds it.
    Candidate {
        r#type: String,
        bytes: u64,
        error: f64,
        energy: f64,
        rounding: f64,
    }
}

/// What the plan is made for, beside the options of the user.
struct Asked<'a> {
    output: PathBuf,
    options: ConvertOptions,
    calibration: Option<&'a Arc<Calibration>>,
    calibration_text: Option<String>,
    /// Config and tokenizer files that went into the metadata.
    files: Vec<PathBuf>,
    /// Where the model was downloaded from.
    revision: Option<String>,
}

impl Asked<'_> {
    fn plan_options(&self, headers: Vec<digest::Part>) -> Result<PlanOptions> {
        let options = &self.options;
        let importance = match self.calibration.filter(|_| !options.feedback()) {
            Some(calibration) => Some(Importance::from_calibration(calibration)?),
            None if self.calibration.is_some() => None,
            None => options.imatrix.as_deref().map(Importance::open).transpose()?,
        };
        let calibrated = match self.calibration {
            Some(calibration) => Some(Calibrated::by(calibration)),
            None => self.calibration_text.as_deref().map(Calibrated::expected),
        };
        let recorded = options.provenance || options.axm();
        let provenance = recorded.then(|| self.provenance(headers)).transpose()?;
        Ok(PlanOptions {
            recipe: options.recipe()?,
            overrides: options.overrides()?,
            importance: importance.map(Arc::new),
            calibration: self.calibration.filter(|_| options.feedback()).map(Arc::clone),
            calibrated,
            container: options.container(&self.output, provenance.as_ref())?,
            provenance: provenance.filter(|_| options.provenance),
            split_max_size: options.split_max_size,
            allow_requantize: options.allow_requantize,
            scale_channels: options.scale_channels,
            replaced: KeyValues::new(),
            inputs: self.inputs(),
            output: self.output.clone(),
        })
    }

    /// The files that are read beside the weights.
    fn inputs(&self) -> Vec<PathBuf> {
        let calibration = self.calibration.map(|c| c.path().to_path_buf());
        let given = [&self.options.imatrix, &self.options.key_file, &self.options.sign_key];
        let given = given.into_iter().flatten().cloned();
        self.files.iter().cloned().chain(given).chain(calibration).collect()
    }

    /// The plan, if every pattern and the calibration are of use: whoever gives them believes that they are.
    fn used(&self, plan: planned::Plan) -> Result<Plan> {
        plan::check_overrides(&plan, &self.options.overrides()?)?;
        let known =
            |t: &planned::PlannedTensor| t.moments.is_some() || t.made.is_some() || !t.weightings.is_empty();
        let moments = plan.tensors.iter().any(known);
        if let Some(calibration) = self.calibration.filter(|_| self.options.feedback() && !moments) {
            let what = "the calibration file knows the inputs of no tensor that is quantized";
            let fix = "Name the calibration file of this model";
            return Err(Error::model(Place::file(calibration.path()), what, fix));
        }
        Ok(Plan { inner: plan })
    }

    fn provenance(&self, mut parts: Vec<digest::Part>) -> Result<Provenance> {
        for path in &self.files {
            parts.push(digest::whole(path)?);
        }
        let sources = digest::describe(&parts)?;
        let source_digest = digest::source_digest(&sources);
        Ok(Provenance {
            method: self.options.method().into(),
            seed: self.options.seed,
            source_digest,
            options: self.options.recorded.clone(),
            sources,
            revision: self.revision.clone(),
        })
    }
}

/// Returns for each of several plans of one model, and for each token, the KLD, in nats, of the model with named matrices as the plan
/// will write them, quantized by its calibration. All other matrices stay as they are.
#[pyfunction]
#[pyo3(signature = (runs, options, tokens, progress=None))]
pub fn written_divergences(
    py: Python<'_>,
    runs: Vec<(Py<Plan>, HashSet<String>)>,
    options: ConvertOptions,
    tokens: Vec<Vec<u32>>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<Vec<f64>>> {
    let state = Progress::default();
    let tick = || match &progress {
        Some(f) => f.call1(py, (state.done(), state.total())).map(drop),
        None => Ok(()),
    };
    let (threads, max_memory) = (options.threads(), options.max_memory);
    let how = RunOptions {
        effort: options.effort(),
        allow_nonfinite: options.allow_nonfinite,
        ..RunOptions::new(threads, max_memory)
    };
    let of_plans: Vec<sensitivity::Run> =
        runs.iter().map(|(plan, names)| (&plan.get().inner, names)).collect();
    let spill_folder = of_plans.first().map_or(Path::new("."), |(plan, _)| plan.folder());
    let pass = sensitivity::Pass { threads, max_memory, spill_folder, progress: &state };
    let work = || sensitivity::written_divergences(&of_plans, &how, &tokens, &pass);
    watched(py, work, || runs.iter().for_each(|(plan, _)| plan.get().cancel(&state)), tick)
}

/// Chooses one of the `(bytes, cost)` of each item, so that the sum of the costs is least within `budget` bytes. Returns the
/// index of each choice, or the smallest possible number of bytes where that is above the budget.
#[pyfunction]
pub fn choose_within_budget(
    py: Python<'_>,
    items: Vec<Vec<(u64, f64)>>,
    budget: u64,
) -> PyResult<(Option<Vec<usize>>, u64)> {
    let choices = |item: &Vec<(u64, f64)>| {
        item.iter().map(|&(bytes, cost)| budget::Choice { bytes, cost }).collect::<Vec<_>>()
    };
    let items: Vec<_> = items.iter().map(choices).collect();
    detached(py, || match budget::choose(&items, budget) {
        Ok(chosen) => {
            let bytes = items.iter().zip(&chosen).map(|(item, &i)| item[i].bytes).sum();
            Ok((Some(chosen), bytes))
        }
        Err(smallest) => Ok((None, smallest)),
    })
}

/// Returns the name of the mix that stands for a file in which most weights have the type.
#[pyfunction]
pub fn mix_of_type(py: Python<'_>, r#type: &str) -> PyResult<&'static str> {
    Overrides::parse_type(r#type).map(|ty| Recipe::of_base(ty).map_or("F16", Recipe::name)).py(py)
}

/// An output that several machines write; see `Plan.share`. Other processes cannot write the output until `close`.
#[pyclass(frozen, module = "srd_rs._core")]
pub struct SharedOutput {
    inner: Mutex<Option<shared::Shared>>,
    /// What all machines must agree on.
    #[pyo3(get)]
    identity: String,
    /// Number and bytes of each unit that is to be written.
    #[pyo3(get)]
    pending: Vec<(usize, u64)>,
    /// Bytes that an interrupted run had written.
    #[pyo3(get)]
    resumed_bytes: u64,
}

#[pymethods]
impl SharedOutput {
    /// Notes what a machine has written: the records that `Plan.convert_units` returned.
    fn add(&self, py: Python<'_>, records: Vec<String>) -> PyResult<()> {
        detached(py, || {
            let inner = self.inner.lock().unwrap_or_else(|p| p.into_inner());
            match inner.as_ref() {
                Some(shared) => shared.add(&records),
                None => Err(Error::usage("the output is closed", "Share the plan again")),
            }
        })
    }

    /// Ends the sharing, so that `Plan.run` can complete the output. After a failure, nothing is kept where nothing is complete.
    #[pyo3(signature = (failed=false))]
    fn close(&self, py: Python<'_>, failed: bool) -> PyResult<()> {
        detached(py, || {
            let shared = self.inner.lock().unwrap_or_else(|p| p.into_inner()).take();
            if let Some(shared) = shared.filter(|_| failed) {
                shared.failed();
            }
            Ok(())
        })
    }
}

/// A planned conversion. Made by `plan_checkpoint` or `plan_gguf`; reads no weight until `run`.
#[pyclass(frozen, module = "srd_rs._core")]
pub struct Plan {
    pub(super) inner: planned::Plan,
}

/// Plans a checkpoint folder or .safetensors file.
///
/// `metadata` are (key, kind, value) triples; `tensors` is JSON: see `docs/architecture.md`; `files` are the config and
/// tokenizer files that the metadata was made from; `calibration_text` names the text of a calibration that is made later.
/// `listed` says where the tensors lie if the files are not safetensors, and `revision` where the model was downloaded from.
/// The weight files are `remote` where they are given. The tensors of each of `adapters`, which are safetensors files, are called `adapter N: NAME`, counted from 0.
#[pyfunction]
#[pyo3(signature = (path, metadata, tensors, facts, output, options, files, calibration=None, calibration_text=None, listed=None, revision=None, adapters=Vec::new(), remote=None))]
#[allow(clippy::too_many_arguments)]
pub fn plan_checkpoint(
    py: Python<'_>,
    path: PathBuf,
    metadata: &Bound<'_, PyAny>,
    tensors: &str,
    facts: Facts,
    output: PathBuf,
    options: ConvertOptions,
    files: Vec<PathBuf>,
    calibration: Option<&CalibrationFile>,
    calibration_text: Option<String>,
    listed: Option<Vec<Listed>>,
    revision: Option<String>,
    adapters: Vec<PathBuf>,
    remote: Option<&RemoteFiles>,
) -> PyResult<Plan> {
    let calibration = calibration.map(|c| &c.inner);
    let asked = Asked { output, options, calibration, calibration_text, files, revision };
    let kv = metadata::from_py(metadata)?;
    let remote = remote.map(|r| &r.inner);
    detached(py, || {
        let specs: Vec<TensorSpec> = serde_json::from_str(tensors).map_err(|e| {
            Error::usage(format!("tensors: {e}"), "This is a mistake in the model family: report it")
        })?;
        let checkpoint = match listed {
            Some(listed) => Checkpoint::from_listed(&path, listed)?,
            None => open_checkpoint(&path, remote)?,
        };
        let options = asked.plan_options(digest::checkpoint_headers(&checkpoint))?;
        let (mut source, facts) = (Source::from_checkpoint(&checkpoint), ModelFacts::from(facts));
        for (number, path) in adapters.iter().enumerate() {
            source = source.with_adapter(&Checkpoint::open(path)?, &format!("adapter {number}: "))?;
        }
        if asked.options.maps()? {
            source = source.mapped()?;
        }
        let model = BoundModel::from_checkpoint(source, &specs, kv, &facts.arch)?;
        asked.used(plan::plan(model, &facts, &options)?)
    })
}

/// Plans other types for the tensors of a GGUF, whose metadata is kept but for `replaced`, (key, kind, value) triples.
#[pyfunction]
#[pyo3(signature = (path, output, options, calibration=None, calibration_text=None, replaced=None))]
pub fn plan_gguf(
    py: Python<'_>,
    path: PathBuf,
    output: PathBuf,
    options: ConvertOptions,
    calibration: Option<&CalibrationFile>,
    calibration_text: Option<String>,
    replaced: Option<&Bound<'_, PyAny>>,
) -> PyResult<Plan> {
    let calibration = calibration.map(|c| &c.inner);
    let asked = Asked { output, options, calibration, calibration_text, files: Vec::new(), revision: None };
    let replaced = replaced.map(metadata::from_py).transpose()?.unwrap_or_default();
    detached(py, || {
        let gguf = Gguf::open(&path)?;
        let options = asked.plan_options(digest::gguf_headers(&gguf)?)?;
        asked.used(plan::plan_gguf(&gguf, &PlanOptions { replaced, ..options })?)
    })
}

/// The journal of an interrupted conversion whose first output is `target`; it need not be there.
#[pyfunction]
pub fn journal_path(target: PathBuf) -> PathBuf {
    journal::journal_path(&target)
}

/// Removes the journal of a conversion whose outputs have their names.
#[pyfunction]
pub fn forget_journal(py: Python<'_>, target: PathBuf) -> PyResult<()> {
    detached(py, || journal::forget(&target))
}

impl From<(String, String)> for Resume {
    fn from((program, options): (String, String)) -> Self {
        Self { program, options, interval: Self::INTERVAL }
    }
}

#[pymethods]
impl Plan {
    #[getter]
    fn arch(&self) -> &str {
        &self.inner.model.arch
    }

    /// Name of the mix.
    #[getter]
    fn quant(&self) -> &'static str {
        self.inner.recipe.name()
    }

    #[getter]
    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let file = |f: &planned::PlannedFile| PlannedFile {
            path: f.path.clone(),
            bytes: f.bytes,
            header_bytes: f.header.len(),
        };
        PyTuple::new(py, self.inner.files.iter().map(file).collect::<Vec<_>>())
    }

    #[getter]
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.tensors.iter().map(|t| self.describe(t)).collect::<Vec<_>>())
    }

    /// The container beside the GGUF, None where none is planned.
    #[getter]
    fn container(&self) -> Option<PlannedContainer> {
        self.inner.container.as_ref().map(|c| PlannedContainer {
            path: c.path.clone(),
            bytes: c.layout.file_bytes,
            id: c.header.container.clone(),
            residual_bytes: c
                .header
                .tensors
                .iter()
                .filter_map(|t| t.residual.as_ref())
                .map(|r| r.bytes)
                .sum(),
        })
    }

    /// Sum of the sizes of all output files, in bytes: exact.
    #[getter]
    fn total_bytes(&self) -> u64 {
        self.inner.total_bytes()
    }

    #[getter]
    fn tensor_bytes(&self) -> u64 {
        self.inner.tensor_bytes()
    }

    #[getter]
    fn source_bytes(&self) -> u64 {
        self.inner.source_bytes()
    }

    #[getter]
    fn n_weights(&self) -> u64 {
        self.inner.n_weights()
    }

    /// Bits per weight over all tensors.
    #[getter]
    fn bpw(&self) -> f64 {
        self.inner.bpw()
    }

    /// Names of the tensors that are quantized without importances, because the imatrix does not know them.
    #[getter]
    fn without_importance(&self) -> Vec<String> {
        self.inner.without_importance.clone()
    }

    /// Stacks of experts of which the imatrix knows only some, with the number of the others.
    #[getter]
    fn unseen_experts(&self) -> Vec<(String, usize)> {
        self.inner.unseen_experts.clone()
    }

    /// The digest of the model that a calibration is of: that of the key `srd.source.digest`, or another one where the channels are
    /// scaled. None where no provenance was asked for.
    #[getter]
    fn source_digest(&self) -> Option<String> {
        let digest = self.inner.model.metadata.get("srd.source.digest").and_then(Value::as_str)?;
        Some(match self.inner.scaled_channels {
            true => digest::with_scaled_channels(digest),
            false => digest.to_string(),
        })
    }

    /// Raises ModelError where the forward pass cannot run the model, so that no calibration can be made.
    fn check_runnable(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || forward::check(&self.inner.model))
    }

    /// Whether the model can be run in two streams, which effort max needs.
    fn has_two_streams(&self, py: Python<'_>) -> PyResult<bool> {
        detached(py, || forward::has_two_streams(&self.inner.model))
    }

    /// Whether the derivatives of all parts of the model are known, so that tokens can be weighed.
    fn has_gradient(&self, py: Python<'_>) -> PyResult<bool> {
        detached(py, || forward::has_gradient(&self.inner.model))
    }

    /// Names of the tensors that effort max corrects.
    #[getter]
    fn corrected(&self) -> Vec<String> {
        asymmetric::corrected(&self.inner).map(|t| t.bound.name.clone()).collect()
    }

    /// The metadata of the output as (key, kind, value), arrays in full.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        Ok(metadata::to_py(py, &self.inner.model.metadata, usize::MAX)?.0)
    }

    /// Measures the candidate `types` of each matrix whose type a mix chooses: name of the tensor -> the types that fit, the
    /// smallest first, the error of the probe of `sensitivity`, and the divergence on chunks of tokens that an error of 1 causes; None
    /// where this is not known. `small_blocks` are more types for matrices whose rows are no whole super-blocks.
    /// `progress(done, total, tensor)` counts tensors, and then the layers of a run on the tokens.
    #[pyo3(signature = (types, small_blocks, options, tokens, progress=None))]
    fn measure<'py>(
        &self,
        py: Python<'py>,
        types: Vec<String>,
        small_blocks: Vec<String>,
        options: ConvertOptions,
        tokens: Vec<Vec<u32>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let parse = |names: &[String]| -> PyResult<Vec<_>> {
            names.iter().map(|name| Overrides::parse_type(name)).collect::<Result<_>>().py(py)
        };
        let (all, small_blocks) = (parse(&types)?, parse(&small_blocks)?);
        let types = measure::Types { all: &all, small_blocks: &small_blocks };
        let overrides = options.overrides().py(py)?;
        let how =
            RunOptions { effort: options.effort(), ..RunOptions::new(options.threads(), options.max_memory) };
        let state = Progress::default();
        let tick = || match &progress {
            Some(f) => f.call1(py, (state.done(), state.total(), state.phase())).map(drop),
            None => Ok(()),
        };
        let (spill_folder, progress) = (self.inner.folder(), &state);
        let pass = sensitivity::Pass {
            threads: options.threads(),
            max_memory: options.max_memory,
            spill_folder,
            progress,
        };
        let work = || {
            let text = tokens.concat();
            let mut measured = measure::measure(&self.inner, types, &overrides, &how, &text, progress)?;
            let prices = prices::prices(&self.inner, &mut measured, &tokens, &pass)?;
            Ok((measured, prices))
        };
        let found = PyDict::new(py);
        let (measured, prices) = watched(py, work, || self.cancel(&state), tick)?;
        for measured in measured {
            let candidates = measured.candidates.iter().map(|c| Candidate {
                r#type: c.ty.name().into(),
                bytes: c.bytes,
                error: c.error,
                energy: c.energy,
                rounding: c.rounding,
            });
            let name = &self.inner.tensors[measured.index].bound.name;
            let candidates = PyTuple::new(py, candidates.collect::<Vec<_>>())?;
            found.set_item(name, (candidates, measured.probe, prices.get(name)))?;
        }
        Ok(found)
    }

    /// Returns the KLD of the model with the tensors of each group rounded, on chunks of tokens. A group maps the names of
    /// tensors to (type, share): so much of the error of the rounding stays. The type None is that of the probe, whose error `measure` gives.
    #[pyo3(signature = (groups, tokens, threads, max_memory, progress=None))]
    fn sensitivity(
        &self,
        py: Python<'_>,
        groups: Vec<HashMap<String, (Option<String>, f32)>>,
        tokens: Vec<Vec<u32>>,
        threads: usize,
        max_memory: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<f64>> {
        let state = Progress::default();
        let tick = || match &progress {
            Some(f) => f.call1(py, (state.done(), state.total())).map(drop),
            None => Ok(()),
        };
        let parse = |(name, (ty, share)): (String, (Option<String>, f32))| -> Result<_> {
            let ty = ty.map_or(Ok(measure::PROBE), |ty| Overrides::parse_type(&ty))?;
            Ok((name, Rounding { ty, share }))
        };
        let groups: Vec<sensitivity::Group> = groups
            .into_iter()
            .map(|group| group.into_iter().map(parse).collect::<Result<_>>())
            .collect::<Result<_>>()
            .py(py)?;
        let spill_folder = self.inner.folder();
        let pass = sensitivity::Pass { threads, max_memory, spill_folder, progress: &state };
        let work = || sensitivity::divergences(&self.inner.model, &groups, &tokens, &pass);
        watched(py, work, || self.cancel(&state), tick)
    }

    /// Raises UsageError where an interrupted conversion of something else has left files beside the output, as far as that can be
    /// seen before the calibration. `resume` is (program, options), or None.
    #[pyo3(signature = (options, gguf=true, resume=None))]
    fn check_resume(
        &self,
        py: Python<'_>,
        options: ConvertOptions,
        gguf: bool,
        resume: Option<(String, String)>,
    ) -> PyResult<()> {
        let how = RunOptions {
            allow_nonfinite: options.allow_nonfinite,
            overwrite: options.overwrite,
            gguf,
            effort: options.effort(),
            resume: resume.map(Resume::from),
            ..RunOptions::new(1, 1)
        };
        detached(py, || journal::check(&self.inner, &how))
    }

    /// Removes what an interrupted conversion to these outputs has left.
    fn discard(&self, py: Python<'_>, gguf: bool) -> PyResult<()> {
        let targets: Vec<_> = self.inner.targets(gguf).into_iter().cloned().collect();
        detached(py, || journal::discard_unused(&targets))
    }

    /// Makes the output of the whole size, into which several machines write with `convert_units`. `resume` is as for `run`, which
    /// completes the output.
    fn share(
        &self,
        py: Python<'_>,
        options: ConvertOptions,
        resume: (String, String),
    ) -> PyResult<SharedOutput> {
        let how = part_options(&options, resume);
        let output = detached(py, || shared::Shared::open(&self.inner, &how))?;
        Ok(SharedOutput {
            identity: output.identity.clone(),
            pending: output.pending.iter().map(|unit| (unit.number, unit.bytes)).collect(),
            resumed_bytes: output.resumed_bytes,
            inner: Mutex::new(Some(output)),
        })
    }

    /// Converts the units with these numbers into the output that `share` made with this identity, in this or in another process.
    /// Returns a record of each unit. `resume` is as for `run`.
    fn convert_units(
        &self,
        py: Python<'_>,
        options: ConvertOptions,
        resume: (String, String),
        identity: &str,
        numbers: Vec<usize>,
    ) -> PyResult<Vec<String>> {
        let how = part_options(&options, resume);
        let state = Progress::default();
        let work = || shared::convert_units(&self.inner, &how, identity, &numbers, &state);
        watched(py, work, || self.cancel(&state), || Ok(()))
    }

    /// Converts. `progress(done_bytes, total_bytes, tensor)` is called about 20 times a second with the bytes of tensor
    /// data written. False as `gguf` writes the container alone. With `against` nothing is written: what is made is compared
    /// with this GGUF. `resume` is (program, options): what an interrupted conversion with the same has left is taken, and what is
    /// complete is kept when this one is interrupted. `forget_journal` ends it. With `handover` each file is handed over when it is
    /// written; another thread has to take and return the files. `written` is what `calibrate_and_quantize` has written.
    #[pyo3(signature = (options, gguf=true, progress=None, against=None, resume=None, handover=None, written=None))]
    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        py: Python<'_>,
        options: ConvertOptions,
        gguf: bool,
        progress: Option<Py<PyAny>>,
        against: Option<PathBuf>,
        resume: Option<(String, String)>,
        handover: Option<&Handover>,
        written: Option<&Written>,
    ) -> PyResult<RunReport> {
        let sealed = self.inner.container.is_some() && against.is_none();
        let keys = sealed.then(|| detached(py, || options.signing().load())).transpose()?;
        let how = RunOptions {
            threads: options.threads(),
            max_memory: options.max_memory.max(1),
            allow_nonfinite: options.allow_nonfinite,
            overwrite: options.overwrite,
            key: keys.as_ref().map(|k| &k.0),
            sign_key: keys.as_ref().and_then(|k| k.2.as_ref()),
            gguf,
            effort: options.effort(),
            against: against.as_deref(),
            handover: handover.map(|h| &h.inner),
            resume: resume.map(Resume::from),
            written: written.map(|w| &w.inner),
        };
        let state = Progress::default();
        let total = self.inner.tensor_bytes();
        let tick = || match &progress {
            Some(f) => f.call1(py, (state.done(), total, state.phase())).map(drop),
            None => Ok(()),
        };
        let report = watched(py, || run::run(&self.inner, &how, &state), || self.cancel(&state), tick)?;
        if let Some(f) = &progress {
            f.call1(py, (total, total, ""))?;
        }
        Ok(RunReport {
            seconds: report.seconds,
            cpu_seconds: report.cpu_seconds,
            peak_rss_bytes: report.peak_rss_bytes,
            replaced: report.replaced,
            resumed_bytes: report.resumed_bytes,
            threads: report.threads,
            container: report.container.map(|c| SealedContainer::new(c, keys.as_ref().map(|k| &k.1))),
            errors: report.errors,
        })
    }
}

/// How a part of a GGUF is converted.
pub(super) fn part_options(options: &ConvertOptions, resume: (String, String)) -> RunOptions<'static> {
    RunOptions {
        allow_nonfinite: options.allow_nonfinite,
        overwrite: options.overwrite,
        effort: options.effort(),
        resume: Some(Resume::from(resume)),
        ..RunOptions::new(options.threads(), options.max_memory.max(1))
    }
}

impl Plan {
    /// Ends a run of the plan, also while it waits for a server.
    pub(super) fn cancel(&self, state: &Progress) {
        state.cancel();
        self.inner.model.source.cancel();
    }

    fn describe(&self, tensor: &planned::PlannedTensor) -> PlannedTensor {
        let mut types = Vec::new();
        tensor.bound.source.for_each_source(&mut |i| {
            let name = self.inner.model.source.encoding(i).name().to_string();
            if !types.contains(&name) {
                types.push(name);
            }
        });
        PlannedTensor {
            name: tensor.bound.name.clone(),
            shape: Shape(tensor.bound.ne.clone()),
            r#type: tensor.ty.name().to_string(),
            source_types: Names(types),
            file: tensor.file,
            offset: tensor.offset,
            bytes: tensor.bytes,
            n_weights: tensor.bound.ne.iter().product(),
        }
    }
}
