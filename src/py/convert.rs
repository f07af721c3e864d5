//! Plans and their runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::json;

use crate::convert::digest;
use crate::convert::pipeline::{self, Progress, RunOptions};
use crate::convert::plan::{self, PlanOptions, Provenance};
use crate::convert::source::Source;
use crate::convert::spec::TensorSpec;
use crate::error::{Error, Result};
use crate::formats::gguf::GgufFile;
use crate::formats::safetensors::Checkpoint;
use crate::py::errors::ToPy;
use crate::py::metadata;
use crate::quant::recipe::{ModelFacts, Overrides, Recipe};
use crate::srd::importance::Importance;

/// How often the waiting thread looks at signals and reports progress.
const TICK: Duration = Duration::from_millis(50);

/// `options` of the plan functions, as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    output: PathBuf,
    quant: String,
    #[serde(default)]
    tensor_types: Vec<String>,
    token_embedding_type: Option<String>,
    output_tensor_type: Option<String>,
    #[serde(default)]
    pure: bool,
    split_max_size: Option<u64>,
    imatrix: Option<PathBuf>,
    provenance: Option<ProvenanceOptions>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProvenanceOptions {
    method: String,
    seed: u64,
    /// Config and tokenizer files that went into the metadata.
    files: Vec<PathBuf>,
}

impl Options {
    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|e| Error::usage(format!("options: {e}"), "Check the arguments of the call"))
    }

    fn plan_options(&self, headers: Vec<digest::Part>) -> Result<PlanOptions> {
        let recipe = Recipe::from_name(&self.quant).ok_or_else(|| {
            let known: Vec<_> = Recipe::all().map(Recipe::name).collect();
            Error::usage(
                format!("'{}' is no known mix", self.quant),
                format!("Use one of {}", known.join(", ")),
            )
        })?;
        let ty = |name: &Option<String>| name.as_deref().map(Overrides::parse_type).transpose();
        let overrides = Overrides {
            tensor_type: self
                .tensor_types
                .iter()
                .map(|t| Overrides::parse_tensor_type(t))
                .collect::<Result<_>>()?,
            token_embedding: ty(&self.token_embedding_type)?,
            output_tensor: ty(&self.output_tensor_type)?,
            pure: self.pure,
        };
        let importance = self.imatrix.as_deref().map(Importance::open).transpose()?.map(Arc::new);
        let provenance = self.provenance.as_ref().map(|p| provenance(p, headers)).transpose()?;
        Ok(PlanOptions {
            output: self.output.clone(),
            recipe,
            overrides,
            provenance,
            importance,
            split_max_size: self.split_max_size,
        })
    }
}

fn provenance(options: &ProvenanceOptions, mut parts: Vec<digest::Part>) -> Result<Provenance> {
    parts.extend(options.files.iter().map(|p| digest::Part { path: p.clone(), header_bytes: None }));
    let source_digest = digest::source_digest(&parts)?;
    Ok(Provenance { method: options.method.clone(), seed: options.seed, source_digest })
}

fn parse_facts(text: &str) -> Result<ModelFacts> {
    serde_json::from_str(text).map_err(|e| Error::usage(format!("facts: {e}"), "Report this"))
}

/// A planned conversion. Made by `plan_checkpoint` or `plan_gguf`; reads no weight until `run`.
#[pyclass(frozen)]
pub struct Plan {
    inner: plan::Plan,
}

/// Plans a checkpoint folder or .safetensors file.
///
/// `metadata`: (key, kind, value) triples; `tensors`, `facts` and `options` JSON: see `docs/architecture.md`.
#[pyfunction]
pub fn plan_checkpoint(
    py: Python<'_>,
    path: PathBuf,
    metadata: &Bound<'_, PyAny>,
    tensors: &str,
    facts: &str,
    options: &str,
) -> PyResult<Plan> {
    let kv = metadata::from_py(metadata)?;
    let build = || {
        let options = Options::parse(options)?;
        let specs: Vec<TensorSpec> = serde_json::from_str(tensors).map_err(|e| {
            Error::usage(format!("tensors: {e}"), "This is a mistake in the model family: report it")
        })?;
        let checkpoint = Checkpoint::open(&path)?;
        let headers = digest::checkpoint_headers(&checkpoint);
        let source = Source::from_checkpoint(&checkpoint)?;
        let inner =
            plan::plan_checkpoint(source, &specs, kv, &parse_facts(facts)?, &options.plan_options(headers)?)?;
        Ok(Plan { inner })
    };
    py.detach(build).py(py)
}

/// Plans other types for a GGUF's tensors. Its metadata is kept.
#[pyfunction]
pub fn plan_gguf(py: Python<'_>, path: PathBuf, options: &str) -> PyResult<Plan> {
    let build = || {
        let options = Options::parse(options)?;
        let gguf = GgufFile::open(&path)?;
        let header = digest::Part { path: path.clone(), header_bytes: Some(gguf.header.data_offset) };
        let inner = plan::plan_gguf(&gguf, &options.plan_options(vec![header])?)?;
        Ok(Plan { inner })
    };
    py.detach(build).py(py)
}

#[pymethods]
impl Plan {
    /// Sum of the sizes of all output files, in bytes: exact.
    #[getter]
    fn total_bytes(&self) -> u64 {
        self.inner.total_bytes()
    }

    /// JSON: arch, quant, files, tensors (name, ne, type, source types, file, offset, bytes), totals.
    fn to_json(&self) -> String {
        describe(&self.inner).to_string()
    }

    /// Converts. `progress(done_bytes, total_bytes, tensor)` is called about 20 times a second with the
    /// bytes of tensor data written. Returns the report as JSON.
    #[pyo3(signature = (threads, max_memory, allow_nonfinite, overwrite, progress=None))]
    fn run(
        &self,
        py: Python<'_>,
        threads: usize,
        max_memory: u64,
        allow_nonfinite: bool,
        overwrite: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let options = RunOptions { threads, max_memory, allow_nonfinite, overwrite };
        let state = Progress::default();
        let total = self.inner.tensor_bytes();
        let report = std::thread::scope(|scope| {
            let worker = scope.spawn(|| pipeline::run(&self.inner, &options, &state));
            let mut raised = None;
            while !worker.is_finished() {
                py.detach(|| wait(&worker));
                let tick = py.check_signals().and_then(|()| match &progress {
                    Some(f) => f.call1(py, self.tick(&state, total)).map(drop),
                    None => Ok(()),
                });
                if let Err(e) = tick {
                    state.cancel();
                    raised = Some(e);
                    break;
                }
            }
            let result = py.detach(|| worker.join());
            match (raised, result) {
                // The file may have been completed before the interruption was seen: then it is there.
                (Some(e), _) => Err(e),
                (None, Ok(result)) => result.py(py),
                (None, Err(panic)) => std::panic::resume_unwind(panic),
            }
        })?;
        if let Some(f) = &progress {
            f.call1(py, (total, total, ""))?;
        }
        Ok(serde_json::to_string(&report).expect("a report is plain data"))
    }
}

impl Plan {
    fn tick(&self, state: &Progress, total: u64) -> (u64, u64, String) {
        let name = self.inner.tensors.get(state.tensor()).map_or("", |t| &t.name);
        (state.done_bytes(), total, name.to_string())
    }
}

/// Sleeps for a tick, or until the worker is done.
fn wait<T>(worker: &std::thread::ScopedJoinHandle<'_, T>) {
    let end = Instant::now() + TICK;
    while !worker.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn describe(plan: &plan::Plan) -> serde_json::Value {
    let tensors: Vec<_> = plan
        .tensors
        .iter()
        .map(|t| {
            let mut types = Vec::new();
            t.source.for_each_source(&mut |i| {
                let name = plan.source.encoding(i).name().to_string();
                if !types.contains(&name) {
                    types.push(name);
                }
            });
            json!({"name": t.name, "shape": t.ne, "type": t.ty.name(), "source_types": types,
                   "file": t.file, "offset": t.offset, "bytes": t.bytes})
        })
        .collect();
    let files: Vec<_> = plan
        .files
        .iter()
        .map(|f| json!({"path": f.path, "bytes": f.bytes, "header_bytes": f.header.len()}))
        .collect();
    json!({
        "arch": plan.arch, "quant": plan.recipe.name(), "files": files, "tensors": tensors,
        "total_bytes": plan.total_bytes(), "tensor_bytes": plan.tensor_bytes(),
        "source_bytes": plan.source_bytes(), "n_weights": plan.n_weights(), "bpw": plan.bpw(),
    })
}
