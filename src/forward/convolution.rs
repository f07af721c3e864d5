//! Short causal convolutions along the tokens, one filter for each channel, and the block of LFM2 that is made of one: the
//! inputs of a convolution are gated, and so are its outputs.

use rayon::prelude::*;

use crate::error::Result;
use crate::forward::buffers::Buffer;
use crate::forward::groups::Group;
use crate::forward::model::{Layer, Model};
use crate::forward::pass::Pass;
use crate::forward::weights::{Linear, Weights};

/// The filters of a convolution.
pub struct Convolution {
    channels: usize,
    /// For each tap, the oldest token first, a weight for each channel.
    taps: Vec<f32>,
    /// A summand for each channel; empty if there is none.
    bias: Vec<f32>,
}

impl Convolution {
    /// Reads `STEM.weight`, `[channels, taps]`, and `STEM.bias`.
    ///
    /// # Errors
    /// Returns an error about the model if the weights are missing or have another shape.
    pub fn read(weights: &Weights, stem: &str, channels: usize, taps: usize) -> Result<Self> {
        let of_channels = weights.required_vector(&format!("{stem}.weight"), channels * taps)?;
        let mut by_tap = vec![0.0; channels * taps];
        for (channel, filter) in of_channels.chunks_exact(taps.max(1)).enumerate() {
            filter.iter().enumerate().for_each(|(tap, &w)| by_tap[tap * channels + channel] = w);
        }
        let bias = weights.vector(&format!("{stem}.bias"), channels)?.unwrap_or_default();
        Ok(Self { channels, taps: by_tap, bias })
    }

    /// Convolves rows of `x`, whose first `channels` values of each `width` are the inputs. Outside a chunk there are zeros.
    /// The last tap sees the token that is `ahead` tokens behind the token of the output.
    pub fn apply(&self, x: &[f32], width: usize, group: &Group, ahead: usize, out: &mut [f32]) {
        let (n, taps) = (self.channels, self.taps.len() / self.channels);
        let lengths = group.lengths.iter().flat_map(|&length| std::iter::repeat_n(length, length));
        let places: Vec<(usize, usize)> = group
            .positions
            .iter()
            .zip(lengths)
            .map(|(&position, length)| (position as usize, length))
            .collect();
        out.par_chunks_mut(n).zip(&places).enumerate().for_each(|(row, (out, &(position, length)))| {
            out.fill(0.0);
            // Tap i sees the token at `position + ahead + 1 + i - taps`, if the chunk has it.
            let first = taps.saturating_sub(position + ahead + 1);
            let last = taps.min(length + taps - (position + ahead + 1).min(length + taps));
            for tap in first..last {
                let from = &x[(row + ahead + 1 + tap - taps) * width..][..n];
                let of_tap = &self.taps[tap * n..][..n];
                out.iter_mut().zip(from).zip(of_tap).for_each(|((out, x), w)| *out += x * w);
            }
            out.iter_mut().zip(&self.bias).for_each(|(out, b)| *out += b);
        });
    }
}

/// The matrices of LFM2's block.
struct Gated {
    input: Linear,
    output: Linear,
    convolution: Convolution,
}

impl Gated {
    fn find(weights: &Weights, model: &Model, layer: &Layer) -> Result<Self> {
        let (stem, width) = (format!("blk.{}.shortconv", layer.index), model.width);
        let input = weights.required_linear(&format!("{stem}.in_proj"))?;
        let output = weights.required_linear(&format!("{stem}.out_proj"))?;
        weights.check_shape(&input, 3 * width, width)?;
        weights.check_shape(&output, width, width)?;
        let convolution = Convolution::read(weights, &format!("{stem}.conv"), width, model.taps)?;
        Ok(Self { input, output, convolution })
    }
}

/// Checks the tensors of LFM2's block.
///
/// # Errors
/// Returns an error about the model if a tensor is missing or has another shape.
pub fn check(weights: &Weights, model: &Model, layer: &Layer) -> Result<()> {
    Gated::find(weights, model, layer).map(drop)
}

impl Pass<'_> {
    /// Computes LFM2's block for the normalized input of a layer.
    pub(super) fn gated_convolution(
        &mut self,
        layer: &Layer,
        group: &Group,
        input: &[f32],
    ) -> Result<Buffer> {
        let width = self.model.width;
        let of = Gated::find(self.weights, self.model, layer)?;
        self.observe(&[&of.input], None, width, input)?;
        let mut projected = self.weights.apply(&of.input, input, width)?;
        // Each row holds the gate of the inputs, the gate of the outputs, and the inputs.
        projected.par_chunks_mut(3 * width).for_each(|row| {
            let (gate, rest) = row.split_at_mut(width);
            gate.iter_mut().zip(&rest[width..]).for_each(|(gate, x)| *gate *= x);
        });
        let mut y = self.weights.buffers.take(input.len());
        // An encoder sees as many tokens on both sides.
        let ahead = if self.model.causal { 0 } else { (self.model.taps - 1) / 2 };
        of.convolution.apply(&projected, 3 * width, group, ahead, &mut y);
        y.par_chunks_mut(width).zip(projected.par_chunks(3 * width)).for_each(|(y, row)| {
            y.iter_mut().zip(&row[width..]).for_each(|(y, gate)| *y *= gate);
        });
        self.observe(&[&of.output], None, width, &y)?;
        self.weights.apply(&of.output, &y, width)
    }
}
