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
                let (first, second) = x.split_at(x.len() / 2);
                let pairs = first.par_chunks(model.width).zip(second.par_chunks(model.width));
                to.par_extend(pairs.map(|(p, q)| cosine_distance(p, q)));
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
            let (first, second) = x.split_at(x.len() / 2);
            let rows = (LOGITS / output.rows()).max(1) * model.width;
            for (first, second) in first.chunks(rows).zip(second.chunks(rows)) {
                let mut y = weights.apply(&output, &[first, second].concat(), model.width)?;
                finish_logits(model, &mut y);
                let (first, second) = y.split_at(y.len() / 2);
                let pairs = first.par_chunks(output.rows()).zip(second.par_chunks(output.rows()));
                to.par_extend(pairs.map(|(p, q)| divergence(p, q)));
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

/// Turns products with the output matrix into logits.
pub(super) fn finish_logits(model: &Model, y: &mut [f32]) {
    scale(y, model.logit_scale);
    if let Some(cap) = model.logit_cap {
        activation::soft_cap(y, cap);
    }
}
