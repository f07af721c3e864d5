//! Plans and their runs.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyList;
use serde::Deserialize;
use serde_json::json;

use crate::convert::options::{Calibrated, ContainerOptions, Effort, PlanOptions, Provenance, RunOptions};
use crate::convert::{digest, plan, planned, run};
use crate::error::{Error, Result};
use crate::formats::calibration::Calibration;
use crate::formats::gguf::{Gguf, Value};
use crate::formats::imatrix::Importance;
use crate::formats::safetensors::Checkpoint;
use crate::model::bound::BoundModel;
use crate::model::source::Source;
use crate::model::spec::TensorSpec;
use crate::progress::Progress;
use crate::py::axm::{Signing, origin_json};
use crate::py::calibrate::Calibration as CalibrationFile;
use crate::py::errors::ToPy;
use crate::py::metadata;
use crate::py::watch::watched;
use crate::quant::recipe::{ModelFacts, Overrides, Recipe};
use crate::quant::residual::Bits;

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
    /// Text of a calibration that is still to be made: a dry run needs to know its name.
    calibration_text: Option<String>,
    /// Use second moments; otherwise a calibration's diagonals alone weigh the errors.
    #[serde(default)]
    feedback: bool,
    provenance: Option<ProvenanceOptions>,
    container: Option<ContainerJson>,
    #[serde(default)]
    allow_requantize: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContainerJson {
    path: PathBuf,
    /// 2, 3 or 4; none for no residual planes.
    residual_bits: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProvenanceOptions {
    method: String,
    seed: u64,
    /// Config and tokenizer files that went into the metadata.
    files: Vec<PathBuf>,
    /// Whether the GGUF gets the `srd.*` keys; a container always records its provenance.
    keys: bool,
}

impl Options {
    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|e| Error::usage(format!("options: {e}"), "Check the arguments of the call"))
    }

    fn plan_options(
        &self,
        headers: Vec<digest::Part>,
        calibration: Option<&Arc<Calibration>>,
    ) -> Result<PlanOptions> {
        let recipe = parse_recipe(&self.quant)?;
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
        let importance = match calibration.filter(|_| !self.feedback) {
            Some(calibration) => Some(Importance::from_calibration(calibration)?),
            None => self.imatrix.as_deref().map(Importance::open).transpose()?,
        };
        let calibrated = match calibration {
            Some(calibration) => Some(Calibrated::by(calibration)),
            None => self.calibration_text.as_deref().map(Calibrated::expected),
        };
        let provenance = self.provenance.as_ref().map(|p| provenance(p, headers)).transpose()?;
        Ok(PlanOptions {
            output: self.output.clone(),
            recipe,
            overrides,
            importance: importance.map(Arc::new),
            calibration: calibration.filter(|_| self.feedback).map(Arc::clone),
            calibrated,
            container: container(self.container.as_ref(), provenance.as_ref())?,
            provenance: provenance.filter(|_| self.provenance.as_ref().is_some_and(|p| p.keys)),
            split_max_size: self.split_max_size,
            allow_requantize: self.allow_requantize,
            inputs: self.inputs(calibration),
        })
    }
}

impl Options {
    /// The files that are read beside the weights.
    fn inputs(&self, calibration: Option<&Arc<Calibration>>) -> Vec<PathBuf> {
        let files = self.provenance.iter().flat_map(|p| p.files.clone());
        files.chain(self.imatrix.clone()).chain(calibration.map(|c| c.path().to_path_buf())).collect()
    }
}

fn provenance(options: &ProvenanceOptions, mut parts: Vec<digest::Part>) -> Result<Provenance> {
    parts.extend(options.files.iter().map(|p| digest::Part { path: p.clone(), header_bytes: None }));
    let sources = digest::describe(&parts)?;
    let source_digest = digest::source_digest(&sources);
    Ok(Provenance { method: options.method.clone(), seed: options.seed, source_digest, sources })
}

fn container(
    options: Option<&ContainerJson>,
    provenance: Option<&Provenance>,
) -> Result<Option<ContainerOptions>> {
    let Some(options) = options else { return Ok(None) };
    let bits = |n: u64| {
        Bits::new(n)
            .ok_or_else(|| Error::usage(format!("{n} is no width of a residual"), "Use 2, 3 or 4 bits"))
    };
    let residual = options.residual_bits.map(bits).transpose()?;
    let provenance =
        provenance.ok_or_else(|| Error::usage("a container needs its provenance", "Report this"))?;
    Ok(Some(ContainerOptions { path: options.path.clone(), residual, provenance: provenance.clone() }))
}

pub(super) fn parse_recipe(name: &str) -> Result<Recipe> {
    Recipe::from_name(name).ok_or_else(|| {
        let known: Vec<_> = Recipe::all().map(Recipe::name).collect();
        Error::usage(format!("'{name}' is no known mix"), format!("Use one of {}", known.join(", ")))
    })
}

fn parse_effort(text: &str) -> Result<Effort> {
    let fix = "See srd_rs.convert for what it takes";
    serde_json::from_str(text).map_err(|e| Error::usage(format!("srd_options: {e}"), fix))
}

fn parse_facts(text: &str) -> Result<ModelFacts> {
    serde_json::from_str(text).map_err(|e| Error::usage(format!("facts: {e}"), "Report this"))
}

/// A planned conversion. Made by `plan_checkpoint` or `plan_gguf`; reads no weight until `run`.
#[pyclass(frozen)]
pub struct Plan {
    pub(super) inner: planned::Plan,
}

/// Plans a checkpoint folder or .safetensors file.
///
/// `metadata`: (key, kind, value) triples; `tensors`, `facts` and `options` JSON: see `docs/architecture.md`.
#[pyfunction]
#[pyo3(signature = (path, metadata, tensors, facts, options, calibration=None))]
pub fn plan_checkpoint(
    py: Python<'_>,
    path: PathBuf,
    metadata: &Bound<'_, PyAny>,
    tensors: &str,
    facts: &str,
    options: &str,
    calibration: Option<&CalibrationFile>,
) -> PyResult<Plan> {
    let calibration = calibration.map(|c| &c.inner);
    let kv = metadata::from_py(metadata)?;
    let build = || {
        let options = Options::parse(options)?;
        let specs: Vec<TensorSpec> = serde_json::from_str(tensors).map_err(|e| {
            Error::usage(format!("tensors: {e}"), "This is a mistake in the model family: report it")
        })?;
        let checkpoint = Checkpoint::open(&path)?;
        let headers = digest::checkpoint_headers(&checkpoint);
        let options = options.plan_options(headers, calibration)?;
        let (source, facts) = (Source::from_checkpoint(&checkpoint)?, parse_facts(facts)?);
        let model = BoundModel::from_checkpoint(source, &specs, kv, &facts.arch)?;
        let inner = plan::plan(model, &facts, &options)?;
        Ok(Plan { inner })
    };
    py.detach(build).py(py)
}

/// Plans other types for a GGUF's tensors. Its metadata is kept.
#[pyfunction]
#[pyo3(signature = (path, options, calibration=None))]
pub fn plan_gguf(
    py: Python<'_>,
    path: PathBuf,
    options: &str,
    calibration: Option<&CalibrationFile>,
) -> PyResult<Plan> {
    let calibration = calibration.map(|c| &c.inner);
    let build = || {
        let options = Options::parse(options)?;
        let gguf = Gguf::open(&path)?;
        let inner = plan::plan_gguf(&gguf, &options.plan_options(digest::gguf_headers(&gguf), calibration)?)?;
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

    /// The model's digest, as the key `srd.source.digest` has it; none where no provenance was asked for.
    #[getter]
    fn source_digest(&self) -> Option<&str> {
        self.inner.model.metadata.get("srd.source.digest").and_then(Value::as_str)
    }

    /// The output's metadata as (key, kind, value), arrays in full.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        Ok(metadata::to_py(py, &self.inner.model.metadata, usize::MAX)?.0)
    }

    /// JSON: arch, quant, files, tensors (name, ne, type, source types, file, offset, bytes), totals.
    fn to_json(&self) -> String {
        describe(&self.inner).to_string()
    }

    /// Converts. `progress(done_bytes, total_bytes, tensor)` is called about 20 times a second with the
    /// bytes of tensor data written. `signing` is JSON and needed where a container is planned; `gguf`
    /// false writes the container alone. `effort` is JSON of `convert::options::Effort`. Returns the report as JSON.
    #[pyo3(signature = (threads, max_memory, allow_nonfinite, overwrite, progress=None, signing=None, gguf=true, effort=None))]
    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        py: Python<'_>,
        threads: usize,
        max_memory: u64,
        allow_nonfinite: bool,
        overwrite: bool,
        progress: Option<Py<PyAny>>,
        signing: Option<&str>,
        gguf: bool,
        effort: Option<&str>,
    ) -> PyResult<String> {
        let signing = signing.map(|s| Signing::parse(s)?.load()).transpose().py(py)?;
        let effort = effort.map_or_else(|| Ok(Effort::default()), parse_effort).py(py)?;
        let options = RunOptions {
            threads,
            max_memory,
            allow_nonfinite,
            overwrite,
            key: signing.as_ref().map(|s| &s.0),
            sign_key: signing.as_ref().and_then(|s| s.2.as_ref()),
            gguf,
            effort,
        };
        let state = Progress::default();
        let total = self.inner.tensor_bytes();
        let tick = || match &progress {
            Some(f) => f.call1(py, (state.done(), total, state.phase())).map(drop),
            None => Ok(()),
        };
        let work = || run::run(&self.inner, &options, &state);
        let report = watched(py, work, || state.cancel(), tick)?;
        if let Some(f) = &progress {
            f.call1(py, (total, total, ""))?;
        }
        let mut report = serde_json::to_value(&report).expect("a report is plain data");
        report["key"] = signing.as_ref().map_or(serde_json::Value::Null, |s| origin_json(&s.1));
        Ok(report.to_string())
    }
}

fn describe(plan: &planned::Plan) -> serde_json::Value {
    let tensors: Vec<_> = plan
        .tensors
        .iter()
        .map(|t| {
            let mut types = Vec::new();
            t.bound.source.for_each_source(&mut |i| {
                let name = plan.model.source.encoding(i).name().to_string();
                if !types.contains(&name) {
                    types.push(name);
                }
            });
            json!({"name": t.bound.name, "shape": t.bound.ne, "type": t.ty.name(), "source_types": types,
                   "file": t.file, "offset": t.offset, "bytes": t.bytes})
        })
        .collect();
    let files: Vec<_> = plan
        .files
        .iter()
        .map(|f| json!({"path": f.path, "bytes": f.bytes, "header_bytes": f.header.len()}))
        .collect();
    let container = plan.container.as_ref().map(|c| {
        let residual: u64 =
            c.header.tensors.iter().filter_map(|t| t.residual.as_ref()).map(|r| r.bytes).sum();
        json!({"path": c.path, "bytes": c.layout.file_bytes, "id": c.header.container,
               "residual_bytes": residual})
    });
    json!({
        "container": container,
        "without_importance": plan.without_importance,
        "arch": plan.model.arch, "quant": plan.recipe.name(), "files": files, "tensors": tensors,
        "total_bytes": plan.total_bytes(), "tensor_bytes": plan.tensor_bytes(),
        "source_bytes": plan.source_bytes(), "n_weights": plan.n_weights(), "bpw": plan.bpw(),
    })
}
