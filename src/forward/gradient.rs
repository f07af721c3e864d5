//! The way back through a model: the derivatives of the log-likelihood of tokens that the model itself has drawn.
//!
//! The inputs of all layers are kept on the way to the output. On the way back each layer is computed once more. So the run takes about
//! three times as long as a pass, and keeps a state of each token for each layer, in a file where memory is short.

use rayon::prelude::*;

use crate::error::{Error, Place, Result};
use crate::forward::activation;
use crate::forward::arch::Order;
use crate::forward::attention::softmax;
use crate::forward::buffers::Buffer;
use crate::forward::gradient_observer::GradientObserver;
use crate::forward::groups::{self, groups};
use crate::forward::head::{LOGITS, finish_logits};
use crate::forward::layer_gradient::Collected;
use crate::forward::mixer::Mixer;
use crate::forward::model::{Layer, Model};
use crate::forward::order;
use crate::forward::pass::{Pass, RunOptions, on_pass, tokens_of};
use crate::forward::spill::SpillBuffer;
use crate::forward::streams::Seen;
use crate::forward::token_weights::Gradients;
use crate::forward::vectors::{PIECE, scale};
use crate::forward::weights::Weights;
use crate::forward::{NoObserver, Observer};
use crate::model::bound::BoundModel;
use crate::noise::Noise;
use crate::progress::Progress;
use crate::simd::Isa;

/// Largest number of tokens of a chunk: a thread holds the scores of all pairs of its tokens, two to three times.
pub const MAX_CHUNK: usize = 4096;
/// Tensors of a layer that have a part in it whose derivatives are not known here.
const UNKNOWN: [&str; 6] =
    ["attn_gate", "attn_norm_2", "attn_sinks", "attn_sub_norm", "ffn_gate_inp", "ffn_sub_norm"];

/// Returns the gradients of some chunks, whose first token is number `first` of all tokens. A `seed` draws the same tokens on every
/// machine. `longest` is the number of tokens of the longest chunk of all, which decides how positions are rotated.
///
/// The result has the same bits for any number of threads, any memory and on every CPU, and the gradients of a chunk do not depend on
/// other chunks.
///
/// # Errors
/// As [`run`](crate::forward::run), [`Error::Model`] for a model that [`has_gradient`] does not know, and [`Error::Usage`] for chunks of
/// more than [`MAX_CHUNK`] tokens.
pub fn gradients(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    (first, longest): (usize, usize),
    seed: u64,
    options: &RunOptions,
) -> Result<Gradients> {
    let mut found = Gradients::new(tokens_of(tokens));
    there_and_back(source, tokens, (first, longest), seed, &mut NoObserver, &mut found, options)?;
    Ok(found)
}

/// Runs the model there, which shows `observer` the inputs of every matrix, and back, which shows `to` the derivatives.
///
/// # Errors
/// As [`gradients`].
pub(super) fn there_and_back(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    (first, longest): (usize, usize),
    seed: u64,
    observer: &mut dyn Observer,
    to: &mut dyn GradientObserver,
    options: &RunOptions,
) -> Result<()> {
    if !has_gradient(source)? {
        let what = "has parts whose derivatives are not known, so its tokens cannot be weighed";
        return Err(Error::model(Place::file(source.path()), what, "Leave out --weigh-tokens"));
    }
    let longest = groups::longest(tokens)?.max(longest);
    if longest > MAX_CHUNK {
        let what = format!("tokens of chunks of more than {MAX_CHUNK} tokens cannot be weighed");
        return Err(Error::usage(what, "Ask for shorter chunks (--ctx)"));
    }
    let weights = Weights::new(source, options.progress, options.max_memory / 8);
    on_pass(source, tokens, Seen::By(observer), options, weights, longest, |mut pass| {
        pass.there_and_back(source, tokens, (first, seed), to, options)
    })
}

/// Returns whether [`gradients`] knows the derivatives of all parts of a model.
///
/// # Errors
/// As [`check`](crate::forward::check).
pub fn has_gradient(source: &BoundModel) -> Result<bool> {
    let progress = Progress::default();
    let weights = Weights::new(source, &progress, 0);
    let model = Model::read(source, &weights, 1)?;
    let family = model.family;
    let is_plain = model.states == 1
        && !(model.per_layer > 0 && model.parallel)
        && family.lm_head
        && family.order != Order::PostNorm
        && !family.gated_queries
        && !family.layers_may_lack_parts
        && family.sparse_layers == 0
        && model.clamp.is_none()
        && model.temperature.is_none()
        && !model.heads_normalized
        && model.xielu.is_empty()
        && activation::has_gradient(model.activation);
    let is_known = |layer: &Layer| {
        let has = |name: &str| {
            let stem = format!("blk.{}.{name}", layer.index);
            weights.has(&format!("{stem}.weight")) || weights.has(&stem)
        };
        layer.mixer == Mixer::Attention && !UNKNOWN.iter().any(|name| has(name))
    };
    Ok(is_plain && model.layers.iter().all(is_known))
}

impl Pass<'_> {
    fn there_and_back(
        &mut self,
        source: &BoundModel,
        tokens: &[Vec<u32>],
        (first, seed): (usize, u64),
        to: &mut dyn GradientObserver,
        options: &RunOptions,
    ) -> Result<()> {
        let (model, steps) = (self.model, options.progress);
        let (n, width) = (tokens_of(tokens), model.width);
        // On the way back a token needs the values of the layer and their derivatives.
        let per_token = 2 * model.values_per_token(source) * size_of::<f32>();
        let groups = groups(tokens, (options.max_memory / 2) as usize / per_token);
        steps.start("", ((2 * model.layers.len() + 1) * groups.len()) as u64);
        let order = order::order_there_and_back(source, groups.len());
        let _fetching = source.source.read_ahead(order, options.max_memory / 8, Some(options.spill_folder));
        let buffer = |values: usize| {
            let spill = (values * size_of::<f32>()) as u64 > options.max_memory / 4;
            SpillBuffer::zeros(values, spill.then_some(options.spill_folder))
        };
        let mut x = self.buffers(tokens, options, &groups)?;
        self.begin(&groups, &mut x)?;
        let mut inputs = buffer(n * width * model.layers.len())?;
        for layer in &model.layers {
            for group in &groups {
                let mut rows = self.rows_of(group, &x)?;
                inputs.save((layer.index * n + group.first) * width, &rows)?;
                self.layer(layer, group, &mut rows)?;
                x.save(group.first * width, &rows)?;
                steps.add(1);
            }
        }
        let noise = Noise::new(seed, "drawn tokens");
        for group in &groups {
            let rows = self.rows_of(group, &x)?;
            let gradient = self.head_gradient(&rows, (first, group.first), &noise, to)?;
            x.save(group.first * width, &gradient)?;
            steps.add(1);
        }
        let of_keys = self.kv.keys().map(|of| {
            let Layer { n_head_kv, head_dim, head_dim_v, .. } = model.layers[*of];
            Ok((*of, [buffer(n * n_head_kv * head_dim)?, buffer(n * n_head_kv * head_dim_v)?]))
        });
        let mut collected = Collected { gradients: to, of_keys: of_keys.collect::<Result<_>>()? };
        for layer in model.layers.iter().rev() {
            for group in &groups {
                let mut input = self.weights.buffers.take(group.tokens.len() * width);
                inputs.load((layer.index * n + group.first) * width, &mut input)?;
                let mut gradient = self.rows_of(group, &x)?;
                self.layer_gradient(layer, group, &input, &mut gradient, &mut collected)?;
                x.save(group.first * width, &gradient)?;
                steps.add(1);
            }
        }
        let is_normed = self.weights.has("token_embd_norm.weight");
        for group in groups.iter().filter(|_| !is_normed) {
            let mut gradient = self.rows_of(group, &x)?;
            scale(&mut gradient, model.embedding_scale);
            collected.gradients.of_embeddings(&group.tokens, &gradient);
        }
        Ok(())
    }

    /// Returns the derivatives, by the outputs `x` of the last layer, of minus the log-likelihood of tokens that are drawn here.
    /// The first token is number `first` of those of the run, whose first token is number `start` of all tokens. `to` receives the
    /// derivatives by the outputs of the output matrix.
    fn head_gradient(
        &mut self,
        x: &[f32],
        (start, first): (usize, usize),
        noise: &Noise,
        to: &mut dyn GradientObserver,
    ) -> Result<Buffer> {
        let (model, weights, width) = (self.model, self.weights, self.model.width);
        let norm = self.find_output_norm()?;
        let output = self.output_matrix()?;
        let mut normalized = weights.buffers.copy(x);
        norm.iter().for_each(|norm| norm.apply(&mut normalized, width));
        self.observe(&[&output], None, width, &normalized)?;
        let mut gradient = self.zeros(x.len());
        let tokens = (LOGITS / output.rows()).max(1);
        let pieces = normalized.chunks(tokens * width).zip(gradient.chunks_mut(tokens * width));
        for (piece, (x, gradient)) in pieces.enumerate() {
            let mut y = weights.apply(&output, x, width)?;
            finish_logits(model, &mut y);
            y.par_chunks_mut(output.rows()).enumerate().for_each(|(i, y)| {
                let word = noise.word((start + first + piece * tokens + i) as u64);
                against_a_drawn_token(y, model.logit_cap, word);
                y.iter_mut().for_each(|y| *y *= model.logit_scale);
            });
            to.of_logits(&output, &y, first + piece * tokens);
            weights.add_transposed(&output.matrix, &y, gradient)?;
        }
        norm.iter().for_each(|norm| norm.gradient(x, &mut gradient, width));
        Ok(gradient)
    }

    /// Returns a buffer of zeros.
    pub(super) fn zeros(&self, len: usize) -> Buffer {
        let mut buffer = self.weights.buffers.take(len);
        buffer.par_chunks_mut(PIECE).for_each(|x| x.fill(0.0));
        buffer
    }
}

/// Draws a token from the softmax of logits by a random word, and turns the logits into the derivatives of minus its log-probability
/// by them, or by what they were before their cap.
fn against_a_drawn_token(logits: &mut [f32], cap: Option<f32>, word: u32) {
    let slope = |logit: f32, cap: f32| 1.0 - (logit / cap) * (logit / cap);
    let slopes: Vec<f32> = cap.map_or_else(Vec::new, |cap| logits.iter().map(|l| slope(*l, cap)).collect());
    softmax(Isa::detect(), logits, 1.0, 0.0, f32::NEG_INFINITY);
    let target = (f64::from(word) + 0.5) / 2f64.powi(32);
    let mut sum = 0.0;
    let drawn = logits.iter().position(|p| {
        sum += f64::from(*p);
        sum > target
    });
    // The shares may add up to a little less than one.
    let drawn = drawn.unwrap_or(logits.len() - 1);
    logits[drawn] -= 1.0;
    logits.iter_mut().zip(slopes).for_each(|(y, slope)| *y *= slope);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derivatives_are_those_of_the_drawn_token() {
        let logits = [0.5f32, -1.0, 2.0, 0.0];
        let minus_log = |logits: &[f32; 4], cap: Option<f32>, token: usize| {
            let of = |x: f32| {
                cap.map_or(f64::from(x), |cap| f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh())
            };
            logits.iter().map(|x| of(*x).exp()).sum::<f64>().ln() - of(logits[token])
        };
        for cap in [None, Some(1.5)] {
            let mut capped = logits;
            cap.iter().for_each(|cap| activation::soft_cap(&mut capped, *cap));
            let mut seen = [false; 4];
            for word in (0..64).map(|i| i << 26) {
                let mut found = capped;
                against_a_drawn_token(&mut found, cap, word);
                let drawn = found.iter().position(|g| *g < 0.0).unwrap();
                seen[drawn] = true;
                for at in 0..4 {
                    let moved = |step: f32| {
                        let mut logits = logits;
                        logits[at] += step;
                        minus_log(&logits, cap, drawn)
                    };
                    let expected = (moved(1.0 / 64.0) - moved(-1.0 / 64.0)) * 32.0;
                    assert!((f64::from(found[at]) - expected).abs() < 1e-3, "{cap:?} {drawn} {at}");
                }
            }
            assert_eq!(seen, [true; 4], "{cap:?}");
        }
    }
}
