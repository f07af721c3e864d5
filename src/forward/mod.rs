//! The forward pass of a model. It shows an [`Observer`] the inputs of every matrix, which calibration needs.
//!
//! [`run`] computes the model layer by layer over all tokens, so that only one layer's weights are in use at a time.
//! [`arch`] is the table of the supported architectures. [`attention`], [`rope`], [`norm`] and [`activation`] are the
//! arithmetic. The weights come from a [`BoundModel`](crate::model::bound::BoundModel) under their GGUF names, so that the
//! same code runs a checkpoint and a GGUF. The results have the same bits on every CPU and with any number of threads.
//!
//! ```no_run
//! use srd_rs::formats::gguf::split::Gguf;
//! use srd_rs::forward::{NoObserver, RunOptions, run};
//! use srd_rs::model::bound::BoundModel;
//! use srd_rs::progress::Progress;
//!
//! let model = BoundModel::from_gguf(&Gguf::open("model.gguf")?)?;
//! let options = RunOptions {
//!     logits: true,
//!     threads: 4,
//!     max_memory: 1 << 30,
//!     spill_folder: ".".as_ref(),
//!     progress: &Progress::default(),
//!     token_weights: None,
//! };
//! let logits = run(&model, &[vec![1, 2, 3]], &mut NoObserver, &options)?.expect("logits were asked for");
//! assert_eq!(logits.values.len(), 3 * logits.columns);
//! # Ok::<(), srd_rs::Error>(())
//! ```

pub mod activation;
mod altup;
pub mod arch;
pub mod attention;
pub mod attention_gradient;
mod buffers;
mod channels;
mod convolution;
mod delta_net;
pub mod divergence;
mod embed;
mod error_costs;
mod ffn;
mod gradient;
mod gradient_observer;
mod groups;
mod head;
mod keys;
mod latent;
mod layer;
mod layer_gradient;
mod mamba;
mod mixer;
mod mixing;
mod model;
mod moe;
pub mod norm;
mod observe;
mod order;
mod pass;
mod projections;
mod recurrence;
pub mod rope;
mod routing;
mod spill;
mod streams;
#[cfg(test)]
mod tests;
mod token_weights;
mod vectors;
mod weights;

use crate::dtype::GgmlType;
use crate::error::Result;
use crate::progress::Progress;

pub use channels::with_scaled_channels;
pub use error_costs::{ErrorRows, error_costs};
pub use gradient::{MAX_CHUNK, gradients, has_gradient};
pub use pass::{
    Logits, RunOptions, Step, check, has_two_streams, run, run_replaced, run_rounded, run_step,
    run_two_streams, run_variants, steps, tokens_of,
};
pub use token_weights::{Gradients, Names, TokenWeights};
pub use weights::{OfStream, Replaced, Rounded, Rounding};

/// Receives the inputs of the model's matrices while the forward pass computes them.
pub trait Observer: Send {
    /// Receives `x`, rows of `n` values: the inputs of all the named tensors (GGUF names), which share their input.
    /// `expert` is the number of the expert if the tensors are stacks of experts, and `None` for plain matrices.
    ///
    /// The calls come in a fixed order, layer by layer. The same tensors may be named many times, with more rows each time.
    ///
    /// # Errors
    /// An error ends the pass; [`run`] returns the error.
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()>;

    /// Is called before the inputs of a group of chunks. `is_last` says whether the group is the last one: no more inputs follow for
    /// the matrices that are named before the next call.
    fn group(&mut self, is_last: bool) {
        let _ = is_last;
    }

    /// Is called when the first `layers` layers are complete. `states` are what the pass needs to go on from there. A pass that has its
    /// activations in a file, because memory is short, does not call this.
    ///
    /// # Errors
    /// An error ends the pass; [`run`] returns the error.
    fn layers_done(&mut self, layers: usize, states: &[&[f32]]) -> Result<()> {
        let _ = (layers, states);
        Ok(())
    }

    /// Returns what the last [`Observer::layers_done`] of an interrupted pass got, if this pass is the same and is to go on from there.
    /// It is called before the first layer. The observer forgets all inputs that it got before.
    ///
    /// # Errors
    /// An error ends the pass; [`run`] returns the error.
    fn resume(&mut self, progress: &Progress) -> Result<Option<(usize, Vec<Vec<f32>>)>> {
        let _ = progress;
        Ok(None)
    }

    /// Returns whether the observer reads the weights of a tensor in [`Observer::finished`]. Weights that come over the network are
    /// then kept for it.
    fn reads(&self, tensor: &str) -> bool {
        let _ = tensor;
        false
    }

    /// Is called when the inputs of all matrices of a layer have been received. `None` stands for the last layer and for the matrices
    /// outside of the layers.
    ///
    /// # Errors
    /// An error ends the pass.
    fn finished(&mut self, layer: Option<usize>) -> Result<()> {
        let _ = layer;
        Ok(())
    }
}

/// A quantized matrix: all of its rows, in blocks.
#[derive(Debug)]
pub struct Blocks {
    /// Type of the blocks.
    pub ty: GgmlType,
    /// The blocks, row after row.
    pub bytes: Vec<u8>,
}

/// Inputs of matrices for the same tokens in two streams.
pub struct Pairs<'a> {
    /// Number of values of an input.
    pub n: usize,
    /// Rows of inputs in the original model.
    pub x: &'a [f32],
    /// The same rows in the model whose earlier matrices are quantized.
    pub y: &'a [f32],
    /// What the residual stream of the original model has more than that of the other one, a row for each token, where the
    /// output of the matrix is added to the residual stream: by how much the output should be larger. Behind an RMSNorm this holds to
    /// first order, and all rows of a token, those of x and y too, are divided by the root mean square of its output.
    pub missing: Option<&'a [f32]>,
}

/// Quantizes matrices one input after another, while [`run_two_streams`] computes what becomes of their inputs when the
/// matrices before them are quantized.
///
/// What it gets as an [`Observer`] are the inputs, in the original model, of the matrices that it does not quantize.
pub trait Quantizer: Observer {
    /// Returns whether it quantizes matrices that share their input.
    fn quantizes(&self, tensors: &[&str]) -> bool;

    /// Receives inputs of matrices, in the order of [`Observer::inputs`].
    ///
    /// # Errors
    /// An error ends the pass.
    fn pairs(&mut self, tensors: &[&str], pairs: &Pairs) -> Result<()>;

    /// Returns the quantized matrices, in the order of their names; `None` for one that stays as it is. All of their inputs have
    /// been received.
    ///
    /// # Errors
    /// An error ends the pass.
    fn quantized(&mut self, tensors: &[&str]) -> Result<Vec<Option<Blocks>>>;
}

/// An observer that ignores the inputs.
#[derive(Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn inputs(&mut self, _: &[&str], _: Option<usize>, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }
}
