//! The plain types of a plan: which tensor of which type is written where. [`crate::convert::plan`] makes plans.
//!
//! ```
//! use srd_rs::convert::planned::Plan;
//!
//! /// Prints the files that a plan would write.
//! fn show(plan: &Plan) {
//!     plan.files.iter().for_each(|file| println!("{}: {} bytes", file.path.display(), file.bytes));
//! }
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dtype::GgmlType;
use crate::formats::axm::layout::{Header, Layout, shard_weights};
use crate::formats::calibration::{Blocks, Moments};
use crate::formats::imatrix::Importance;
use crate::model::bound::{BoundModel, BoundTensor};
use crate::quant::Weighting;
use crate::quant::recipe::{self, Recipe};

/// A tensor of the output.
#[derive(Debug)]
pub struct PlannedTensor {
    /// Name, shape and source of the tensor.
    pub bound: Arc<BoundTensor>,
    /// Type that the tensor is written in.
    pub ty: GgmlType,
    /// Index of the file that the tensor lies in.
    pub file: usize,
    /// Offset in bytes from the start of the file.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of weights that one worker converts before it takes other work. A unit of work is a shard of a container.
    pub unit_weights: u64,
    /// Index of the source tensor whose bytes are copied, where the source has the wanted type already.
    pub copy: Option<usize>,
    /// Whether the blocks are packed from the codes and scales of the checkpoint, which are FP4 of the wanted type already.
    pub packed: bool,
    /// The importances of the columns (an imatrix), prepared for the type: one element for each expert of a stack. Empty
    /// if there are none.
    pub weightings: Vec<Weighting>,
    /// Second moments of the inputs. They are still in their file.
    pub moments: Option<Moments>,
    /// The quantized tensor, where the calibration has made it. It is still in its file.
    pub made: Option<Blocks>,
}

impl PlannedTensor {
    /// Returns whether the tensor loses nothing, because the source has its type already.
    pub fn is_unchanged(&self) -> bool {
        self.copy.is_some() || self.packed
    }

    /// Returns whether a tensor of another plan of the same model gets the same blocks from the second moments of its inputs.
    pub(super) fn is_quantized_as(&self, other: &Self) -> bool {
        let from_moments = |t: &Self| t.moments.is_some() && t.made.is_none() && !t.is_unchanged();
        self.ty == other.ty && self.moments == other.moments && from_moments(self) && from_moments(other)
    }

    /// Returns the same tensor at the same place, without what is known of its inputs.
    pub(super) fn without_statistics(&self) -> Self {
        let Self { file, offset, unit_weights, .. } = *self;
        let bare = Self::new(Arc::clone(&self.bound), self.ty, self.bytes, self.copy);
        Self { file, offset, unit_weights, ..bare }
    }

    /// A tensor of `bytes` bytes that has no place in a file yet, and whose inputs are not known.
    pub fn new(bound: Arc<BoundTensor>, ty: GgmlType, bytes: u64, copy: Option<usize>) -> Self {
        let unit_weights = shard_weights(ty, bound.row_len(), bound.n_weights());
        let packed = bound.blocks.as_ref().is_some_and(|blocks| blocks.ty() == ty);
        Self {
            bound,
            ty,
            packed,
            file: 0,
            offset: 0,
            bytes,
            unit_weights,
            copy,
            weightings: Vec::new(),
            moments: None,
            made: None,
        }
    }
}

/// A file of the output.
#[derive(Debug)]
pub struct PlannedFile {
    /// Path of the complete file.
    pub path: PathBuf,
    /// Everything before the tensor data.
    pub header: Vec<u8>,
    /// Size in bytes.
    pub bytes: u64,
}

/// A container. Its layout is known before a weight is read.
#[derive(Debug)]
pub struct PlannedContainer {
    /// Path of the complete container.
    pub path: PathBuf,
    /// Header of the container.
    pub header: Header,
    /// Place of every shard.
    pub layout: Layout,
}

/// Everything that a conversion will write.
#[derive(Debug)]
pub struct Plan {
    /// The model, with the metadata that the output gets.
    pub model: BoundModel,
    /// The mix that gave the tensors their types.
    pub recipe: Recipe,
    /// The tensors in the order in which they lie in the files.
    pub tensors: Vec<PlannedTensor>,
    /// The GGUF or its parts, or one safetensors file.
    pub files: Vec<PlannedFile>,
    /// The container, if one is written.
    pub container: Option<PlannedContainer>,
    /// Quantized tensors that the imatrix has nothing for. Tables that are looked up are in no imatrix and not listed.
    pub without_importance: Vec<String>,
    /// Stacks of experts of which the imatrix knows only some, with the number of the others.
    pub unseen_experts: Vec<(String, usize)>,
    /// The importances of the columns, where the weights of the errors are known but no second moments.
    pub importance: Option<Arc<Importance>>,
    /// Files that the conversion reads beside the weights.
    pub inputs: Vec<PathBuf>,
    /// Digest of the calibration, where the inputs of the matrices are known from one.
    pub calibration: Option<String>,
    /// Whether the channels of the model are scaled: its weights are not those of the source, and it computes the same.
    pub scaled_channels: bool,
}

impl Plan {
    /// Makes the plan of files that need nothing but the model: without a container, an imatrix or other inputs.
    pub fn of_files(
        model: BoundModel,
        recipe: Recipe,
        tensors: Vec<PlannedTensor>,
        files: Vec<PlannedFile>,
    ) -> Self {
        let (without_importance, unseen_experts, inputs) = (Vec::new(), Vec::new(), Vec::new());
        let (container, importance, calibration) = (None, None, None);
        Self {
            model,
            recipe,
            tensors,
            files,
            container,
            without_importance,
            unseen_experts,
            importance,
            inputs,
            calibration,
            scaled_channels: false,
        }
    }

    /// Returns the size of all files in bytes. The container is not counted.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Returns the bytes of tensor data in all files.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Returns the number of weights.
    pub fn n_weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.bound.n_weights()).sum()
    }

    /// Returns the bytes of the source tensors that are read.
    pub fn source_bytes(&self) -> u64 {
        let mut used = vec![false; self.model.source.len()];
        self.tensors.iter().for_each(|t| t.bound.source.for_each_source(&mut |i| used[i] = true));
        (0..used.len()).filter(|&i| used[i]).map(|i| self.model.source.bytes(i)).sum()
    }

    /// Returns one more than the largest number of a layer.
    pub fn layers(&self) -> u32 {
        let last = self.tensors.iter().filter_map(|t| recipe::layer_of(&t.bound.name)).max();
        last.map_or(0, |l| l.saturating_add(1))
    }

    /// Returns the paths of the outputs: the files, unless `gguf` is false, and the container.
    pub fn targets(&self, gguf: bool) -> Vec<&PathBuf> {
        let files = if gguf { self.files.as_slice() } else { &[] };
        files.iter().map(|f| &f.path).chain(self.container.as_ref().map(|c| &c.path)).collect()
    }

    /// Returns the folder that the files lie in.
    pub fn folder(&self) -> &Path {
        let folder = self.files.first().and_then(|f| f.path.parent());
        folder.filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Returns the bits per weight over all tensors.
    pub fn bpw(&self) -> f64 {
        self.tensor_bytes() as f64 * 8.0 / (self.n_weights().max(1)) as f64
    }
}
