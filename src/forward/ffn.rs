//! The feed-forward network of a layer: dense, a mixture of experts, or both side by side.

use crate::error::Result;
use crate::forward::activation;
use crate::forward::altup::sparsify;
use crate::forward::buffers::Buffer;
use crate::forward::model::{Layer, Model};
use crate::forward::norm::Norm;
use crate::forward::pass::Pass;
use crate::forward::vectors::{add, scale};
use crate::forward::weights::{Linear, Weights};

/// Standard deviations above the mean that 5 of 100 normally distributed values exceed.
const DEVIATIONS: f32 = 1.644_853_4;

/// The matrices of a dense network. It is gated if there is a gate, either as a tensor or as the first half of `ffn_up`.
pub(super) struct Dense {
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
}

impl Dense {
    /// Finds the matrices, whose names end in `suffix`, and checks their shapes.
    ///
    /// # Errors
    /// Returns [`Error::Model`](crate::error::Error::Model) if a matrix is missing, or if the shapes do not fit each other.
    pub(super) fn find(weights: &Weights, model: &Model, layer: &Layer, suffix: &str) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}{suffix}", layer.index);
        let gate = weights.linear(&stem("ffn_gate"))?;
        let up = weights.required_linear(&stem("ffn_up"))?;
        let down = weights.required_linear(&stem("ffn_down"))?;
        let n = down.matrix.cols;
        weights.check_outputs(&down, model.width)?;
        let fused = gate.is_none() && up.rows() == 2 * n;
        weights.check_shape(&up, if fused { 2 * n } else { n }, model.width)?;
        gate.iter().try_for_each(|gate| weights.check_shape(gate, n, model.width))?;
        Ok(match fused {
            true => Self { gate: Some(up.slice(0..n)), up: up.slice(n..2 * n), down },
            false => Self { gate, up, down },
        })
    }

    /// Returns the matrices that share the network's input, each tensor once.
    pub(super) fn observed(&self) -> Vec<&Linear> {
        let gate = self.gate.iter().filter(|gate| gate.name != self.up.name);
        gate.chain([&self.up]).collect()
    }
}

impl Pass<'_> {
    /// Computes the feed-forward network. `x` is the residual stream and `input` its norm; the caller normalizes the result
    /// and adds it.
    pub(super) fn feed_forward(&mut self, layer: &Layer, x: &[f32], input: &[f32]) -> Result<Buffer> {
        let blk = format!("blk.{}", layer.index);
        let Some(router) = self.weights.linear(&format!("{blk}.ffn_gate_inp"))? else {
            return self.dense(layer, "", input);
        };
        if self.weights.has(&format!("{blk}.pre_ffw_norm_2.weight")) {
            return self.dense_and_experts(layer, &blk, x, input);
        }
        let mut y = match self.weights.linear(&format!("{blk}.ffn_latent_down"))? {
            Some(compress) => self.latent_experts(&blk, &router, &compress, input)?,
            None => self.experts(&blk, &router, input, input, self.model.width)?,
        };
        if self.weights.has(&format!("{blk}.ffn_up_shexp.weight")) {
            add(&mut y, &self.shared_expert(layer, &blk, input)?, 1.0);
        }
        Ok(y)
    }

    /// Computes experts between a matrix that compresses their inputs and one that unpacks their outputs.
    fn latent_experts(
        &mut self,
        blk: &str,
        router: &Linear,
        compress: &Linear,
        input: &[f32],
    ) -> Result<Buffer> {
        let (weights, width, n) = (self.weights, self.model.width, compress.rows());
        let unpack = weights.required_linear(&format!("{blk}.ffn_latent_up"))?;
        weights.check_inputs(&compress.matrix, width)?;
        weights.check_shape(&unpack, width, n)?;
        self.observe(&[compress], None, width, input)?;
        let few = weights.apply(compress, input, width)?;
        let y = self.experts(blk, router, input, &few, n)?;
        self.observe(&[&unpack], None, n, &y)?;
        weights.apply(&unpack, &y, n)
    }

    /// Computes a dense network.
    fn dense(&mut self, layer: &Layer, suffix: &str, input: &[f32]) -> Result<Buffer> {
        let (weights, width) = (self.weights, self.model.width);
        let blk = format!("blk.{}", layer.index);
        let of = Dense::find(weights, self.model, layer, suffix)?;
        self.observe(&of.observed(), None, width, input)?;
        let Dense { gate, up, down } = of;
        let n = down.matrix.cols;
        if !self.model.xielu.is_empty() && gate.is_some() {
            return Err(weights.fail(&up.name, "has a gate beside it, which xIELU does not use".into()));
        }
        let up = weights.apply(&up, input, width)?;
        let mut hidden = match gate {
            Some(gate) => {
                let mut hidden = weights.apply(&gate, input, width)?;
                if layer.index < self.model.family.sparse_layers {
                    sparsify(&mut hidden, n, DEVIATIONS);
                }
                activation::gated(self.model.activation, &mut hidden, &up);
                hidden
            }
            None => {
                let mut hidden = up;
                match self.model.xielu.get(layer.index) {
                    Some(numbers) => numbers.apply(&mut hidden),
                    None => activation::plain(self.model.activation, &mut hidden),
                }
                hidden
            }
        };
        self.norm_of_rows(&format!("{blk}.ffn_sub_norm"), &mut hidden, n)?;
        self.observe(&[&down], None, n, &hidden)?;
        weights.apply(&down, &hidden, n)
    }

    /// Computes the expert that every token uses, weighted by a gate of its own if there is one.
    fn shared_expert(&mut self, layer: &Layer, blk: &str, input: &[f32]) -> Result<Buffer> {
        let width = self.model.width;
        let mut y = self.dense(layer, "_shexp", input)?;
        if let Some(gate) = self.weights.linear(&format!("{blk}.ffn_gate_inp_shexp"))? {
            self.weights.check_shape(&gate, 1, width)?;
            self.observe(&[&gate], None, width, input)?;
            let gate = self.weights.apply(&gate, input, width)?;
            for (y, gate) in y.chunks_exact_mut(width).zip(&*gate) {
                let weight = activation::sigmoid(*gate);
                y.iter_mut().for_each(|y| *y *= weight);
            }
        }
        Ok(y)
    }

    /// Computes Gemma 4's mixture: the dense network and the experts have norms of their own, and the router sees the
    /// residual stream.
    fn dense_and_experts(&mut self, layer: &Layer, blk: &str, x: &[f32], input: &[f32]) -> Result<Buffer> {
        let (model, weights) = (self.model, self.weights);
        let mut y = self.dense(layer, "", input)?;
        self.normalize(&format!("{blk}.post_ffw_norm_1"), &mut y)?;
        let mut routed = weights.buffers.copy(x);
        let weight = weights.vector(&format!("{blk}.ffn_gate_inp.scale"), model.width)?.unwrap_or_default();
        let norm = Norm { weight, ..Norm::without_weights(model.family.norm, model.eps) };
        norm.apply(&mut routed, model.width);
        scale(&mut routed, 1.0 / (model.width as f32).sqrt());
        let mut input = weights.buffers.copy(x);
        self.normalize(&format!("{blk}.pre_ffw_norm_2"), &mut input)?;
        let router = weights.required_linear(&format!("{blk}.ffn_gate_inp"))?;
        let mut of_experts = self.experts(blk, &router, &routed, &input, model.width)?;
        self.normalize(&format!("{blk}.post_ffw_norm_2"), &mut of_experts)?;
        add(&mut y, &of_experts, 1.0);
        Ok(y)
    }
}
