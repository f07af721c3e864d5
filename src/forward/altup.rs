//! Alternating updates of Gemma 3n (AltUp, Baykal et al. 2023): a token has several states of the model's width. A layer predicts
//! all states from the old ones, computes one of them, and corrects the others by what the prediction missed. Beside the
//! attention a matrix of low rank learns the residual (LAuReL, Menghani et al. 2024).

use rayon::prelude::*;

use crate::error::Result;
use crate::forward::activation;
use crate::forward::buffers::Buffer;
use crate::forward::groups::Group;
use crate::forward::model::Layer;
use crate::forward::pass::Pass;
use crate::forward::vectors::{add, scale};

impl Pass<'_> {
    /// Makes the states of the tokens from their embeddings: `[tokens, states, width]`.
    pub(super) fn begin_states(&mut self, embedded: &[f32]) -> Result<Buffer> {
        let (weights, width, states) = (self.weights, self.model.width, self.model.states);
        let project = weights.required_linear("altup_proj")?;
        weights.check_shape(&project, (states - 1) * width, width)?;
        let mut x = weights.buffers.take(embedded.len() * states);
        set_state(&mut x, width, states, 0, embedded);
        for state in 1..states {
            self.observe(&[&project], Some(state - 1), width, embedded)?;
            let mut y = weights.apply(&project.slice((state - 1) * width..state * width), embedded, width)?;
            match_magnitudes(&mut y, embedded, width);
            set_state(&mut x, width, states, state, &y);
        }
        Ok(x)
    }

    /// Joins the states of the tokens: their mean, after each got the magnitude of the active state.
    pub(super) fn join_states(&mut self, x: &[f32]) -> Result<Buffer> {
        let (weights, width, states) = (self.weights, self.model.width, self.model.states);
        let project = weights.required_linear("altup_unembd_proj")?;
        weights.check_shape(&project, (states - 1) * width, width)?;
        let active = self.state(x, self.model.active_state);
        let mut sum = self.state(x, 0);
        for state in 1..states {
            let one = self.state(x, state);
            self.observe(&[&project], Some(state - 1), width, &one)?;
            let mut y = weights.apply(&project.slice((state - 1) * width..state * width), &one, width)?;
            match_magnitudes(&mut y, &active, width);
            add(&mut sum, &y, 1.0);
        }
        scale(&mut sum, 1.0 / states as f32);
        Ok(sum)
    }

    /// Computes a layer in place of the states `x`.
    pub(super) fn layer_of_states(&mut self, layer: &Layer, group: &Group, x: &mut [f32]) -> Result<()> {
        let (width, states, blk) = (self.model.width, self.model.states, format!("blk.{}", layer.index));
        self.predict(&blk, x)?;
        let predicted = self.state(x, self.model.active_state);
        let mut y = self.weights.buffers.copy(&predicted);
        self.compute_state(layer, group, &blk, &mut y)?;
        let coefficients = self.coefficients(&blk, "altup_correct_coef", states, &y)?;
        x.par_chunks_mut(states * width).enumerate().for_each(|(token, x)| {
            let (y, predicted) = (&y[token * width..][..width], &predicted[token * width..][..width]);
            for (state, c) in x.chunks_exact_mut(width).zip(&coefficients[token * states..]) {
                let missed = y.iter().zip(predicted).map(|(y, p)| y - p);
                state.iter_mut().zip(missed).for_each(|(x, missed)| *x += missed * (c + 1.0));
            }
        });
        let mut first = self.state(x, self.model.active_state);
        if let Some(factors) = self.weights.vector(&format!("{blk}.altup_correct_scale.weight"), width)? {
            first.par_chunks_mut(width).for_each(|x| x.iter_mut().zip(&factors).for_each(|(x, f)| *x *= f));
        }
        let added = self.per_layer(layer, group, &first)?;
        x.par_chunks_mut(states * width).zip(added.par_chunks(width)).for_each(|(x, added)| {
            for state in x.chunks_exact_mut(width).skip(1) {
                state.iter_mut().zip(added).for_each(|(x, a)| *x += a);
            }
        });
        Ok(())
    }

    /// Computes attention and the feed-forward network in place of one state.
    fn compute_state(&mut self, layer: &Layer, group: &Group, blk: &str, x: &mut [f32]) -> Result<()> {
        let (weights, width, family) = (self.weights, self.model.width, self.model.family);
        let mut input = weights.buffers.copy(x);
        self.normalize(&format!("{blk}.{}", family.attention_norm), &mut input)?;
        let left = weights.required_linear(&format!("{blk}.laurel_l"))?;
        let right = weights.required_linear(&format!("{blk}.laurel_r"))?;
        weights.check_inputs(&left.matrix, width)?;
        weights.check_shape(&right, width, left.rows())?;
        self.observe(&[&left], None, width, &input)?;
        let few = weights.apply(&left, &input, width)?;
        self.observe(&[&right], None, left.rows(), &few)?;
        let mut residual = weights.apply(&right, &few, left.rows())?;
        self.normalize(&format!("{blk}.laurel_post_norm"), &mut residual)?;
        add(&mut residual, &input, 1.0);
        let mut attended = self.attention(layer, group, &input)?;
        self.normalize(&format!("{blk}.{}", family.attention_post_norm), &mut attended)?;
        add(x, &attended, 1.0);
        add(x, &residual, 1.0);
        scale(x, std::f32::consts::FRAC_1_SQRT_2);
        input.copy_from_slice(x);
        self.normalize(&format!("{blk}.{}", family.ffn_norm), &mut input)?;
        let mut y = self.feed_forward(layer, x, &input)?;
        self.normalize(&format!("{blk}.{}", family.ffn_post_norm), &mut y)?;
        add(x, &y, 1.0);
        Ok(())
    }

    /// Replaces all states by their predictions.
    fn predict(&self, blk: &str, x: &mut [f32]) -> Result<()> {
        let (width, states) = (self.model.width, self.model.states);
        let active = self.state(x, self.model.active_state);
        let coefficients = self.coefficients(blk, "altup_predict_coef", states * states, &active)?;
        x.par_chunks_mut(states * width).zip(coefficients.par_chunks(states * states)).for_each(
            |(x, of_token)| {
                let old = x.to_vec();
                for (to, from_each) in x.chunks_exact_mut(width).zip(of_token.chunks_exact(states)) {
                    for (from, c) in old.chunks_exact(width).zip(from_each) {
                        to.iter_mut().zip(from).for_each(|(to, from)| *to += c * from);
                    }
                }
            },
        );
        Ok(())
    }

    /// Returns the `n` coefficients of each token: a matrix times what the router makes of a state.
    fn coefficients(&self, blk: &str, name: &str, n: usize, x: &[f32]) -> Result<Buffer> {
        let (weights, width, states) = (self.weights, self.model.width, self.model.states);
        let router = weights.required_linear(&format!("{blk}.altup_router"))?;
        let matrix = weights.required_linear(&format!("{blk}.{name}"))?;
        weights.check_shape(&router, states, width)?;
        weights.check_shape(&matrix, n, states)?;
        let mut input = weights.buffers.copy(x);
        self.normalize(&format!("{blk}.altup_router_norm"), &mut input)?;
        scale(&mut input, 1.0 / width as f32);
        let mut modalities = weights.apply(&router, &input, width)?;
        activation::soft_cap(&mut modalities, 1.0);
        weights.apply(&matrix, &modalities, states)
    }

    /// Returns one state of every token.
    fn state(&self, x: &[f32], state: usize) -> Buffer {
        let (width, states) = (self.model.width, self.model.states);
        let mut one = self.weights.buffers.take(x.len() / states);
        one.par_chunks_mut(width)
            .zip(x.par_chunks(states * width))
            .for_each(|(to, x)| to.copy_from_slice(&x[state * width..][..width]));
        one
    }
}

fn set_state(x: &mut [f32], width: usize, states: usize, state: usize, one: &[f32]) {
    x.par_chunks_mut(states * width)
        .zip(one.par_chunks(width))
        .for_each(|(x, one)| x[state * width..][..width].copy_from_slice(one));
}

/// Gives each row of `x` the length of the row of `like`.
fn match_magnitudes(x: &mut [f32], like: &[f32], width: usize) {
    let length = |x: &[f32]| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    x.par_chunks_mut(width).zip(like.par_chunks(width)).for_each(|(x, like)| {
        let factor = (length(like) / length(x)) as f32;
        x.iter_mut().for_each(|x| *x *= factor);
    });
}

/// Lets the largest values of each row of `n` values through, lowered by the threshold: the mean plus `deviations` standard
/// deviations. The others become 0.
pub(super) fn sparsify(x: &mut [f32], n: usize, deviations: f32) {
    x.par_chunks_mut(n).for_each(|x| {
        let mean = (x.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64) as f32;
        let squares: f64 = x.iter().map(|&x| f64::from((x - mean) * (x - mean))).sum();
        let threshold = mean + (squares / (n - 1).max(1) as f64).sqrt() as f32 * deviations;
        x.iter_mut().for_each(|x| *x = (*x - threshold).max(0.0));
    });
}
