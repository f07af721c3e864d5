//! The forward pass of a model, a layer's weights at a time, for the statistics of what each matrix is fed.

use crate::error::Result;

/// Gets the inputs of the model's matrices as the pass reaches them.
pub trait Observer {
    /// `x`: rows of `n` values, the inputs of all the named tensors (GGUF names; they share their input).
    /// `expert`: which one of a stack of experts they are the inputs of; None for plain matrices.
    /// Called in a fixed order; one set of tensors may be named many times, with more rows each time.
    ///
    /// # Errors
    /// Whatever keeps the observer from taking them in: the pass ends with it.
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()>;
}
