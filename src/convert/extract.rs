//! Plans files from a container: the packed GGUF as a copy, or other types from base + residual. The caller has verified the
//! container, and [`crate::convert::run`] writes the files.
//!
//! ```no_run
//! use srd_rs::convert::extract::{ExtractOptions, plan};
//! use srd_rs::formats::axm::Container;
//!
//! let options = ExtractOptions {
//!     output: "model.gguf".into(),
//!     recipe: None,
//!     overrides: Default::default(),
//!     alpha: None,
//!     safetensors: false,
//! };
//! let plan = plan(&Container::open("model.axm")?, &options)?;
//! println!("{} bytes", plan.total_bytes());
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::convert::container::ID_KEY;
use crate::convert::options::PlanOptions;
use crate::convert::plan::{self, facts_of, planned, sort_as_file, unquantized_type};
use crate::convert::planned::{Plan, PlannedFile, PlannedTensor};
use crate::error::{Error, Place, Result};
use crate::formats::axm::Container;
use crate::formats::gguf::split::part_path;
use crate::model::bound::BoundModel;
use crate::quant::recipe::{Overrides, Recipe};

/// What the user asks of an extraction.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// Path of the output.
    pub output: PathBuf,
    /// The mix of the output. `None`: the packed mix.
    pub recipe: Option<Recipe>,
    /// Exceptions from the mix.
    pub overrides: Overrides,
    /// Share of the residual that is added to the base, 0 to 1. The default is 1 where types change. The packed mix is a copy
    /// and takes no residual.
    pub alpha: Option<f32>,
    /// Writes a safetensors file instead of a GGUF.
    pub safetensors: bool,
}

/// Plans the files.
///
/// # Errors
/// [`Error::Usage`] for options that contradict each other; the errors of a conversion's plan.
pub fn plan(container: &Container, options: &ExtractOptions) -> Result<Plan> {
    let packed = packed_recipe(container)?;
    let recipe = options.recipe.unwrap_or(packed);
    if options.alpha.is_some_and(|a| !(0.0..=1.0).contains(&a)) {
        return Err(Error::usage("alpha is not within 0 and 1", "Use 0 for the base alone, 1 for all of it"));
    }
    if container.detached {
        let what = format!("{} is a manifest without weights", container.path.display());
        return Err(Error::usage(what, "Name the container itself"));
    }
    if options.safetensors {
        return plan_safetensors(container, recipe, options);
    }
    let plain = options.overrides.tensor_type.is_empty()
        && options.overrides.token_embedding.is_none()
        && options.overrides.output_tensor.is_none()
        && !options.overrides.pure;
    if recipe == packed && plain {
        if options.alpha.is_some_and(|a| a != 0.0) {
            let what = format!("the container is of {}, which is copied and takes no alpha", packed.name());
            return Err(Error::usage(what, "Choose another --quant, or leave --alpha away"));
        }
        return plan_copy(container, packed, &options.output);
    }
    plan_other(container, recipe, options)
}

fn packed_recipe(container: &Container) -> Result<Recipe> {
    Recipe::from_name(&container.header.quant).ok_or_else(|| {
        let what = format!("is of the mix '{}', which this version does not know", container.header.quant);
        Error::model(Place::file(&container.path), what, "Use the version it was made with")
    })
}

/// Plans a copy of the GGUF as it was converted: the stored header, and every base at its offset.
fn plan_copy(container: &Container, recipe: Recipe, output: &Path) -> Result<Plan> {
    let model = BoundModel::from_container(container, 0.0)?;
    let header = &container.header;
    let count = header.files.len();
    let files = (0..count)
        .map(|i| {
            let path = if count == 1 { output.to_path_buf() } else { part_path(output, i, count) };
            Ok(PlannedFile { path, header: container.gguf_header(i)?, bytes: header.files[i].bytes })
        })
        .collect::<Result<Vec<_>>>()?;
    let tensors =
        header.tensors.iter().zip(&model.tensors).enumerate().map(|(i, (t, bound))| PlannedTensor {
            file: t.file as usize,
            offset: t.offset,
            ..PlannedTensor::new(Arc::clone(bound), t.ggml_type(), t.base.bytes, Some(i))
        });
    let tensors = tensors.collect();
    Ok(Plan::of_files(model, recipe, tensors, files))
}

fn plan_other(container: &Container, recipe: Recipe, options: &ExtractOptions) -> Result<Plan> {
    let model = BoundModel::from_container(container, options.alpha.unwrap_or(1.0))?;
    let facts = facts_of(&model.metadata, &container.path)?;
    // The keys of the conversion stay, because they say which container the file comes from.
    let plan_options = PlanOptions {
        overrides: options.overrides.clone(),
        // Base and residual together stand for the weights before they were quantized.
        allow_requantize: true,
        ..PlanOptions::new(&options.output, recipe)
    };
    let planned = plan::plan(model, &facts, &plan_options)?;
    plan::check_overrides(&planned, &options.overrides)?;
    Ok(planned)
}

/// Plans a safetensors file with the names of the GGUF and row-major shapes, in F32, F16 or BF16.
fn plan_safetensors(container: &Container, recipe: Recipe, options: &ExtractOptions) -> Result<Plan> {
    let recipe = if options.recipe.is_none() { Recipe::BF16 } else { recipe };
    if !matches!(recipe, Recipe::F32 | Recipe::F16 | Recipe::BF16) {
        let what = format!("a safetensors file cannot hold {}", recipe.name());
        return Err(Error::usage(what, "Use --quant BF16, F16 or F32"));
    }
    let mut model = BoundModel::from_container(container, options.alpha.unwrap_or(1.0))?;
    sort_as_file(&mut model)?;
    let typed = |t| planned(t, unquantized_type(t, &model.source, recipe), &model.source);
    let mut tensors = model.tensors.iter().map(typed).collect::<Result<Vec<_>>>()?;
    let header = safetensors_header(container, &mut tensors);
    let bytes = tensors.last().map_or(header.len() as u64, |t| t.offset + t.bytes);
    let files = vec![PlannedFile { path: options.output.clone(), header, bytes }];
    Ok(Plan::of_files(model, recipe, tensors, files))
}

/// Makes the header, padded with spaces to a multiple of 8 bytes, and gives the tensors their offsets behind it.
fn safetensors_header(container: &Container, tensors: &mut [PlannedTensor]) -> Vec<u8> {
    let mut entries = Map::new();
    let about =
        json!({"format": "pt", (ID_KEY): container.header.container, "architecture": container.header.arch});
    entries.insert("__metadata__".into(), about);
    let mut at = 0;
    for t in tensors.iter_mut() {
        let shape: Vec<u64> = t.bound.ne.iter().rev().copied().collect();
        let entry = json!({"dtype": t.ty.name(), "shape": shape, "data_offsets": [at, at + t.bytes]});
        entries.insert(t.bound.name.clone(), entry);
        t.offset = at;
        at += t.bytes;
    }
    let mut json = Json::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    tensors.iter_mut().for_each(|t| t.offset += header.len() as u64);
    header
}
