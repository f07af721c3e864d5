//! The feed-forward of a layer: dense, a mixture of experts, or both side by side.

use crate::error::Result;
use crate::forward::activation;
use crate::forward::buffers::Buffer;
use crate::forward::model::Layer;
use crate::forward::norm::NormOf;
use crate::forward::pass::{Pass, add, scale};

impl Pass<'_> {
    /// `x`: the residual; `input`: its norm. The caller normalises and adds what comes back.
    pub(super) fn feed_forward(&mut self, layer: &Layer, x: &[f32], input: &[f32]) -> Result<Buffer> {
        let blk = format!("blk.{}", layer.index);
        let Some(router) = self.weights.linear(&format!("{blk}.ffn_gate_inp"))? else {
            return self.dense(&blk, "", input);
        };
        if self.weights.has(&format!("{blk}.pre_ffw_norm_2.weight")) {
            return self.dense_and_experts(&blk, x, input);
        }
        let mut y = self.experts(&blk, &router, input, input)?;
        if self.weights.has(&format!("{blk}.ffn_up_shexp.weight")) {
            add(&mut y, &self.shared_expert(&blk, input)?, 1.0);
        }
        Ok(y)
    }

    /// Gated where there is a gate, or one in the upper half of the rows of `ffn_up`.
    fn dense(&mut self, blk: &str, suffix: &str, input: &[f32]) -> Result<Buffer> {
        let width = self.model.width;
        let stem = |name: &str| format!("{blk}.{name}{suffix}");
        let gate = self.weights.linear(&stem("ffn_gate"))?;
        let up = self.weights.needed_linear(&stem("ffn_up"))?;
        let down = self.weights.needed_linear(&stem("ffn_down"))?;
        self.observe(&gate.iter().chain([&up]).collect::<Vec<_>>(), None, width, input)?;
        let n = down.matrix.cols;
        let halves = (gate.is_none() && up.rows() == 2 * n).then(|| (up.slice(0..n), up.slice(n..2 * n)));
        let (gate, up) = match halves {
            Some((gate, up)) => (Some(gate), up),
            None => (gate, up),
        };
        let up = self.weights.apply(&up, input, width)?;
        let hidden = match gate {
            Some(gate) => {
                let mut hidden = self.weights.apply(&gate, input, width)?;
                activation::gated(self.model.family.activation, &mut hidden, &up);
                hidden
            }
            None => {
                let mut hidden = up;
                activation::plain(self.model.family.activation, &mut hidden);
                hidden
            }
        };
        self.observe(&[&down], None, n, &hidden)?;
        self.weights.apply(&down, &hidden, n)
    }

    /// The expert that every token goes through, weighed by a gate of its own where there is one.
    fn shared_expert(&mut self, blk: &str, input: &[f32]) -> Result<Buffer> {
        let mut y = self.dense(blk, "_shexp", input)?;
        if let Some(gate) = self.weights.linear(&format!("{blk}.ffn_gate_inp_shexp"))? {
            self.observe(&[&gate], None, self.model.width, input)?;
            let gate = self.weights.apply(&gate, input, self.model.width)?;
            for (y, gate) in y.chunks_exact_mut(self.model.width).zip(&*gate) {
                let weight = activation::sigmoid(*gate);
                y.iter_mut().for_each(|y| *y *= weight);
            }
        }
        Ok(y)
    }

    /// Gemma 4's mixture: dense and experts have norms of their own, and the router sees the residual.
    fn dense_and_experts(&mut self, blk: &str, x: &[f32], input: &[f32]) -> Result<Buffer> {
        let (model, weights) = (self.model, self.weights);
        let mut y = self.dense(blk, "", input)?;
        self.normalise(&format!("{blk}.post_ffw_norm_1"), &mut y)?;
        let mut routed = weights.buffers.copy(x);
        let weight =
            weights.vector_of(&format!("{blk}.ffn_gate_inp.scale"), model.width)?.unwrap_or_default();
        NormOf { weight, ..NormOf::bare(model.family.norm, model.eps) }.apply(&mut routed, model.width);
        scale(&mut routed, 1.0 / (model.width as f32).sqrt());
        let mut input = weights.buffers.copy(x);
        self.normalise(&format!("{blk}.pre_ffw_norm_2"), &mut input)?;
        let router = weights.needed_linear(&format!("{blk}.ffn_gate_inp"))?;
        let mut of_experts = self.experts(blk, &router, &routed, &input)?;
        self.normalise(&format!("{blk}.post_ffw_norm_2"), &mut of_experts)?;
        add(&mut y, &of_experts, 1.0);
        Ok(y)
    }
}
