//! State-space blocks: Mamba (Gu and Dao 2023), whose every channel has a state of its own with a decay for each of its
//! values, and Mamba 2 (Dao and Gu 2024), whose states belong to heads with one decay.

use rayon::prelude::*;

use crate::error::Result;
use crate::forward::activation::{self, softplus};
use crate::forward::arch::{Activation, NormKind};
use crate::forward::buffers::Buffer;
use crate::forward::convolution::Convolution;
use crate::forward::groups::Group;
use crate::forward::model::{Layer, Model, Recurrent};
use crate::forward::norm::Norm;
use crate::forward::pass::Pass;
use crate::forward::recurrence::{dot, each_head};
use crate::forward::weights::{Linear, Weights};
use crate::simd::{Isa, dispatch};

/// The tensors of both kinds of blocks.
struct Block {
    input: Linear,
    output: Linear,
    convolution: Convolution,
    /// The (negative) rates of decay.
    rates: Vec<f32>,
    /// Factor of the inputs that are added to the outputs.
    skip: Vec<f32>,
    sizes: Recurrent,
}

impl Block {
    /// Finds the tensors. `rows` is the number of outputs of the first matrix, `channels` how many of them are convolved,
    /// `rates` the number of rates and `skips` that of the factors.
    fn find(
        weights: &Weights,
        model: &Model,
        layer: &Layer,
        [rows, channels, rates, skips]: [usize; 4],
    ) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}", layer.index);
        let sizes = model.recurrent;
        let block = Self {
            input: weights.required_linear(&stem("ssm_in"))?,
            output: weights.required_linear(&stem("ssm_out"))?,
            convolution: Convolution::read(weights, &stem("ssm_conv1d"), channels, sizes.taps)?,
            rates: weights.required_vector(&stem("ssm_a"), rates)?,
            skip: weights.required_vector(&stem("ssm_d"), skips)?,
            sizes,
        };
        weights.check_shape(&block.input, rows, model.width)?;
        weights.check_shape(&block.output, model.width, sizes.inner)?;
        Ok(block)
    }
}

/// What only Mamba has: the step sizes, inputs and outputs of the states are computed by matrices of their own.
struct Mamba {
    block: Block,
    /// Makes step sizes of few values, and the weights of the states' inputs and outputs.
    select: Linear,
    /// Makes a step size for each channel of the few.
    step: Linear,
    /// The norms of the step sizes, the inputs and the outputs; `None` if there are none.
    norms: Option<[Vec<f32>; 3]>,
}

impl Mamba {
    fn find(weights: &Weights, model: &Model, layer: &Layer) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}", layer.index);
        let Recurrent { inner, state, heads: rank, .. } = model.recurrent;
        let block = Block::find(weights, model, layer, [2 * inner, inner, inner * state, inner])?;
        let select = weights.required_linear(&stem("ssm_x"))?;
        let step = weights.required_linear(&stem("ssm_dt"))?;
        weights.check_shape(&select, rank + 2 * state, inner)?;
        weights.check_shape(&step, inner, rank)?;
        let norm = |name: &str, n| weights.vector(&format!("{}.weight", stem(name)), n);
        let norms = match (norm("ssm_dt_norm", rank)?, norm("ssm_b_norm", state)?, norm("ssm_c_norm", state)?)
        {
            (Some(step), Some(input), Some(output)) => Some([step, input, output]),
            _ if model.norms_of_selection => Some([Vec::new(), Vec::new(), Vec::new()]),
            (None, None, None) => None,
            _ => return Err(weights.fail(&select.name, "has norms for some of its outputs only".into())),
        };
        Ok(Self { block, select, step, norms })
    }
}

/// What only Mamba 2 has.
struct Mamba2 {
    block: Block,
    /// Summand of the step size of each head.
    step_bias: Vec<f32>,
    /// The norm of the outputs in groups; empty if there is none.
    norm: Vec<f32>,
}

impl Mamba2 {
    fn find(weights: &Weights, model: &Model, layer: &Layer) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}", layer.index);
        let Recurrent { inner, state, heads, groups, .. } = model.recurrent;
        if heads == 0 || groups == 0 || inner % heads != 0 || inner % groups != 0 || heads % groups != 0 {
            let what =
                format!("belongs to {heads} heads in {groups} groups, which do not fit {inner} values");
            return Err(weights.fail(&format!("{}.weight", stem("ssm_in")), what));
        }
        let channels = inner + 2 * groups * state;
        let block = Block::find(weights, model, layer, [inner + channels + heads, channels, heads, heads])?;
        Ok(Self {
            block,
            step_bias: weights.required_vector(&stem("ssm_dt.bias"), heads)?,
            norm: weights.vector(&format!("{}.weight", stem("ssm_norm")), inner)?.unwrap_or_default(),
        })
    }
}

/// Checks the tensors of a block of Mamba, or of Mamba 2 if `second` is set.
///
/// # Errors
/// Returns an error about the model if a tensor is missing or has another shape.
pub fn check(weights: &Weights, model: &Model, layer: &Layer, second: bool) -> Result<()> {
    match second {
        true => Mamba2::find(weights, model, layer).map(drop),
        false => Mamba::find(weights, model, layer).map(drop),
    }
}

impl Pass<'_> {
    /// Computes Mamba's block for the normalized input of a layer.
    pub(super) fn mamba(&mut self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Buffer> {
        let (weights, width, tokens) = (self.weights, self.model.width, group.tokens.len());
        let Mamba { block, select, step, norms } = Mamba::find(weights, self.model, layer)?;
        let Recurrent { inner, state, heads: rank, .. } = block.sizes;
        self.observe(&[&block.input], None, width, input)?;
        let projected = weights.apply(&block.input, input, width)?;
        let mut x = weights.buffers.take(tokens * inner);
        block.convolution.apply(&projected, 2 * inner, group, 0, &mut x);
        activation::plain(Activation::Silu, &mut x);
        self.observe(&[&select], None, inner, &x)?;
        let selected = weights.apply(&select, &x, inner)?;
        let part = |from: usize, n: usize, norm: usize| {
            let mut part = weights.buffers.columns(&selected, rank + 2 * state, from, n);
            if let Some(norms) = &norms {
                let plain = Norm::without_weights(NormKind::Rms, self.model.eps);
                Norm { weight: norms[norm].clone(), ..plain }.apply(&mut part, n);
            }
            part
        };
        let (few, into, out_of) = (part(0, rank, 0), part(rank, state, 1), part(rank + state, state, 2));
        self.observe(&[&step], None, rank, &few)?;
        let mut steps = weights.apply(&step, &few, rank)?;
        steps.par_chunks_mut(inner).for_each(|row| row.iter_mut().for_each(|x| *x = softplus(*x)));
        let mut y = weights.buffers.take(tokens * inner);
        let isa = Isa::detect();
        each_head(&weights.buffers, &group.lengths, inner, 1, &mut y, |track| {
            let channel = track.head;
            let (rates, mut values) = (&block.rates[channel * state..][..state], vec![0.0; state]);
            for (i, out) in track.out.iter_mut().enumerate() {
                let token = track.first + i;
                let (by, x) = (steps[token * inner + channel], x[token * inner + channel]);
                let (into, out_of) = (&into[token * state..][..state], &out_of[token * state..][..state]);
                let y = channel_step(isa, &mut values, rates, &Token { step: by, into, out_of }, x);
                *out = y + x * block.skip[channel];
            }
        });
        let mut gated = weights.buffers.columns(&projected, 2 * inner, inner, inner);
        activation::gated(Activation::Silu, &mut gated, &y);
        self.observe(&[&block.output], None, inner, &gated)?;
        weights.apply(&block.output, &gated, inner)
    }

    /// Computes Mamba 2's block for the normalized input of a layer.
    pub(super) fn mamba2(&mut self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Buffer> {
        let (weights, width, tokens) = (self.weights, self.model.width, group.tokens.len());
        let Mamba2 { block, step_bias, norm } = Mamba2::find(weights, self.model, layer)?;
        let Recurrent { inner, state, heads, groups, .. } = block.sizes;
        let (dim, rows, channels) = (inner / heads, block.input.rows(), inner + 2 * groups * state);
        self.observe(&[&block.input], None, width, input)?;
        // Each row holds the gate, what is convolved (inputs, and the weights of the states' inputs and outputs), and the
        // step sizes.
        let projected = weights.apply(&block.input, input, width)?;
        let mut mixed = weights.buffers.take(tokens * channels);
        block.convolution.apply(&projected[inner..], rows, group, 0, &mut mixed);
        activation::plain(Activation::Silu, &mut mixed);
        let mut y = weights.buffers.take(tokens * inner);
        let isa = Isa::detect();
        each_head(&weights.buffers, &group.lengths, heads, dim, &mut y, |track| {
            let head = track.head;
            let of_group = head / (heads / groups) * state;
            let mut values = vec![0.0; dim * state];
            for (i, out) in track.out.chunks_exact_mut(dim).enumerate() {
                let token = track.first + i;
                let row = &mixed[token * channels..][..channels];
                let (into, out_of) =
                    (&row[inner + of_group..][..state], &row[inner + groups * state + of_group..][..state]);
                let by = softplus(projected[token * rows + inner + channels + head] + step_bias[head]);
                let x = &row[head * dim..][..dim];
                let decay = activation::exp(by * block.rates[head]);
                head_step(isa, &mut values, decay, &Token { step: by, into, out_of }, x, out);
                out.iter_mut().zip(x).for_each(|(out, x)| *out += x * block.skip[head]);
            }
        });
        let mut gated = weights.buffers.columns(&projected, rows, 0, inner);
        activation::gated(Activation::Silu, &mut gated, &y);
        if !norm.is_empty() {
            let plain = Norm::without_weights(NormKind::Rms, self.model.eps);
            Norm { weight: norm, ..plain }.apply(&mut gated, inner / groups);
        }
        self.observe(&[&block.output], None, inner, &gated)?;
        weights.apply(&block.output, &gated, inner)
    }
}

/// What one token brings to the state of a channel or a head.
struct Token<'a> {
    /// The size of the step.
    step: f32,
    /// How the input enters each value of the state, and how each value enters the output.
    into: &'a [f32],
    out_of: &'a [f32],
}

dispatch! {
    /// One token of one channel of Mamba: value i of the state decays by e^(rate i step). Returns the output.
    fn channel_step(_simd: S, state: &mut [f32], rates: &[f32], token: &Token<'_>, x: f32) -> f32 {
        let x = x * token.step;
        for ((s, rate), into) in state.iter_mut().zip(rates).zip(token.into) {
            *s = *s * activation::exp(token.step * rate) + into * x;
        }
        dot(state, token.out_of)
    }

    /// One token of one head of Mamba 2. Each value of `x` has a row of `state`.
    fn head_step(_simd: S, state: &mut [f32], decay: f32, token: &Token<'_>, x: &[f32], out: &mut [f32]) {
        for ((row, x), out) in state.chunks_exact_mut(token.into.len()).zip(x).zip(out) {
            let x = x * token.step;
            row.iter_mut().zip(token.into).for_each(|(s, into)| *s = *s * decay + into * x);
            *out = dot(row, token.out_of);
        }
    }
}
