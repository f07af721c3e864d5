//! The end of the model: the last norm, the output matrix and the logits.

use rayon::prelude::*;

use crate::error::Result;
use crate::forward::activation;
use crate::forward::buffers::Buffer;
use crate::forward::divergence::{cosine_distance, divergence};
use crate::forward::model::Model;
use crate::forward::pass::{Logits, Pass};
use crate::forward::streams::Seen;
use crate::forward::vectors::scale;
use crate::forward::weights::Linear;

/// Number of logits of a model that are in memory at a time while divergences or derivatives are computed.
pub(super) const LOGITS: usize = 1 << 24;

impl Pass<'_> {
    /// Returns the matrix whose products are the logits: the table of embeddings where the model has no matrix of its own.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the matrix is missing or has another number of inputs than the model.
    pub(super) fn output_matrix(&self) -> Result<Linear> {
        let output = match self.weights.linear("output")? {
            Some(output) => output,
            None => self.weights.required_linear("token_embd")?,
        };
        self.weights.check_inputs(&output.matrix, self.model.width)?;
        Ok(output)
    }

    /// Applies the last norm and the output matrix, and appends the logits if they are wanted.
    pub(super) fn lm_head(&mut self, mut x: Buffer, logits: Option<&mut Logits>) -> Result<()> {
        let (model, weights) = (self.model, self.weights);
        if model.states > 1 {
            x = self.join_states(&x)?;
        }
        if !model.family.lm_head {
            self.normalize(model.family.output_norm, &mut x)?;
            if let Seen::Divergences(to) = &mut self.seen {
                append_distances(to, &x, model.width, cosine_distance);
            }
            if let Some(logits) = logits {
                (logits.columns, logits.are_states) = (model.width, true);
                logits.values.extend_from_slice(&x);
            }
            return Ok(());
        }
        self.find_output_norm()?.iter().for_each(|norm| norm.apply(&mut x, model.width));
        let output = self.output_matrix()?;
        self.observe(&[&output], None, model.width, &x)?;
        if let Seen::Divergences(to) = &mut self.seen {
            let own = x.len() / (1 + to.len());
            let values = (LOGITS / output.rows()).max(1) * model.width;
            for start in (0..own).step_by(values) {
                let of_stream = |x: &[f32]| x[start..own.min(start + values)].to_vec();
                let rows: Vec<f32> = x.chunks_exact(own).flat_map(of_stream).collect();
                let mut y = weights.apply(&output, &rows, model.width)?;
                finish_logits(model, &mut y);
                append_distances(to, &y, output.rows(), divergence);
            }
        }
        let Some(logits) = logits else { return Ok(()) };
        let start = logits.values.len();
        logits.columns = output.rows();
        logits.values.resize(start + x.len() / model.width * output.rows(), 0.0);
        let y = &mut logits.values[start..];
        weights.apply_to(&output, &x, model.width, y)?;
        finish_logits(model, y);
        Ok(())
    }
}

/// Appends to each list how far the rows of a stream are from those of the first stream. `rows` has the rows of `n` values of all streams,
/// one stream after another.
fn append_distances(lists: &mut [Vec<f64>], rows: &[f32], n: usize, distance: fn(&[f32], &[f32]) -> f64) {
    let own = rows.len() / (1 + lists.len());
    let (first, others) = rows.split_at(own);
    for (list, other) in lists.iter_mut().zip(others.chunks_exact(own)) {
        list.par_extend(first.par_chunks(n).zip(other.par_chunks(n)).map(|(p, q)| distance(p, q)));
    }
}

/// Turns products with the output matrix into logits.
pub(super) fn finish_logits(model: &Model, y: &mut [f32]) {
    scale(y, model.logit_scale);
    if let Some(cap) = model.logit_cap {
        activation::soft_cap(y, cap);
    }
}
