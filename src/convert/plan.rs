//! The plan: every output tensor with its type, shape, file and offset, known before a weight is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::convert::container::{self, ContainerOptions, PlannedContainer};
use crate::dtype::{GgmlType, SourceType};
use crate::error::{Error, Place, Result};
use crate::formats::axm::layout::SourceFile;
use crate::formats::calibration::{Calibration, Moments};
use crate::formats::gguf::values::{Array, KeyValues, Value};
use crate::formats::gguf::writer::{self, TensorHeader};
use crate::formats::gguf::{DEFAULT_ALIGNMENT, GgufFile};
use crate::formats::imatrix::Importance;
use crate::model::bound::{BoundModel, BoundTensor};
use crate::model::source::{Encoding, Source};
use crate::quant;
use crate::quant::recipe::{self, ModelFacts, Overrides, Recipe, TensorInfo};
use crate::sign::to_hex;

/// What the user asks of a conversion.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    pub output: PathBuf,
    pub recipe: Recipe,
    pub overrides: Overrides,
    /// Writes the `srd.*` keys: which tool made this from what.
    pub provenance: Option<Provenance>,
    /// The inputs' statistics, where they are known.
    pub importance: Option<Arc<Importance>>,
    /// The inputs' second moments, for residual feedback.
    pub calibration: Option<Arc<Calibration>>,
    /// What the keys of the output say of the calibration: known before it is made.
    pub calibrated: Option<Calibrated>,
    /// Cut the output into files of at most this many bytes, named as llama.cpp expects.
    pub split_max_size: Option<u64>,
    /// Plan a container beside the GGUF.
    pub container: Option<ContainerOptions>,
}

/// Where the statistics came from, for the metadata.
#[derive(Debug, Clone)]
pub struct Calibrated {
    /// `random`, `builtin`, or the name of a text file.
    pub text: String,
    pub tokens: u64,
    pub chunks: u64,
    /// Tensors whose inputs are known.
    pub entries: u64,
    /// Of the calibration file: `sha256:` and 64 hex digits.
    pub digest: String,
}

impl Calibrated {
    pub fn by(calibration: &Calibration) -> Self {
        let info = &calibration.info;
        Self {
            text: info.text.clone(),
            tokens: info.tokens,
            chunks: info.chunks(),
            entries: calibration.len() as u64,
            digest: calibration.digest.clone(),
        }
    }

    /// Keys as long as those of a calibration that is still to be made, so that a dry run knows the size.
    pub fn expected(text: &str) -> Self {
        let digest = format!("sha256:{}", "0".repeat(64));
        Self { text: text.to_string(), tokens: 0, chunks: 1, entries: 0, digest }
    }
}

#[derive(Debug, Clone)]
pub struct Provenance {
    pub method: String,
    pub seed: u64,
    /// `sha256:...` over the source's headers and small files; see [`crate::convert::digest`].
    pub source_digest: String,
    /// What the digest covers.
    pub sources: Vec<SourceFile>,
}

/// An output tensor.
#[derive(Debug)]
pub struct PlannedTensor {
    pub bound: Arc<BoundTensor>,
    pub ty: GgmlType,
    pub file: usize,
    /// From the start of its file.
    pub offset: u64,
    pub bytes: u64,
    /// The source's bytes are already of this type and are copied.
    pub copy: Option<usize>,
    /// `h_ii` of the columns, for each expert of a stack one after another (an imatrix).
    pub importance: Option<Vec<f32>>,
    /// Second moments of the inputs, still in their file.
    pub moments: Option<Moments>,
}

/// One file of the output.
#[derive(Debug)]
pub struct PlannedFile {
    pub path: PathBuf,
    /// Everything before the tensor data.
    pub header: Vec<u8>,
    pub bytes: u64,
}

#[derive(Debug)]
pub struct Plan {
    /// The model, with the metadata that the output gets.
    pub model: BoundModel,
    pub recipe: Recipe,
    pub tensors: Vec<PlannedTensor>,
    pub files: Vec<PlannedFile>,
    pub container: Option<PlannedContainer>,
}

impl Plan {
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    pub fn n_weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.bound.n_weights()).sum()
    }

    /// Bytes of the source tensors that are read.
    pub fn source_bytes(&self) -> u64 {
        let mut used = vec![false; self.model.source.len()];
        self.tensors.iter().for_each(|t| t.bound.source.for_each_source(&mut |i| used[i] = true));
        (0..used.len()).filter(|&i| used[i]).map(|i| self.model.source.bytes(i)).sum()
    }

    /// One more than the last layer's number.
    pub fn layers(&self) -> u32 {
        let last = self.tensors.iter().filter_map(|t| recipe::layer_of(&t.bound.name)).max();
        last.map_or(0, |l| l.saturating_add(1))
    }

    /// The folder that the outputs lie in.
    pub fn folder(&self) -> &Path {
        let folder = self.files.first().and_then(|f| f.path.parent());
        folder.filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Bits per weight over all tensors.
    pub fn bpw(&self) -> f64 {
        self.tensor_bytes() as f64 * 8.0 / (self.n_weights().max(1)) as f64
    }
}

/// Plans other types for the tensors of a GGUF; its metadata is kept.
///
/// # Errors
/// [`Error::Model`] when a tensor's type cannot be read or the metadata does not describe a model.
pub fn plan_gguf(gguf: &GgufFile, options: &PlanOptions) -> Result<Plan> {
    let model = BoundModel::from_gguf(gguf)?;
    let facts = facts_of(&model.metadata, &gguf.path)?;
    plan(model, &facts, options)
}

/// What the recipe needs, from a GGUF's own metadata.
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

/// A count that is given once or for each layer.
fn per_layer(value: &Value) -> Vec<u32> {
    match value {
        Value::Array(Array::U32(v)) => v.clone(),
        Value::Array(Array::I32(v)) => v.iter().map(|&n| n.max(0) as u32).collect(),
        other => other.as_u64().and_then(|n| u32::try_from(n).ok()).into_iter().collect(),
    }
}

/// The type a weight has where it is not quantised: the recipe's own for F32, F16 and BF16; for
/// the others F16 if the checkpoint is F16, else BF16, as the reference converter's `auto`.
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
    add_keys(&mut model.metadata, options);

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
    let (files, container) = match &options.container {
        Some(wanted) => lay_out_both(&mut tensors, model.metadata.clone(), options, wanted, &facts.arch)?,
        None => (lay_out(&mut tensors, model.metadata.clone(), options)?, None),
    };
    Ok(Plan { model, recipe: options.recipe, tensors, files, container })
}

/// llama-quantize's order: what belongs to no layer first, then layer by layer, so that a layer's
/// weights lie together. Names must differ.
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

pub(super) fn planned(bound: &Arc<BoundTensor>, ty: GgmlType, source: &Source) -> Result<PlannedTensor> {
    let place = || Place::file(source.path()).tensor(&bound.name);
    let same = bound.source.as_source().filter(|&i| source.encoding(i).as_ggml() == Some(ty));
    if same.is_none() && !quant::can_quantize(ty) {
        let fix = "Choose one of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, F16, BF16, F32";
        return Err(Error::model(place(), format!("cannot be written as {}", ty.name()), fix));
    }
    let n: Option<u64> = bound.ne.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    // Whole rows of whole blocks; then the total is whole blocks too.
    let bytes = ty.row_bytes(bound.ne.first().copied().unwrap_or(1)).and(n).and_then(|n| ty.row_bytes(n));
    let Some(bytes) = bytes else {
        let what = format!("shape {:?} does not fit {} (blocks of {})", bound.ne, ty.name(), ty.block_len());
        return Err(Error::model(place(), what, "Choose another type for it with --tensor-type"));
    };
    Ok(PlannedTensor {
        bound: Arc::clone(bound),
        ty,
        file: 0,
        offset: 0,
        bytes,
        copy: same,
        importance: None,
        moments: None,
    })
}

pub(super) fn add_keys(metadata: &mut KeyValues, options: &PlanOptions) {
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
    }
}

/// llama-quantize's keys for what weighed the errors, and with `provenance` our own.
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

/// The GGUF names its container by an id that is made from everything else in its header.
fn lay_out_both(
    tensors: &mut [PlannedTensor],
    mut metadata: KeyValues,
    options: &PlanOptions,
    wanted: &ContainerOptions,
    arch: &str,
) -> Result<(Vec<PlannedFile>, Option<PlannedContainer>)> {
    let quant = options.recipe.name();
    metadata.remove(container::ID_KEY);
    let mut files = lay_out(tensors, metadata.clone(), options)?;
    let id = container::container_id(wanted, quant, &files);
    if options.provenance.is_some() {
        metadata.set(container::ID_KEY, Value::String(to_hex(&id)));
        files = lay_out(tensors, metadata, options)?;
    }
    let parts = container::Parts { id, arch, quant, tensors, files: &files };
    let planned = container::plan(wanted, &parts)?;
    Ok((files, Some(planned)))
}

/// Cuts the tensors into files and gives each its offset.
fn lay_out(
    tensors: &mut [PlannedTensor],
    metadata: KeyValues,
    options: &PlanOptions,
) -> Result<Vec<PlannedFile>> {
    let groups = match options.split_max_size {
        Some(limit) => split_groups(tensors, &metadata, limit)?,
        None => std::iter::once(0..tensors.len()).collect(),
    };
    let (count, total) = (groups.len(), tensors.len());
    let mut rest = Some(metadata);
    let mut files = Vec::with_capacity(count);
    for (i, group) in groups.into_iter().enumerate() {
        // The first file carries all metadata, as llama.cpp's own splits do.
        let mut kv = rest.take().unwrap_or_default();
        let mut path = options.output.clone();
        if options.split_max_size.is_some() {
            kv.set("split.no", Value::U16(i as u16));
            kv.set("split.count", Value::U16(count as u16));
            kv.set("split.tensors.count", Value::I32(total as i32));
            path = split_path(&options.output, i, count);
        }
        let infos: Vec<_> = tensors[group.clone()]
            .iter()
            .map(|t| TensorHeader { name: &t.bound.name, ne: &t.bound.ne, ty: t.ty })
            .collect();
        let encoded = writer::encode_header(&kv, &infos)?;
        for (tensor, offset) in tensors[group].iter_mut().zip(&encoded.tensor_offsets) {
            tensor.file = i;
            tensor.offset = *offset;
        }
        files.push(PlannedFile { path, header: encoded.bytes, bytes: encoded.total_size });
    }
    Ok(files)
}

/// `name.gguf` -> `name-00001-of-00003.gguf`, llama.cpp's convention.
pub fn split_path(output: &Path, index: usize, count: usize) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", index + 1))
}

/// Consecutive groups of tensors, each with its header at most `limit` bytes.
fn split_groups(
    tensors: &[PlannedTensor],
    metadata: &KeyValues,
    limit: u64,
) -> Result<Vec<std::ops::Range<usize>>> {
    let alignment = u64::from(DEFAULT_ALIGNMENT);
    // What the first header takes with every tensor listed bounds what it takes with some of them.
    let all: Vec<_> =
        tensors.iter().map(|t| TensorHeader { name: &t.bound.name, ne: &t.bound.ne, ty: t.ty }).collect();
    let first_header = writer::encode_header(metadata, &all)?.bytes.len() as u64 + 256;
    let later_header = writer::encode_header(&KeyValues::default(), &all)?.bytes.len() as u64 + 256;
    let mut groups = Vec::new();
    let (mut start, mut size) = (0, first_header);
    for (i, tensor) in tensors.iter().enumerate() {
        let padded = tensor.bytes.next_multiple_of(alignment);
        let header = if groups.is_empty() { first_header } else { later_header };
        if i > start && size + padded > limit {
            groups.push(start..i);
            (start, size) = (i, later_header);
        } else if i == start && header + padded > limit {
            return Err(Error::usage(
                format!(
                    "tensor '{}' alone needs {} bytes with its header",
                    tensor.bound.name,
                    header + padded
                ),
                "Raise --split-max-size",
            ));
        }
        size += padded;
    }
    groups.push(start..tensors.len());
    if groups.len() > u16::MAX as usize {
        return Err(Error::usage("the output would have more than 65535 files", "Raise --split-max-size"));
    }
    Ok(groups)
}
