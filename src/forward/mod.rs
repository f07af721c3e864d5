//! The forward pass of a model, a layer's weights at a time, for the statistics of what each matrix is fed.
//!
//! [`arch`] says what an architecture is made of, [`model`] reads a model's metadata with it, [`pass`] walks the
//! layers. [`attention`], [`ffn`], [`moe`] and [`embed`] are the steps of a layer; [`rope`], [`norm`] and
//! [`activation`] their arithmetic; [`weights`] reads matrices in panels of rows, [`store`] keeps the tokens' states
//! between layers. Weights come from a [`BoundModel`](crate::model::bound::BoundModel), in GGUF's names and layout, so that a checkpoint and a
//! GGUF are run by the same code.

pub mod activation;
pub mod arch;
pub mod attention;
mod buffers;
mod embed;
mod ffn;
mod keys;
mod model;
mod moe;
pub mod norm;
mod pass;
pub mod rope;
mod simd;
mod store;
mod weights;

use crate::error::Result;

pub use pass::{Logits, RunOptions, run};

/// Gets the inputs of the model's matrices as the pass reaches them.
pub trait Observer: Send {
    /// `x`: rows of `n` values, the inputs of all the named tensors (GGUF names; they share their input).
    /// `expert`: which one of a stack of experts they are the inputs of; None for plain matrices.
    /// Called in a fixed order, layer by layer; one set of tensors may be named many times, with more rows each time.
    ///
    /// # Errors
    /// Whatever keeps the observer from taking them in: the pass ends with it.
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()>;
}

/// Observes nothing.
#[derive(Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn inputs(&mut self, _: &[&str], _: Option<usize>, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }
}
