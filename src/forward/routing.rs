//! Which experts a token goes through, and with which weights.

use crate::forward::activation::sigmoid;
use crate::forward::arch::Gating;
use crate::forward::attention::softmax;
use crate::simd::Isa;

/// Smallest divisor of the weights of the chosen experts: the smallest normal f16, as in llama.cpp.
const MIN_SUM: f32 = 6.103_515_6e-5;

/// How the outputs of a router become choices.
#[derive(Debug, Clone)]
pub struct Routing {
    /// Number of experts that a token goes through.
    pub used: usize,
    /// How the outputs become weights.
    pub gating: Gating,
    /// True if the weights of the chosen experts are scaled to the sum 1.
    pub to_one: bool,
    /// Factor of the weights.
    pub scale: f32,
    /// Number of groups of experts, and how many of them a token may choose from. One group is no grouping.
    pub groups: (usize, usize),
}

impl Routing {
    /// Chooses the experts of a token by the outputs of the router. `bias` is added to the weights while the experts are
    /// chosen; it is empty if there is none. Of two equal experts the first is chosen.
    pub fn choose(&self, logits: &[f32], bias: &[f32]) -> Vec<(usize, f32)> {
        let mut weights = logits.to_vec();
        match self.gating {
            Gating::Softmax | Gating::SigmoidInGlm47 => whole_softmax(&mut weights),
            Gating::Sigmoid => weights.iter_mut().for_each(|w| *w = sigmoid(*w)),
            Gating::SoftmaxOfChosen => {}
        }
        let mut scores = weights.clone();
        scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
        self.leave_groups_out(&mut scores);
        let mut order = best_first(&scores);
        order.truncate(self.used);
        let mut chosen: Vec<f32> = order.iter().map(|&e| weights[e]).collect();
        if self.gating == Gating::SoftmaxOfChosen {
            whole_softmax(&mut chosen);
        }
        let total: f32 = chosen.iter().sum();
        let divisor = if self.to_one { total.max(MIN_SUM) } else { 1.0 };
        order.into_iter().zip(chosen).map(|(e, w)| (e, w / divisor * self.scale)).collect()
    }

    /// Sets the scores of experts outside the best groups to minus infinity. A group is as good as the sum of its two best
    /// experts.
    fn leave_groups_out(&self, scores: &mut [f32]) {
        let (groups, used) = self.groups;
        if groups < 2 {
            return;
        }
        let size = scores.len() / groups;
        let of_groups: Vec<f32> = scores
            .chunks_exact(size)
            .map(|group| best_first(group).into_iter().take(2).map(|e| group[e]).sum())
            .collect();
        for &group in &best_first(&of_groups)[used.min(groups)..] {
            scores[group * size..][..size].fill(f32::NEG_INFINITY);
        }
    }
}

fn whole_softmax(x: &mut [f32]) {
    softmax(Isa::detect(), x, 1.0, 0.0, f32::NEG_INFINITY);
}

/// Returns the numbers of the values from the largest to the smallest; of equal values the first comes first.
fn best_first(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Routing =
        Routing { used: 3, gating: Gating::Softmax, to_one: true, scale: 1.0, groups: (1, 1) };

    #[test]
    fn the_likeliest_experts_are_chosen() {
        let logits = [0.0, 2.0, -1.0, 2.0, 1.0];
        let chosen = PLAIN.choose(&logits, &[]);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 3, 4]);
        assert!((chosen.iter().map(|c| c.1).sum::<f32>() - 1.0).abs() < 1e-6);
        let total: f32 = logits.iter().map(|l: &f32| l.exp()).sum();
        let plain = Routing { used: 1, to_one: false, ..PLAIN }.choose(&logits, &[]);
        assert!((plain[0].1 - 2f32.exp() / total).abs() < 1e-6);
        let among = Routing { used: 2, gating: Gating::SoftmaxOfChosen, to_one: false, ..PLAIN };
        assert_eq!(among.choose(&logits, &[]), [(1, 0.5), (3, 0.5)]);
    }

    #[test]
    fn a_bias_changes_the_choice_but_not_the_weight() {
        let routing = Routing { used: 1, gating: Gating::Sigmoid, to_one: false, scale: 2.0, ..PLAIN };
        let chosen = routing.choose(&[0.0, 1.0, 0.5], &[1.0, 0.0, 0.0]);
        assert_eq!(chosen, [(0, 1.0)]);
    }

    #[test]
    fn experts_come_from_the_best_groups() {
        // The best expert stands alone in the first group; the second group has the larger sum of two.
        let routing = Routing { used: 2, gating: Gating::Sigmoid, to_one: false, groups: (2, 1), ..PLAIN };
        let chosen = routing.choose(&[3.0, -9.0, 2.0, 2.5], &[]);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [3, 2]);
    }
}
