//! Experts: the router's choice, and each expert on the tokens that chose it.

use rayon::prelude::*;

use crate::error::{Error, Place, Result};
use crate::forward::activation;
use crate::forward::buffers::Buffer;
use crate::forward::pass::Pass;
use crate::forward::simd;
use crate::forward::weights::Linear;

/// Below this a sum of weights is not divided by: the smallest normal f16, as llama.cpp has it.
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// The tokens of an expert with their weights.
type Chosen = Vec<(usize, f32)>;

/// The matrices of a stack of experts.
struct Stack {
    gate: Option<Linear>,
    up: Linear,
    /// `gate` and `up` are in one tensor, the gate's rows first.
    fused: bool,
    down: Linear,
    scales: Option<Vec<f32>>,
}

impl Pass<'_> {
    /// `routed`: what the router sees; `input`: what the experts see.
    pub(super) fn experts(
        &mut self,
        blk: &str,
        router: &Linear,
        routed: &[f32],
        input: &[f32],
    ) -> Result<Buffer> {
        let width = self.model.width;
        self.observe(&[router], None, width, routed)?;
        let logits = self.weights.apply(router, routed, width)?;
        let stack = self.stack(blk, router.rows())?;
        let chosen = self.choose(&logits, router.rows());
        let mut y = self.weights.buffers.take(input.len());
        y.fill(0.0);
        for (expert, tokens) in chosen.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
            self.expert(&stack, expert, tokens, input, &mut y)?;
        }
        Ok(y)
    }

    fn stack(&self, blk: &str, experts: usize) -> Result<Stack> {
        let weights = self.weights;
        let fused = weights.linear(&format!("{blk}.ffn_gate_up_exps"))?;
        let stack = Stack {
            fused: fused.is_some(),
            gate: weights.linear(&format!("{blk}.ffn_gate_exps"))?,
            up: match fused {
                Some(fused) => fused,
                None => weights.needed_linear(&format!("{blk}.ffn_up_exps"))?,
            },
            down: weights.needed_linear(&format!("{blk}.ffn_down_exps"))?,
            scales: weights.vector_of(&format!("{blk}.ffn_down_exps.scale"), experts)?,
        };
        let all = [Some(&stack.up), stack.gate.as_ref(), Some(&stack.down)];
        let fits = |l: &Linear| l.rows() > 0 && l.rows().is_multiple_of(experts);
        if experts != self.model.n_expert || !all.into_iter().flatten().all(fits) {
            let place = Place::named_tensor(&stack.up.name);
            let what = format!("is no stack of {experts} experts");
            return Err(Error::model(place, what, "Check that the model loads in llama.cpp"));
        }
        Ok(stack)
    }

    /// The `n_expert_used` likeliest experts of each token; of equal ones the first.
    fn choose(&self, logits: &[f32], experts: usize) -> Vec<Chosen> {
        let (used, to_one) = (self.model.n_expert_used, self.model.family.expert_weights_sum_to_1);
        let choices: Vec<Vec<(usize, f32)>> =
            logits.par_chunks(experts).map(|row| choose_one(row, used, to_one)).collect();
        let mut chosen = vec![Chosen::new(); experts];
        for (token, choice) in choices.into_iter().enumerate() {
            choice.into_iter().for_each(|(expert, weight)| chosen[expert].push((token, weight)));
        }
        chosen
    }

    fn expert(
        &mut self,
        stack: &Stack,
        expert: usize,
        tokens: &Chosen,
        input: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let (width, experts, n) = (self.model.width, self.model.n_expert, stack.down.matrix.cols);
        let of = |l: &Linear| {
            let rows = l.rows() / experts;
            l.slice(expert * rows..(expert + 1) * rows)
        };
        let mut x = self.weights.buffers.take(tokens.len() * width);
        for (x, &(token, _)) in x.chunks_exact_mut(width).zip(tokens) {
            x.copy_from_slice(&input[token * width..][..width]);
        }
        let named: Vec<&Linear> = stack.gate.iter().chain([&stack.up]).collect();
        self.observe(&named, Some(expert), width, &x)?;
        let up = of(&stack.up);
        let (gate, up) = match &stack.gate {
            _ if stack.fused => (Some(up.slice(0..n)), up.slice(n..2 * n)),
            gate => (gate.as_ref().map(of), up),
        };
        let mut hidden = self.weights.apply(&up, &x, width)?;
        match gate {
            Some(gate) => {
                let up = std::mem::replace(&mut hidden, self.weights.apply(&gate, &x, width)?);
                activation::gated(self.model.family.activation, &mut hidden, &up);
            }
            None => activation::plain(self.model.family.activation, &mut hidden),
        }
        self.observe(&[&stack.down], Some(expert), n, &hidden)?;
        let out = self.weights.apply(&of(&stack.down), &hidden, n)?;
        let scale = stack.scales.as_ref().map_or(1.0, |s| s[expert]);
        for (out, &(token, weight)) in out.chunks_exact(width).zip(tokens) {
            let to = &mut y[token * width..][..width];
            to.iter_mut().zip(out).for_each(|(y, o)| *y += o * scale * weight);
        }
        Ok(())
    }
}

fn choose_one(logits: &[f32], used: usize, to_one: bool) -> Vec<(usize, f32)> {
    let mut probabilities = logits.to_vec();
    simd::softmax(&mut probabilities, 1.0, 0.0);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    order.truncate(used);
    let total: f32 = order.iter().map(|&e| probabilities[e]).sum();
    let divisor = if to_one { total.max(LEAST_SUM) } else { 1.0 };
    order.into_iter().map(|e| (e, probabilities[e] / divisor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_experts_are_chosen() {
        let logits = [0.0, 2.0, -1.0, 2.0, 1.0];
        let chosen = choose_one(&logits, 3, true);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 3, 4]);
        assert!((chosen.iter().map(|c| c.1).sum::<f32>() - 1.0).abs() < 1e-6);
        let total: f32 = logits.iter().map(|l: &f32| l.exp()).sum();
        let plain = choose_one(&logits, 1, false);
        assert!((plain[0].1 - 2f32.exp() / total).abs() < 1e-6);
    }
}
