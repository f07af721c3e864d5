//! PyO3: typed options in, typed results out; nothing else.

mod axm;
mod calibrate;
mod calibration;
mod convert;
mod errors;
mod files;
mod forward;
mod handover;
mod inspect;
mod met;
mod metadata;
mod options;
mod quant;
mod records;
mod remote;
mod sealed;
mod watch;
mod written;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::dtype::GgmlType;
use crate::feedback;
use crate::formats::safetensors::{MAX_INDEX, VARIANTS};
use crate::met::policy::Intent;
use crate::met::sidecar::{Part, TABLES};
use crate::model::check::ROPE_SCALINGS;
use crate::quant::recipe::{PER_LAYER_TABLE, Recipe};
use crate::quant::weighs;

/// The mix that a conversion writes by default.
const DEFAULT_MIX: Recipe = Recipe::Q4_K_M;
/// Bytes of weights that a conversion keeps in memory by default.
const DEFAULT_MAX_MEMORY: u64 = 512 << 20;
/// Bytes of weights and activations that a calibration keeps in memory by default.
const DEFAULT_CALIBRATION_MEMORY: u64 = 1 << 30;

/// The native half of the `srd_rs` package.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    watch::keep_panics();
    errors::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    lists(module)?;
    module.add_class::<convert::Candidate>()?;
    module.add_class::<convert::Plan>()?;
    module.add_class::<convert::PlannedContainer>()?;
    module.add_class::<convert::PlannedFile>()?;
    module.add_class::<convert::PlannedTensor>()?;
    module.add_class::<convert::RunReport>()?;
    module.add_class::<convert::SharedOutput>()?;
    module.add_class::<written::Written>()?;
    module.add_class::<axm::Container>()?;
    module.add_class::<axm::ContainerHeader>()?;
    module.add_class::<axm::ContainerTensor>()?;
    module.add_class::<sealed::SealedContainer>()?;
    module.add_class::<axm::Verification>()?;
    module.add_class::<calibration::CalibratedTensor>()?;
    module.add_class::<calibration::Calibration>()?;
    module.add_class::<calibrate::CalibrationParts>()?;
    module.add_class::<handover::Handover>()?;
    module.add_class::<met::Hydration>()?;
    module.add_class::<met::Hydrator>()?;
    module.add_class::<met::Residency>()?;
    module.add_class::<remote::RemoteFiles>()?;
    module.add_function(wrap_pyfunction!(axm::make_master_key, module)?)?;
    module.add_function(wrap_pyfunction!(axm::make_sign_key, module)?)?;
    module.add_function(wrap_pyfunction!(axm::open_container, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::calibrate, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::calibrate_and_quantize, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::calibrate_part, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::weigh_part, module)?)?;
    module.add_function(wrap_pyfunction!(calibration::is_calibration, module)?)?;
    module.add_function(wrap_pyfunction!(calibration::open_calibration, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::random_tokens, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::runs_of_chunks, module)?)?;
    module.add_function(wrap_pyfunction!(convert::choose_within_budget, module)?)?;
    module.add_function(wrap_pyfunction!(convert::forget_journal, module)?)?;
    module.add_function(wrap_pyfunction!(convert::journal_path, module)?)?;
    module.add_function(wrap_pyfunction!(convert::mix_of_type, module)?)?;
    module.add_function(wrap_pyfunction!(convert::plan_checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(convert::plan_gguf, module)?)?;
    module.add_function(wrap_pyfunction!(convert::written_divergences, module)?)?;
    module.add_function(wrap_pyfunction!(files::content_digest, module)?)?;
    module.add_function(wrap_pyfunction!(files::file_identity, module)?)?;
    module.add_function(wrap_pyfunction!(files::file_sha256, module)?)?;
    module.add_function(wrap_pyfunction!(files::write_file, module)?)?;
    module.add_function(wrap_pyfunction!(forward::forward_architectures, module)?)?;
    module.add_function(wrap_pyfunction!(forward::forward_logits, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::check_gguf_model, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::first_part, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::part_path, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::read_checkpoint_layout, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::read_gguf, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::read_small_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(met::met_check, module)?)?;
    module.add_function(wrap_pyfunction!(met::met_sidecar, module)?)?;
    module.add_function(wrap_pyfunction!(met::sidecar_path, module)?)?;
    module.add_function(wrap_pyfunction!(options::cpus, module)?)?;
    module.add_function(wrap_pyfunction!(watch::panic_for_tests, module)?)?;
    module.add_function(wrap_pyfunction!(quant::dequantize, module)?)?;
    module.add_function(wrap_pyfunction!(quant::instruction_sets, module)?)?;
    module.add_function(wrap_pyfunction!(quant::quantizable_types, module)?)?;
    module.add_function(wrap_pyfunction!(quant::readable_types, module)?)?;
    module.add_function(wrap_pyfunction!(quant::quantize, module)?)?;
    module.add_function(wrap_pyfunction!(quant::quantize_calibrated, module)?)
}

/// What the crate knows, so that the package does not write it again.
fn lists(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let mixes = Recipe::all().map(|r| (r.name(), r.file_type()));
    module.add("MIXES", PyTuple::new(py, mixes.collect::<Vec<_>>())?)?;
    module.add("DEFAULT_MIX", DEFAULT_MIX.name())?;
    let with_feedback =
        (0..256).filter_map(GgmlType::from_id).filter(|&ty| feedback::supports(ty)).map(GgmlType::name);
    module.add("FEEDBACK_TYPES", PyTuple::new(py, with_feedback.collect::<Vec<_>>())?)?;
    let weighed = (0..256).filter_map(GgmlType::from_id).filter(|&ty| weighs(ty)).map(GgmlType::name);
    module.add("WEIGHED_TYPES", PyTuple::new(py, weighed.collect::<Vec<_>>())?)?;
    module.add("INTENTS", PyTuple::new(py, Intent::ALL.map(Intent::name))?)?;
    module.add("PARTS", PyTuple::new(py, Part::all().map(Part::name).collect::<Vec<_>>())?)?;
    module.add("PER_LAYER_TABLE", PER_LAYER_TABLE)?;
    module.add("TABLES", PyTuple::new(py, TABLES)?)?;
    module.add("WEIGHT_VARIANTS", PyTuple::new(py, VARIANTS)?)?;
    module.add("MAX_INDEX_BYTES", MAX_INDEX)?;
    module.add("MAX_WEIGHED_CHUNK", crate::forward::MAX_CHUNK)?;
    module.add("WEIGHING_BATCHES", crate::calibrate::BATCHES)?;
    module.add("WEIGHING_PASSES", crate::calibrate::PASSES)?;
    module.add("ROPE_SCALINGS", PyTuple::new(py, ROPE_SCALINGS)?)?;
    module.add("DEFAULT_MAX_MEMORY", DEFAULT_MAX_MEMORY)?;
    module.add("DEFAULT_CALIBRATION_MEMORY", DEFAULT_CALIBRATION_MEMORY)
}
