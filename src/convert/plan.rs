//! Plans a conversion: which type every tensor of the output has, and where the tensor lies. The plan is complete before a
//! weight is read.
//!
//! ```no_run
//! use srd_rs::convert::options::PlanOptions;
//! use srd_rs::convert::plan::plan_gguf;
//! use srd_rs::formats::gguf::Gguf;
//! use srd_rs::quant::recipe::Recipe;
//!
//! let recipe = Recipe::from_name("Q4_K_M").expect("the mix is known");
//! let plan = plan_gguf(&Gguf::open("model-BF16.gguf")?, &PlanOptions::new("model-Q4_K_M.gguf", recipe))?;
//! for tensor in &plan.tensors {
//!     println!("{} {} at byte {}", tensor.bound.name, tensor.ty.name(), tensor.offset);
//! }
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::path::Path;
use std::sync::Arc;

use crate::convert::options::PlanOptions;
use crate::convert::planned::{Plan, PlannedTensor};
use crate::convert::{layout, metadata};
use crate::dtype::{GgmlType, SourceType};
use crate::error::{Error, Place, Result};
use crate::feedback;
use crate::formats::gguf::Gguf;
use crate::formats::gguf::values::{Array, KeyValues, Value};
use crate::formats::imatrix::Importance;
use crate::forward;
use crate::model::bound::{BoundModel, BoundTensor};
use crate::model::check::check_metadata;
use crate::model::kept::KeptBlocks;
use crate::model::source::{Encoding, Source};
use crate::quant::recipe::{self, ModelFacts, Overrides, PER_LAYER_TABLE, Recipe, TensorInfo};
use crate::quant::{self, Weighting};

/// Plans other types for the tensors of a GGUF. The metadata of the GGUF is kept, but for what it says of its own conversion
/// and for the keys that are replaced.
///
/// # Errors
/// [`Error::Model`] when the type of a tensor cannot be read, or when the metadata do not describe a model that llama.cpp
/// can load.
pub fn plan_gguf(gguf: &Gguf, options: &PlanOptions) -> Result<Plan> {
    let check = |kv: &KeyValues| check_metadata(kv, gguf.tensors().map(|(_, t)| t), gguf.path());
    check(gguf.metadata())?;
    let mut model = BoundModel::from_gguf(gguf)?;
    metadata::remove_claims(&mut model.metadata);
    if options.replaced.iter().len() > 0 {
        options.replaced.iter().for_each(|(key, value)| model.metadata.set(key, value.clone()));
        check(&model.metadata)?;
    }
    let facts = facts_of(&model.metadata, gguf.path())?;
    plan(model, &facts, options)
}

/// Plans the type, file and offset of every tensor of a model.
///
/// # Errors
/// [`Error::Model`] when a tensor cannot have the type that it should have, and as [`forward::with_scaled_channels`].
pub fn plan(mut model: BoundModel, facts: &ModelFacts, options: &PlanOptions) -> Result<Plan> {
    if options.scale_channels {
        model = forward::with_scaled_channels(model)?;
    }
    sort_as_file(&mut model)?;
    let stored: Vec<_> =
        model.tensors.iter().map(|t| unquantized_type(t, &model.source, options.recipe)).collect();
    let infos = model.tensors.iter().zip(stored);
    let infos: Vec<_> =
        infos.map(|(t, stored)| TensorInfo { name: &t.name, ne: &t.ne, stored, kept: t.kept }).collect();
    let known = options.importance.is_some() || options.calibrated.is_some();
    let types = recipe::assign(options.recipe, facts, known, &options.overrides, &infos)?;
    let types = kept_fp4(&model, types, options)?;
    // A type without feedback takes the mean squares of the inputs alone.
    let without_feedback = |ty: &GgmlType| ty.block_len() > 1 && !feedback::supports(*ty);
    let diagonals = match &options.calibration {
        Some(calibration) if types.iter().any(without_feedback) => {
            Some(Importance::from_calibration(calibration)?)
        }
        _ => None,
    };
    let mut tensors = Vec::with_capacity(model.tensors.len());
    for (bound, ty) in model.tensors.iter().zip(types) {
        let mut tensor = planned(bound, ty, &model.source)?;
        let importance = options.importance.as_deref().or(diagonals.as_ref());
        let feedback = options.calibration.as_ref().filter(|_| feedback::supports(ty) && !tensor.packed);
        if let Some(calibration) = feedback {
            tensor.moments = calibration.of(&bound.name, &bound.ne)?;
            tensor.made = calibration.blocks_of(&bound.name, ty, tensor.bytes)?;
        } else if let Some(importance) = importance.filter(|_| ty.block_len() > 1) {
            let h = importance.of(&bound.name, &bound.ne)?.filter(|_| !tensor.is_unchanged());
            let experts = h.iter().flat_map(|h| h.chunks_exact(bound.row_len() as usize));
            tensor.weightings = experts.map(|h| Weighting::new(ty, h)).collect();
        }
        tensors.push(tensor);
    }
    let requantized = requantized(&tensors, &model.source);
    if let Some(tensor) = requantized.first().filter(|_| !options.allow_requantize) {
        return Err(already_quantized(tensor, &model.source));
    }
    metadata::add_keys(&mut model.metadata, options, &requantized);
    let (without_importance, unseen_experts) = match &options.importance {
        Some(importance) => {
            (without_importance(importance, &model, &tensors)?, unseen_experts(importance, &tensors))
        }
        None => Default::default(),
    };
    let (files, container) = layout::lay_out(&mut tensors, &model.metadata, &facts.arch, options)?;
    Ok(Plan {
        container,
        without_importance,
        unseen_experts,
        importance: options.importance.clone(),
        inputs: options.inputs.clone(),
        calibration: options.calibrated.as_ref().map(|c| c.digest.clone()),
        scaled_channels: options.scale_channels,
        ..Plan::of_files(model, options.recipe, tensors, files)
    })
}

/// Lets weights that are FP4 in the source stay FP4 where a mix gives them blocks of as many bits or more: such blocks
/// would only lose. What the user names is done.
///
/// # Errors
/// [`Error::Usage`] when the mix NVFP4 finds no weights of NVFP4, and [`Error::Model`] when a tensor with a scale of its own
/// should get another type.
fn kept_fp4(model: &BoundModel, types: Vec<GgmlType>, options: &PlanOptions) -> Result<Vec<GgmlType>> {
    let is_fp4 = |ty: &GgmlType| matches!(ty, GgmlType::MXFP4 | GgmlType::NVFP4);
    let stored = |t: &BoundTensor| {
        let blocks = t.blocks.as_ref().map(KeptBlocks::ty);
        let same = || t.source.as_source().and_then(|i| model.source.encoding(i).as_ggml());
        blocks.or_else(same).filter(is_fp4)
    };
    let by_mix = |t: &BoundTensor| !options.overrides.pure && !options.overrides.names(&t.name);
    let output_scale = model.tensors.iter().any(|t| t.name == "output.scale");
    let mut kept = Vec::with_capacity(types.len());
    for (t, ty) in model.tensors.iter().zip(types) {
        let own = t.stored == Some(GgmlType::NVFP4) && t.kept;
        kept.push(match stored(t) {
            Some(GgmlType::NVFP4) if by_mix(t) && options.recipe == Recipe::NVFP4 => GgmlType::NVFP4,
            Some(fp4) if by_mix(t) && ty.block_len() > 1 && ty.bpw() >= fp4.bpw() => fp4,
            _ if own && ty != GgmlType::NVFP4 => {
                let place = Place::file(model.path()).tensor(&t.name);
                let what = format!("stays NVFP4 with a scale of its own, and cannot be {}", ty.name());
                return Err(Error::model(place, what, "Choose another mix than NVFP4"));
            }
            // llama.cpp applies the scale of the output matrix to NVFP4 only.
            Some(GgmlType::NVFP4) if t.name == "output.weight" && output_scale && ty != GgmlType::NVFP4 => {
                let place = Place::file(model.path()).tensor(&t.name);
                let what = format!("has a scale of its own ('output.scale'), and cannot be {}", ty.name());
                return Err(Error::model(place, what, "Choose a mix or a type that keeps it NVFP4"));
            }
            _ => ty,
        });
    }
    if options.recipe == Recipe::NVFP4 && !kept.contains(&GgmlType::NVFP4) {
        let what = format!("{} has no weights of NVFP4 that could stay", model.path().display());
        return Err(Error::usage(what, "Choose another mix with --quant, for example Q4_K_M"));
    }
    Ok(kept)
}

/// Returns the tensors whose source is quantized and whose blocks are not copied.
fn requantized<'a>(tensors: &'a [PlannedTensor], source: &Source) -> Vec<&'a PlannedTensor> {
    let is_quantized = |t: &PlannedTensor| {
        let mut quantized = false;
        t.bound.source.for_each_source(&mut |i| {
            quantized |= matches!(source.encoding(i), Encoding::Block(ty) if ty.block_len() > 1);
        });
        quantized
    };
    tensors.iter().filter(|t| !t.is_unchanged() && is_quantized(t)).collect()
}

fn already_quantized(tensor: &PlannedTensor, source: &Source) -> Error {
    let place = Place::file(source.path()).tensor(&tensor.bound.name);
    let from = tensor.bound.source.as_source().map_or("", |i| source.encoding(i).name());
    let what = format!(
        "is quantized already ({from}), and making {} of it loses precision once more",
        tensor.ty.name()
    );
    let fix = "Convert from the original F32, F16 or BF16 model, or accept the loss with --allow-requantize";
    Error::model(place, what, fix)
}

/// Returns the names of the quantized tensors that an imatrix has nothing for. Tables that are looked up are never in an
/// imatrix.
///
/// # Errors
/// [`Error::Model`] when the imatrix names no tensor of the model.
fn without_importance(
    importance: &Importance,
    model: &BoundModel,
    tensors: &[PlannedTensor],
) -> Result<Vec<String>> {
    if !model.tensors.iter().any(|t| importance.names(&t.name, &t.ne)) {
        let what = format!("names no tensor of the model {}", model.path().display());
        let fix = "Use the imatrix that was made for this very model";
        return Err(Error::model(Place::file(importance.path()), what, fix));
    }
    let looked_up = |name: &str| matches!(name, "token_embd.weight" | PER_LAYER_TABLE);
    let quantized = || tensors.iter().filter(|t| t.ty.block_len() > 1 && !t.is_unchanged());
    let missing = quantized().filter(|t| t.weightings.is_empty() && !looked_up(&t.bound.name));
    let missing: Vec<_> = missing.map(|t| t.bound.name.clone()).collect();
    if !missing.is_empty() && quantized().all(|t| t.weightings.is_empty()) {
        let what = format!("has nothing for the {} tensors that are quantized", missing.len());
        let fix = "Use an imatrix of all matrices of the model";
        return Err(Error::model(Place::file(importance.path()), what, fix));
    }
    Ok(missing)
}

/// Returns the stacks of experts of which the imatrix knows only some, with the number of the others.
fn unseen_experts(importance: &Importance, tensors: &[PlannedTensor]) -> Vec<(String, usize)> {
    let weighed = tensors.iter().filter(|t| !t.weightings.is_empty());
    let counts =
        weighed.map(|t| (t.bound.name.clone(), importance.unseen_experts(&t.bound.name, &t.bound.ne)));
    counts.filter(|(_, unseen)| *unseen > 0).collect()
}

/// Checks that every type that the user asks for is of use: whoever asks believes that it is.
///
/// # Errors
/// [`Error::Usage`] for a pattern that decides the type of no tensor, and for the name of a tensor that the plan does not have
/// or does not give the type.
pub fn check_overrides(plan: &Plan, overrides: &Overrides) -> Result<()> {
    for (index, (pattern, ty)) in overrides.tensor_type.iter().enumerate() {
        let mut found = plan.tensors.iter().filter(|t| pattern.is_match(&t.bound.name)).peekable();
        if found.peek().is_none() {
            let what = format!("--tensor-type: the expression '{pattern}' finds no tensor");
            return Err(Error::usage(what, "--dry-run --json lists the names of the tensors"));
        }
        let arch = &plan.model.arch;
        let decides = |t: &PlannedTensor| {
            t.ty == *ty || overrides.is_decided_by(index, arch, &t.bound.name, &t.bound.ne)
        };
        if !found.any(decides) {
            let what = format!(
                "--tensor-type: the expression '{pattern}' decides the type of no tensor. What it finds is never quantized, \
                 or an option before it names the type"
            );
            return Err(Error::usage(what, "Leave the expression out, or put it before the others"));
        }
    }
    let unknown = |name: &&String| !plan.tensors.iter().any(|t| t.bound.name == **name);
    if let Some(name) = overrides.exact.keys().filter(unknown).min() {
        let what = format!("the recipe names the tensor '{name}', which the model does not have");
        return Err(Error::usage(what, "Use a recipe that was made for this model, or take the line out"));
    }
    let kept = |t: &&PlannedTensor| overrides.exact.get(&t.bound.name).is_some_and(|&ty| ty != t.ty);
    if let Some(t) = plan.tensors.iter().find(kept) {
        let what =
            format!("the recipe gives '{}' another type than {}, which it keeps", t.bound.name, t.ty.name());
        return Err(Error::usage(what, "Take the line out of the recipe"));
    }
    Ok(())
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
    let packed = bound.blocks.as_ref().is_some_and(|blocks| blocks.ty() == ty);
    let integers = ty == GgmlType::I64 && bound.stored == Some(ty);
    if same.is_none() && !packed && !integers && !quant::can_quantize(ty) {
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
