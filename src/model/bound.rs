//! A model whose tensors are bound to their source. The conversion plan and the forward pass both work on it.
//!
//! ```no_run
//! use srd_rs::formats::gguf::Gguf;
//! use srd_rs::model::bound::BoundModel;
//!
//! let model = BoundModel::from_gguf(&Gguf::open("model.gguf")?)?;
//! let norm = model.tensors.iter().find(|t| t.name == "output_norm.weight").expect("the model has a norm");
//! let mut values = vec![0.0; norm.n_weights() as usize];
//! norm.source.read(&model.source, 0, &mut values, &mut Default::default())?;
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::path::Path;
use std::sync::Arc;

use crate::dtype::GgmlType;
use crate::error::Result;
use crate::formats::axm::Container;
use crate::formats::axm::reader::parse_gguf_header;
use crate::formats::gguf::values::KeyValues;
use crate::formats::gguf::{FILE_KEYS, Gguf, GgufTensor};
use crate::model::kept::KeptBlocks;
use crate::model::source::Source;
use crate::model::spec::{Placement, TensorSpec, Transform};
use crate::model::transform::BoundTransform;

/// A tensor under its GGUF name, bound to the source tensors that it is made of.
#[derive(Debug)]
pub struct BoundTensor {
    /// Name of the tensor in a GGUF.
    pub name: String,
    /// Shape in GGUF's order: `ne[0]` is the length of a row.
    pub ne: Vec<u64>,
    /// Type that the tensor has wherever it is not quantized. `None`: the recipe decides.
    pub stored: Option<GgmlType>,
    /// Whether the tensor keeps `stored` wherever it is not quantized, even where a recipe names another plain type.
    pub kept: bool,
    /// Reads the values of the tensor.
    pub source: Arc<BoundTransform>,
    /// Reads the tensor as blocks of FP4, where the checkpoint has it so.
    pub blocks: Option<KeptBlocks>,
}

impl BoundTensor {
    /// Returns the number of weights in a row, at least 1.
    pub fn row_len(&self) -> u64 {
        self.ne.first().copied().unwrap_or(1).max(1)
    }

    /// Returns the number of weights.
    pub fn n_weights(&self) -> u64 {
        self.ne.iter().product()
    }

    fn unchanged(source: &Source, name: &str, ne: &[u64], stored: Option<GgmlType>) -> Result<Arc<Self>> {
        let shape: Vec<u64> = ne.iter().rev().copied().collect();
        let leaf = Transform::Source { tensor: name.into() };
        let bound = match stored {
            Some(ty) if GgmlType::COPIED.contains(&ty) => {
                BoundTransform::integers(name, &shape, &leaf, source, ty)?
            }
            _ => BoundTransform::bind(name, &shape, &leaf, source)?,
        };
        let (name, ne) = (name.to_string(), ne.to_vec());
        Ok(Arc::new(Self { name, ne, stored, kept: false, source: Arc::new(bound), blocks: None }))
    }
}

/// A model: its tensors under their GGUF names, its GGUF metadata, and where the weights are read from.
#[derive(Debug)]
pub struct BoundModel {
    /// Where the weights are read from.
    pub source: Source,
    /// `general.architecture`.
    pub arch: String,
    /// GGUF metadata.
    pub metadata: KeyValues,
    /// All tensors. Their names differ.
    pub tensors: Vec<Arc<BoundTensor>>,
}

impl BoundModel {
    /// Binds what a model family declares to a Hugging Face checkpoint.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) when a tensor does not follow from the checkpoint.
    pub fn from_checkpoint(
        source: Source,
        specs: &[TensorSpec],
        metadata: KeyValues,
        arch: &str,
    ) -> Result<Self> {
        let bind = |spec: &TensorSpec| {
            Ok(Arc::new(BoundTensor {
                name: spec.name.clone(),
                ne: spec.shape.iter().rev().copied().collect(),
                stored: match spec.store {
                    Placement::F32 => Some(GgmlType::F32),
                    Placement::I32 => Some(GgmlType::I32),
                    Placement::I64 => Some(GgmlType::I64),
                    Placement::Nvfp4 => Some(GgmlType::NVFP4),
                    Placement::Auto => None,
                },
                kept: spec.store != Placement::Auto,
                source: Arc::new(match spec.store {
                    Placement::I32 => {
                        let ty = GgmlType::I32;
                        BoundTransform::integers(&spec.name, &spec.shape, &spec.transform, &source, ty)?
                    }
                    _ => BoundTransform::bind(&spec.name, &spec.shape, &spec.transform, &source)?,
                }),
                blocks: KeptBlocks::bind(&spec.name, &spec.shape, &spec.transform, &source)?,
            }))
        };
        let tensors = specs.iter().map(bind).collect::<Result<Vec<_>>>()?;
        Ok(Self { source, arch: arch.to_string(), metadata, tensors })
    }

    /// Takes the tensors of a GGUF as they are. The keys that belong to the file rather than to the model are left
    /// out of the metadata.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) when the type of a tensor cannot be read.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let source = Source::from_gguf(gguf)?;
        let bind = |(_, t): (usize, &GgufTensor)| BoundTensor::unchanged(&source, &t.name, &t.ne, Some(t.ty));
        let tensors = gguf.tensors().map(bind).collect::<Result<Vec<_>>>()?;
        let metadata = without_file_keys(gguf.metadata().clone());
        Ok(Self { source, arch: arch_of(&metadata), metadata, tensors })
    }

    /// Takes the tensors of a container as base + `alpha` * residual. The caller has verified the container. Tensors
    /// that are F32 or integers stay so under every recipe.
    ///
    /// # Errors
    /// Those of [`Source::from_container`] and of reading the stored GGUF header.
    pub fn from_container(container: &Container, alpha: f32) -> Result<Self> {
        let source = Source::from_container(container, alpha)?;
        let header = &container.header;
        let tensors = header.tensors.iter();
        let tensors = tensors.map(|t| {
            let stored =
                Some(t.ggml_type()).filter(|ty| *ty == GgmlType::F32 || GgmlType::COPIED.contains(ty));
            BoundTensor::unchanged(&source, &t.name, &t.ne, stored)
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let bytes = container.gguf_header(0)?;
        let kv = parse_gguf_header(&bytes, header.files[0].bytes, &container.path)?.kv;
        Ok(Self { source, arch: header.arch.clone(), metadata: without_file_keys(kv), tensors })
    }

    /// Returns what the user named: the folder or the file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }
}

fn without_file_keys(mut kv: KeyValues) -> KeyValues {
    FILE_KEYS.iter().for_each(|key| drop(kv.remove(key)));
    kv
}

fn arch_of(kv: &KeyValues) -> String {
    kv.get("general.architecture").and_then(|v| v.as_str()).unwrap_or_default().to_string()
}
