//! The keys that a conversion adds to the metadata of the model: how the weights were quantized, and from what.

use crate::convert::options::{Calibrated, PlanOptions};
use crate::convert::planned::PlannedTensor;
use crate::formats::gguf::values::{KeyValues, Value};

/// Key of the number of tensors that were quantized twice.
const REQUANTIZED_KEY: &str = "srd.requantized";

/// Removes the `srd.*` keys of a GGUF that is converted: they describe the conversion that made that GGUF, and anybody may
/// have written them. The count of tensors that were quantized twice stays, because the loss stays in the weights.
pub fn remove_claims(metadata: &mut KeyValues) {
    metadata.retain(|key| !key.starts_with("srd.") || key == REQUANTIZED_KEY);
}

/// Adds the keys of llama-quantize, and with provenance the `srd.*` keys. The number of tensors that were quantized twice is
/// written without provenance as well: whoever gets the file has to know of the loss.
pub fn add_keys(metadata: &mut KeyValues, options: &PlanOptions, requantized: &[&PlannedTensor]) {
    metadata.set("general.quantization_version", Value::U32(2));
    metadata.set("general.file_type", Value::U32(options.recipe.file_type()));
    if let Some(calibrated) = &options.calibrated {
        add_calibration_keys(metadata, calibrated, options.provenance.is_some());
    } else if let Some(importance) = &options.importance {
        let file = importance.path().file_name().unwrap_or_default().to_string_lossy();
        metadata.set("quantize.imatrix.file", Value::String(file.into()));
        if let Some(dataset) = importance.datasets.first() {
            metadata.set("quantize.imatrix.dataset", Value::String(dataset.clone()));
        }
        metadata.set("quantize.imatrix.entries_count", Value::U32(importance.len() as u32));
        if importance.chunks > 0 {
            metadata.set("quantize.imatrix.chunks_count", Value::U32(importance.chunks));
        }
    }
    if let Some(p) = &options.provenance {
        metadata.set("srd.version", Value::String(env!("CARGO_PKG_VERSION").into()));
        metadata.set("srd.method", Value::String(p.method.clone()));
        metadata.set("srd.seed", Value::U64(p.seed));
        metadata.set("srd.source.digest", Value::String(p.source_digest.clone()));
        if let Some(options) = &p.options {
            metadata.set("srd.options", Value::String(options.clone()));
        }
    }
    let before = metadata.get(REQUANTIZED_KEY).and_then(Value::as_u64).unwrap_or(0);
    let twice = before.max(requantized.len() as u64);
    match u32::try_from(twice).unwrap_or(u32::MAX) {
        0 => drop(metadata.remove(REQUANTIZED_KEY)),
        count => metadata.set(REQUANTIZED_KEY, Value::U32(count)),
    }
}

/// Adds the keys in which llama-quantize describes its imatrix, and with `provenance` the `srd.calibration.*` keys.
fn add_calibration_keys(metadata: &mut KeyValues, calibrated: &Calibrated, provenance: bool) {
    let count = |n: u64| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    metadata.set("quantize.imatrix.file", Value::String("srd-rs calibration".into()));
    metadata.set("quantize.imatrix.dataset", Value::String(calibrated.text.clone()));
    metadata.set("quantize.imatrix.entries_count", count(calibrated.entries));
    metadata.set("quantize.imatrix.chunks_count", count(calibrated.chunks));
    if provenance {
        metadata.set("srd.calibration.text", Value::String(calibrated.text.clone()));
        metadata.set("srd.calibration.tokens", Value::U64(calibrated.tokens));
        metadata.set("srd.calibration.digest", Value::String(calibrated.digest.clone()));
    }
}
