//! Who receives the derivatives on the way back through a model.

use crate::forward::weights::Linear;

/// Receives the derivatives of minus the log-likelihood of the drawn tokens on the way back, rows for tokens that follow on each other. The
/// first of them is number `first` of the tokens of the run.
pub(super) trait GradientObserver: Send {
    /// Receives the derivatives by the outputs of matrices of a layer that share their input. The parts of one tensor add up.
    fn of_outputs(&mut self, parts: &[(&Linear, &[f32])], first: usize);

    /// Receives the derivatives by the outputs of the output matrix.
    fn of_logits(&mut self, output: &Linear, gradients: &[f32], first: usize) {
        let _ = (output, gradients, first);
    }

    /// Receives the derivatives by the embeddings of tokens, unless a norm stands behind the embeddings.
    fn of_embeddings(&mut self, tokens: &[u32], gradients: &[f32]) {
        let _ = (tokens, gradients);
    }
}
