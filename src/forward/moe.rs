//! A mixture of experts (Shazeer et al. 2017): the router chooses experts for each token, and each expert computes the
//! tokens that chose it.

use rayon::prelude::*;

use crate::error::{Error, Place, Result};
use crate::forward::activation;
use crate::forward::arch::Activation;
use crate::forward::buffers::Buffer;
use crate::forward::pass::Pass;
use crate::forward::weights::Linear;

/// The tokens that chose an expert, with their weights.
type Chosen = Vec<(usize, f32)>;

/// The matrices of a stack of experts.
struct Stack {
    gate: Option<Linear>,
    up: Linear,
    /// True if `up` holds the gate as well. The rows of the gate come first in each expert.
    fused: bool,
    down: Linear,
    /// Factor of the outputs of each expert.
    scales: Option<Vec<f32>>,
}

impl Pass<'_> {
    /// Computes the experts. `routed` is the input of the router, `input` the input of the experts, rows of `width` values.
    pub(super) fn experts(
        &mut self,
        blk: &str,
        router: &Linear,
        routed: &[f32],
        input: &[f32],
        width: usize,
    ) -> Result<Buffer> {
        let of_model = self.model.width;
        self.weights.check_shape(router, self.model.n_expert, of_model)?;
        let stack = self.stack(blk, width)?;
        self.observe(&[router], None, of_model, routed)?;
        let logits = self.weights.apply(router, routed, of_model)?;
        let mut bias = self.weights.vector(&format!("{blk}.exp_probs_b.bias"), router.rows())?;
        if bias.is_none() {
            // Hunyuan 3 has it under a name without `.bias`.
            bias = self.weights.vector(&format!("{blk}.exp_probs_b"), router.rows())?;
        }
        let bias = bias.unwrap_or_default();
        let chosen = self.choose(&logits, &bias, router.rows());
        let mut y = self.weights.buffers.take(input.len());
        y.fill(0.0);
        for (expert, tokens) in chosen.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
            self.expert(&stack, expert, tokens, input, &mut y)?;
        }
        Ok(y)
    }

    /// Finds the matrices of the experts and checks their shapes.
    fn stack(&self, blk: &str, width: usize) -> Result<Stack> {
        let (weights, experts) = (self.weights, self.model.n_expert);
        let fused = weights.linear(&format!("{blk}.ffn_gate_up_exps"))?;
        let stack = Stack {
            fused: fused.is_some(),
            gate: weights.linear(&format!("{blk}.ffn_gate_exps"))?,
            up: match fused {
                Some(fused) => fused,
                None => weights.required_linear(&format!("{blk}.ffn_up_exps"))?,
            },
            down: weights.required_linear(&format!("{blk}.ffn_down_exps"))?,
            scales: weights.vector(&format!("{blk}.ffn_down_exps.scale"), experts)?,
        };
        if self.model.activation == Activation::ClampedSwiglu && stack.gate.is_none() && !stack.fused {
            return Err(weights.fail(&stack.up.name, "has no gate beside it".into()));
        }
        if self.model.activation == Activation::Xielu {
            return Err(
                weights.fail(&stack.up.name, "is of experts, whose activation cannot be xIELU".into())
            );
        }
        let n = stack.down.matrix.cols;
        let up_rows = if stack.fused { 2 * n } else { n };
        let matrices = [
            (Some(&stack.up), up_rows, width),
            (stack.gate.as_ref(), n, width),
            (Some(&stack.down), width, n),
        ];
        for (linear, rows, cols) in matrices {
            let Some(linear) = linear else { continue };
            if rows.checked_mul(experts) != Some(linear.rows()) {
                let place = Place::named_tensor(&linear.name);
                let what = format!("is not a stack of {experts} matrices of {rows} rows");
                return Err(Error::model(place, what, "Check that the model loads in llama.cpp"));
            }
            weights.check_inputs(&linear.matrix, cols)?;
        }
        Ok(stack)
    }

    /// Returns the tokens that chose each expert, with their weights.
    fn choose(&self, logits: &[f32], bias: &[f32], experts: usize) -> Vec<Chosen> {
        let routing = &self.model.routing;
        let choices: Vec<Vec<(usize, f32)>> =
            logits.par_chunks(experts).map(|row| routing.choose(row, bias)).collect();
        let mut chosen = vec![Chosen::new(); experts];
        for (token, choice) in choices.into_iter().enumerate() {
            choice.into_iter().for_each(|(expert, weight)| chosen[expert].push((token, weight)));
        }
        chosen
    }

    /// Computes one expert and adds its outputs to `y`.
    fn expert(
        &mut self,
        stack: &Stack,
        expert: usize,
        tokens: &Chosen,
        input: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let (experts, n) = (self.model.n_expert, stack.down.matrix.cols);
        let width = stack.up.matrix.cols;
        let of_expert = |l: &Linear| {
            let rows = l.rows() / experts;
            l.slice(expert * rows..(expert + 1) * rows)
        };
        let mut x = self.weights.buffers.take(tokens.len() * width);
        let before = self.model.family.weights_before_experts;
        for (x, &(token, weight)) in x.chunks_exact_mut(width).zip(tokens) {
            x.copy_from_slice(&input[token * width..][..width]);
            if before {
                x.iter_mut().for_each(|x| *x *= weight);
            }
        }
        let observed: Vec<&Linear> = stack.gate.iter().chain([&stack.up]).collect();
        // The tokens are in ascending order, so those of the first stream come first.
        let first_stream = input.len() / width / self.streams();
        let own = tokens.partition_point(|&(token, _)| token < first_stream);
        self.observe(&observed, Some(expert), width, &x[..own * width])?;
        let up = of_expert(&stack.up);
        let (gate, up) = match &stack.gate {
            _ if stack.fused => (Some(up.slice(0..n)), up.slice(n..2 * n)),
            gate => (gate.as_ref().map(of_expert), up),
        };
        let mut hidden = self.weights.apply(&up, &x, width)?;
        match gate {
            Some(gate) => {
                let up = std::mem::replace(&mut hidden, self.weights.apply(&gate, &x, width)?);
                activation::gated(self.model.activation, &mut hidden, &up);
            }
            None => activation::plain(self.model.activation, &mut hidden),
        }
        self.observe(&[&stack.down], Some(expert), n, &hidden[..own * n])?;
        let out = self.weights.apply(&of_expert(&stack.down), &hidden, n)?;
        let scale = stack.scales.as_ref().map_or(1.0, |s| s[expert]);
        for (out, &(token, weight)) in out.chunks_exact(width).zip(tokens) {
            let weight = if before { 1.0 } else { weight };
            let to = &mut y[token * width..][..width];
            to.iter_mut().zip(out).for_each(|(y, o)| *y += o * scale * weight);
        }
        Ok(())
    }
}
