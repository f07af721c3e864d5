//! Which type every tensor of the output has. The plan is complete before a weight is read.

use std::path::Path;
use std::sync::Arc;

use crate::convert::options::PlanOptions;
use crate::convert::planned::{Plan, PlannedTensor};
use crate::convert::{layout, metadata};
use crate::dtype::{GgmlType, SourceType};
use crate::error::{Error, Place, Result};
use crate::formats::gguf::GgufFile;
use crate::formats::gguf::values::{Array, KeyValues, Value};
use crate::model::bound::{BoundModel, BoundTensor};
use crate::model::source::{Encoding, Source};
use crate::quant;
use crate::quant::recipe::{self, ModelFacts, Recipe, TensorInfo};

/// Plans other types for the tensors of a GGUF. The metadata of the GGUF is kept.
///
/// # Errors
/// [`Error::Model`] when the type of a tensor cannot be read or the metadata does not describe a model.
pub fn plan_gguf(gguf: &GgufFile, options: &PlanOptions) -> Result<Plan> {
    let model = BoundModel::from_gguf(gguf)?;
    let facts = facts_of(&model.metadata, &gguf.path)?;
    plan(model, &facts, options)
}

/// Plans the type, file and offset of every tensor of a model.
///
/// # Errors
/// [`Error::Model`] when a tensor cannot have the type that it should have.
pub fn plan(mut model: BoundModel, facts: &ModelFacts, options: &PlanOptions) -> Result<Plan> {
    sort_as_file(&mut model)?;
    let stored: Vec<_> =
        model.tensors.iter().map(|t| unquantized_type(t, &model.source, options.recipe)).collect();
    let infos = model.tensors.iter().zip(stored);
    let infos: Vec<_> = infos.map(|(t, stored)| TensorInfo { name: &t.name, ne: &t.ne, stored }).collect();
    let types = recipe::assign(options.recipe, facts, &options.overrides, &infos)?;
    metadata::add_keys(&mut model.metadata, options);

    let mut tensors = Vec::with_capacity(model.tensors.len());
    for (bound, ty) in model.tensors.iter().zip(types) {
        let mut tensor = planned(bound, ty, &model.source)?;
        if let Some(importance) = options.importance.as_ref().filter(|_| ty.block_len() > 1) {
            tensor.importance = importance.of(&bound.name, &bound.ne)?.map(<[f32]>::to_vec);
        }
        if let Some(calibration) = options.calibration.as_ref().filter(|_| ty.block_len() > 1) {
            tensor.moments = calibration.of(&bound.name, &bound.ne)?;
        }
        tensors.push(tensor);
    }
    let (files, container) = layout::lay_out(&mut tensors, &model.metadata, &facts.arch, options)?;
    Ok(Plan { model, recipe: options.recipe, tensors, files, container })
}

/// Reads what the mix needs to know from the metadata of a GGUF.
///
/// # Errors
/// [`Error::Model`] when the metadata does not describe a model.
pub(super) fn facts_of(kv: &KeyValues, path: &Path) -> Result<ModelFacts> {
    let missing = |key: &str| {
        let fix = "Convert a GGUF that holds a model, or the checkpoint it was made from";
        Error::model(Place::file(path), format!("the metadata has no valid '{key}'"), fix)
    };
    let arch = kv
        .get("general.architecture")
        .and_then(Value::as_str)
        .ok_or_else(|| missing("general.architecture"))?;
    let number = |key: &str| kv.get(&format!("{arch}.{key}"));
    let n_layer = number("block_count")
        .and_then(Value::as_u64)
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| missing("block_count"))?;
    Ok(ModelFacts {
        arch: arch.to_string(),
        n_layer,
        n_expert: number("expert_count").map(per_layer).and_then(|v| v.first().copied()).unwrap_or(0),
        n_head: number("attention.head_count").map(per_layer).and_then(|v| v.first().copied()).unwrap_or(0),
        n_head_kv: number("attention.head_count_kv").map(per_layer).unwrap_or_default(),
    })
}

/// Reads a count that is given once or for each layer.
fn per_layer(value: &Value) -> Vec<u32> {
    match value {
        Value::Array(Array::U32(v)) => v.clone(),
        Value::Array(Array::I32(v)) => v.iter().map(|&n| n.max(0) as u32).collect(),
        other => other.as_u64().and_then(|n| u32::try_from(n).ok()).into_iter().collect(),
    }
}

/// Returns the type of a tensor that is not quantized. The mixes F32, F16 and BF16 name the type themselves. For the other
/// mixes the type is F16 if the source tensors are F16, else BF16, as for `--outtype auto` of llama.cpp's converter.
pub(super) fn unquantized_type(tensor: &BoundTensor, source: &Source, recipe: Recipe) -> GgmlType {
    match (tensor.stored, recipe) {
        (Some(stored), _) => return stored,
        (None, Recipe::F32) => return GgmlType::F32,
        (None, Recipe::F16) => return GgmlType::F16,
        (None, Recipe::BF16) => return GgmlType::BF16,
        _ => {}
    }
    let mut all_f16 = true;
    tensor.source.for_each_source(&mut |i| {
        all_f16 &= *source.encoding(i) == Encoding::Element(SourceType::F16);
    });
    if all_f16 { GgmlType::F16 } else { GgmlType::BF16 }
}

/// Sorts the tensors as llama-quantize does: the tensors that belong to no layer first, then layer by layer, so that the
/// weights of a layer lie together.
///
/// # Errors
/// [`Error::Model`] when two tensors have one name.
pub(super) fn sort_as_file(model: &mut BoundModel) -> Result<()> {
    let names: Vec<&str> = model.tensors.iter().map(|t| t.name.as_str()).collect();
    let order = recipe::layered_order(&names);
    if let Some(twice) = order.windows(2).find(|w| names[w[0]] == names[w[1]]) {
        return Err(Error::model(
            Place::named_tensor(names[twice[0]]),
            "is produced twice",
            "This is a mistake in the model family: please report it",
        ));
    }
    model.tensors = order.into_iter().map(|i| Arc::clone(&model.tensors[i])).collect();
    Ok(())
}

/// Gives a tensor the type `ty`. The bytes of the source are copied where they are of this type already.
///
/// # Errors
/// [`Error::Model`] when the type cannot be written or does not fit the shape.
pub(super) fn planned(bound: &Arc<BoundTensor>, ty: GgmlType, source: &Source) -> Result<PlannedTensor> {
    let place = || Place::file(source.path()).tensor(&bound.name);
    let same = bound.source.as_source().filter(|&i| source.encoding(i).as_ggml() == Some(ty));
    if same.is_none() && !quant::can_quantize(ty) {
        let names: Vec<_> = quant::QUANTIZABLE.iter().map(|ty| ty.name()).collect();
        let fix = format!("Choose one of {}", names.join(", "));
        return Err(Error::model(place(), format!("cannot be written as {}", ty.name()), fix));
    }
    let n: Option<u64> = bound.ne.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    // If rows are whole blocks, then the total is whole blocks, too.
    let bytes = ty.row_bytes(bound.ne.first().copied().unwrap_or(1)).and(n).and_then(|n| ty.row_bytes(n));
    let Some(bytes) = bytes else {
        let what = format!("shape {:?} does not fit {} (blocks of {})", bound.ne, ty.name(), ty.block_len());
        return Err(Error::model(place(), what, "Choose another type for it with --tensor-type"));
    };
    Ok(PlannedTensor::new(Arc::clone(bound), ty, bytes, same))
}
