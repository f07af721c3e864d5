//! Shows the inputs of the matrices to the observer, or both streams to the quantizer.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::forward::Pairs;
use crate::forward::pass::Pass;
use crate::forward::streams::{Missing, Seen, Way};
use crate::forward::weights::Linear;
use crate::quant::recipe::split_layer;

/// The share of the median of the squares of a norm's weights below which a square counts as small.
const SMALL_WEIGHTS: f32 = 0.1;

impl Pass<'_> {
    /// Shows the observer `x`, rows of `n` values, the inputs of `linears`. The inputs of an expert are those of the first
    /// stream alone.
    pub(super) fn observe(
        &mut self,
        linears: &[&Linear],
        expert: Option<usize>,
        n: usize,
        x: &[f32],
    ) -> Result<()> {
        let names: Vec<&str> = linears.iter().map(|l| l.name.as_str()).collect();
        let quantizer = match &mut self.seen {
            Seen::By(observer) => {
                let factors = self.token_weights.filter(|_| expert.is_none());
                let Some(factors) = factors.and_then(|weights| weights.factors(names[0])) else {
                    return observer.inputs(&names, expert, n, x);
                };
                let mut weighted = self.weights.buffers.copy(x);
                scale_rows(&mut weighted, &factors[self.sweep.first..][..x.len() / n]);
                return observer.inputs(&names, None, n, &weighted);
            }
            Seen::WithSecondStream(quantizer) => quantizer,
            Seen::Divergences(_) => return Ok(()),
        };
        let sweep = &mut self.sweep;
        if expert.is_some() || !quantizer.quantizes(&names) {
            let is_new = sweep.shown.insert((names[0].to_string(), expert, sweep.group));
            // The rows of experts are those of the first stream already.
            let own = if expert.is_some() { x } else { &x[..x.len() / 2] };
            return if is_new { quantizer.inputs(&names, expert, n, own) } else { Ok(()) };
        }
        if sweep.quantized.contains(names[0]) {
            return Ok(());
        }
        let (first, second) = x.split_at(x.len() / 2);
        let missing = self.missing.as_ref().filter(|_| is_added(names[0]));
        match missing {
            Some(Missing { values, norm }) if !norm.is_empty() => {
                // To first order an error of the outputs of a token counts by one over their root mean square.
                let outputs = self.weights.apply(linears[0], first, n)?;
                let scales: Vec<f32> = outputs
                    .par_chunks(norm.len())
                    .map(|outputs| 1.0 / root_mean_square(outputs, self.model.eps))
                    .collect();
                let (mut x, mut y) = (self.weights.buffers.copy(first), self.weights.buffers.copy(second));
                scale_rows(&mut x, &scales);
                scale_rows(&mut y, &scales);
                let (mut values, inverse) = (self.weights.buffers.copy(values), inverse_of(norm));
                values.par_chunks_mut(norm.len()).for_each(|row| {
                    row.iter_mut().zip(&inverse).for_each(|(v, factor)| *v *= factor);
                });
                quantizer.pairs(&names, &Pairs { n, x: &x, y: &y, missing: Some(&values) })?;
            }
            _ => {
                let missing = missing.map(|missing| &*missing.values);
                quantizer.pairs(&names, &Pairs { n, x: first, y: second, missing })?;
            }
        }
        if sweep.is_last {
            let made = quantizer.quantized(&names)?;
            for (name, blocks) in names.iter().zip(made) {
                blocks.into_iter().for_each(|blocks| self.weights.set_second(name, blocks));
            }
            sweep.quantized.insert(names[0].to_string());
        }
        sweep.is_waiting = !sweep.is_only;
        if sweep.is_waiting { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Notes what the residual stream `x`, and where it is given `added`, which is still to be added to it, have more in the
    /// first stream, unless the output of the next part gets there in another way than the two that are known.
    pub(super) fn note_missing(&mut self, x: &[f32], added: Option<&[f32]>, way: &Way) -> Result<()> {
        self.missing = None;
        if !matches!(self.seen, Seen::WithSecondStream(_)) {
            return Ok(());
        }
        let width = self.model.width;
        let norm = match way {
            Way::Plain => Vec::new(),
            Way::Normed(name) => self.weights.required_vector(name, width)?,
            Way::Other => return Ok(()),
        };
        let mut values = self.weights.buffers.take(x.len() / 2);
        let (first, second) = x.split_at(x.len() / 2);
        let factor = 1.0 / self.model.residual_scale;
        let rows = values.iter_mut().zip(first).zip(second);
        rows.for_each(|((to, x), y)| *to = factor * (x - y));
        if let Some(added) = added {
            let (first, second) = added.split_at(added.len() / 2);
            values.iter_mut().zip(first).zip(second).for_each(|((to, x), y)| *to += x - y);
        }
        self.missing = Some(Missing { values, norm });
        Ok(())
    }
}

/// Multiplies each row by its factor.
fn scale_rows(rows: &mut [f32], factors: &[f32]) {
    let n = rows.len() / factors.len();
    rows.par_chunks_mut(n).zip(factors).for_each(|(row, factor)| row.iter_mut().for_each(|v| *v *= factor));
}

fn root_mean_square(row: &[f32], eps: f32) -> f32 {
    (row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32 + eps).sqrt()
}

/// Returns factors that undo the weights of a norm: less than one over the weight where this is far below the median, because a
/// change of the output counts little there and would have to be large.
fn inverse_of(norm: &[f32]) -> Vec<f32> {
    let mut squares: Vec<f32> = norm.iter().map(|w| w * w).collect();
    squares.sort_by(f32::total_cmp);
    let small = (SMALL_WEIGHTS * squares[squares.len() / 2]).max(f32::MIN_POSITIVE);
    norm.iter().map(|w| w / (w * w + small)).collect()
}

/// Returns whether the output of a matrix is added to the residual stream, unless a norm comes before.
fn is_added(name: &str) -> bool {
    let (layer, inner) = split_layer(name);
    let names = [
        "attn_output.weight",
        "ffn_down.weight",
        "proj.weight",
        "ssm_out.weight",
        "shortconv.out_proj.weight",
    ];
    layer.is_some() && names.contains(&inner)
}
