//! The gated delta rule (Yang et al. 2025), linear attention of Qwen3-Next and Qwen3.5: each head keeps a matrix that maps
//! keys to values. For every token the matrix decays, and the value of the token's key is corrected.

use rayon::prelude::*;

use crate::error::Result;
use crate::forward::activation::{self, sigmoid, softplus};
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

/// The tensors of a delta net.
struct DeltaNet {
    /// Queries, keys and values.
    qkv: Linear,
    /// The gate of the output.
    gate: Linear,
    /// The strengths of the corrections and the decays: one tensor for each, or one for both.
    strength: Linear,
    decay: Option<Linear>,
    convolution: Convolution,
    /// For each head of values a summand and a factor of its decay.
    decay_bias: Vec<f32>,
    decay_factor: Vec<f32>,
    norm: Vec<f32>,
    output: Linear,
    /// Heads of keys, heads of values, and the size of both.
    heads: usize,
    value_heads: usize,
    dim: usize,
}

impl DeltaNet {
    fn find(weights: &Weights, model: &Model, layer: &Layer) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}", layer.index);
        let Recurrent { taps, inner, state: dim, heads: value_heads, groups: heads } = model.recurrent;
        let output = weights.required_linear(&stem("ssm_out"))?;
        if dim == 0 || heads == 0 || value_heads % heads != 0 || value_heads * dim != inner {
            let what = format!(
                "belongs to {heads} heads of keys and {value_heads} heads of {dim} values, which do not fit {inner} values"
            );
            return Err(weights.fail(&output.name, what));
        }
        let channels = 2 * heads * dim + inner;
        let both = weights.linear(&stem("ssm_ba"))?;
        let (strength, decay) = match both {
            Some(both) => (both, None),
            None => (
                weights.required_linear(&stem("ssm_beta"))?,
                Some(weights.required_linear(&stem("ssm_alpha"))?),
            ),
        };
        let rows = if decay.is_some() { value_heads } else { 2 * value_heads };
        weights.check_shape(&strength, rows, model.width)?;
        decay.iter().try_for_each(|decay| weights.check_shape(decay, value_heads, model.width))?;
        let found = Self {
            qkv: weights.required_linear(&stem("attn_qkv"))?,
            gate: weights.required_linear(&stem("attn_gate"))?,
            strength,
            decay,
            convolution: Convolution::read(weights, &stem("ssm_conv1d"), channels, taps)?,
            decay_bias: weights.required_vector(&stem("ssm_dt.bias"), value_heads)?,
            decay_factor: weights.required_vector(&stem("ssm_a"), value_heads)?,
            norm: weights.required_vector(&stem("ssm_norm.weight"), dim)?,
            output,
            heads,
            value_heads,
            dim,
        };
        weights.check_shape(&found.qkv, channels, model.width)?;
        weights.check_shape(&found.gate, inner, model.width)?;
        weights.check_shape(&found.output, model.width, inner)?;
        Ok(found)
    }

    /// Returns the strength of the correction and the decay of each token and head of values.
    fn rates(&self, strength: &[f32], decay: Option<&[f32]>) -> Vec<(f32, f32)> {
        let (n, shared) = (self.value_heads, self.value_heads / self.heads);
        let rate = |token: usize, head: usize| {
            let (b, a) = match decay {
                Some(decay) => (strength[token * n + head], decay[token * n + head]),
                // The outputs of the heads that share keys stand together: their strengths, then their decays.
                None => {
                    let at = token * 2 * n + head / shared * 2 * shared + head % shared;
                    (strength[at], strength[at + shared])
                }
            };
            let log = softplus(a + self.decay_bias[head]) * self.decay_factor[head];
            (sigmoid(b), activation::exp(log))
        };
        let tokens = strength.len() / if decay.is_some() { n } else { 2 * n };
        (0..tokens).flat_map(|token| (0..n).map(move |head| rate(token, head))).collect()
    }
}

/// Checks the tensors of a delta net.
///
/// # Errors
/// Returns an error about the model if a tensor is missing or has another shape.
pub fn check(weights: &Weights, model: &Model, layer: &Layer) -> Result<()> {
    DeltaNet::find(weights, model, layer).map(drop)
}

impl Pass<'_> {
    /// Computes the delta net of a layer for its normalized input.
    pub(super) fn delta_net(&mut self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Buffer> {
        let (weights, width, tokens) = (self.weights, self.model.width, group.tokens.len());
        let of = DeltaNet::find(weights, self.model, layer)?;
        let sharing: Vec<&Linear> = [Some(&of.qkv), Some(&of.gate), Some(&of.strength), of.decay.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        self.observe(&sharing, None, width, input)?;
        let rates = {
            let strength = weights.apply(&of.strength, input, width)?;
            let decay = of.decay.as_ref().map(|decay| weights.apply(decay, input, width)).transpose()?;
            of.rates(&strength, decay.as_deref())
        };
        let projected = weights.apply(&of.qkv, input, width)?;
        let channels = of.qkv.rows();
        let mut mixed = weights.buffers.take(tokens * channels);
        of.convolution.apply(&projected, channels, group, 0, &mut mixed);
        drop(projected);
        activation::plain(Activation::Silu, &mut mixed);
        let (dim, keys) = (of.dim, of.heads * of.dim);
        normalize_heads(&mut mixed, channels, 2 * keys, dim, self.model.eps);
        let mut y = weights.buffers.take(tokens * of.value_heads * dim);
        let (isa, scale, tiled) = (Isa::detect(), 1.0 / (dim as f32).sqrt(), self.model.family.tiled_heads);
        each_head(&weights.buffers, &group.lengths, of.value_heads, dim, &mut y, |track| {
            let head = track.head;
            let of_keys = if tiled { head % of.heads } else { head / (of.value_heads / of.heads) };
            let mut state = vec![0.0; dim * dim];
            for (i, out) in track.out.chunks_exact_mut(dim).enumerate() {
                let token = track.first + i;
                let row = &mixed[token * channels..][..channels];
                let (strength, decay) = rates[token * of.value_heads + head];
                let (q, k) = (&row[of_keys * dim..][..dim], &row[keys + of_keys * dim..][..dim]);
                let v = &row[2 * keys + head * dim..][..dim];
                step(isa, &mut state, &Token { q, k, v, strength, decay }, scale, out);
            }
        });
        drop(mixed);
        Norm { weight: of.norm.clone(), ..Norm::without_weights(NormKind::Rms, self.model.eps) }
            .apply(&mut y, dim);
        let mut gate = weights.apply(&of.gate, input, width)?;
        activation::gated(Activation::Silu, &mut gate, &y);
        let n = of.value_heads * dim;
        self.observe(&[&of.output], None, n, &gate)?;
        weights.apply(&of.output, &gate, n)
    }
}

/// Scales every head of `dim` values among the first `n` values of each row to the length 1.
fn normalize_heads(x: &mut [f32], width: usize, n: usize, dim: usize, eps: f32) {
    x.par_chunks_mut(width).for_each(|row| {
        for head in row[..n].chunks_exact_mut(dim) {
            let squares: f64 = head.iter().map(|&x| f64::from(x * x)).sum();
            let factor = 1.0 / (squares as f32).sqrt().max(eps);
            head.iter_mut().for_each(|x| *x *= factor);
        }
    });
}

/// What one token brings to the state of a head.
struct Token<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// How much of the value of the key is corrected.
    strength: f32,
    /// Factor of the state.
    decay: f32,
}

dispatch! {
    /// One token of one head. Row j of `state` holds what the keys map to value j.
    fn step(_simd: S, state: &mut [f32], token: &Token<'_>, scale: f32, out: &mut [f32]) {
        for ((row, &v), out) in state.chunks_exact_mut(token.k.len()).zip(token.v).zip(out) {
            row.iter_mut().for_each(|s| *s *= token.decay);
            let correction = (v - dot(row, token.k)) * token.strength;
            row.iter_mut().zip(token.k).for_each(|(s, k)| *s += correction * k);
            *out = dot(row, token.q) * scale;
        }
    }
}
