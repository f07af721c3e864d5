//! How much the outputs of the matrices matter for each token of a calibration.
//!
//! An error d of the output of a matrix changes the model's answer by about (g d)^2, where g is the gradient of the log-likelihood of a
//! token that the model itself has drawn (the Fisher information). The lengths of g differ between tokens by orders of magnitude, so
//! second moments of inputs in which the tokens have weights describe the errors that count. `docs/decisions/0020-token-weights.md`
//! has the measurements.

use std::collections::{BTreeMap, HashMap};

use crate::forward::weights::Linear;

/// The squared lengths of the gradients of the outputs of matrices, for each token.
pub(super) struct Gradients {
    tokens: usize,
    /// For the first of the matrices that share their input: each matrix with its squares.
    of: BTreeMap<String, Vec<(String, Vec<f32>)>>,
}

impl Gradients {
    pub fn new(tokens: usize) -> Self {
        Self { tokens, of: BTreeMap::new() }
    }

    /// Adds gradients of the outputs of matrices that share their input, for the tokens from `first` on. The parts of one tensor add up.
    pub fn add(&mut self, parts: &[(&Linear, &[f32])], first: usize) {
        let Some((start, _)) = parts.first() else { return };
        let matrices = self.of.entry(start.name.clone()).or_default();
        for (linear, gradients) in parts {
            let at = matrices.iter().position(|(name, _)| *name == linear.name).unwrap_or_else(|| {
                matrices.push((linear.name.clone(), vec![0.0; self.tokens]));
                matrices.len() - 1
            });
            let rows = gradients.chunks_exact(linear.rows());
            for (square, row) in matrices[at].1[first..].iter_mut().zip(rows) {
                *square += row.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>() as f32;
            }
        }
    }

    /// Returns the weights that follow from the gradients.
    pub fn weights(self) -> TokenWeights {
        let factors = self.of.into_iter().map(|(first, matrices)| {
            let mut weights = vec![0.0; self.tokens];
            let count = matrices.len() as f32;
            for (_, squares) in matrices {
                let lengths: Vec<f32> = squares.iter().map(|square| square.sqrt()).collect();
                let mean = lengths.iter().map(|l| f64::from(*l)).sum::<f64>() / lengths.len() as f64;
                let share = (1.0 / (f64::from(count) * mean)) as f32;
                let is_usable = share.is_finite() && share > 0.0;
                weights.iter_mut().zip(lengths).for_each(|(weight, length)| {
                    *weight += if is_usable { length * share } else { 1.0 / count };
                });
            }
            weights.iter_mut().for_each(|weight| *weight = weight.sqrt());
            (first, weights)
        });
        TokenWeights { factors: factors.collect() }
    }
}

/// The weights of the tokens in the second moments of the inputs of a model's matrices. The mean weight of an input is 1.
#[derive(Debug, Clone, Default)]
pub struct TokenWeights {
    /// The square roots of the weights of all tokens, by the first of the matrices that share an input.
    factors: HashMap<String, Vec<f32>>,
}

impl TokenWeights {
    /// Returns the square roots of the weights that all tokens have in the moments of the inputs of a matrix: the factors of the
    /// inputs. `None` if the tokens count alike.
    pub fn factors(&self, first_matrix: &str) -> Option<&[f32]> {
        self.factors.get(first_matrix).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::weights::Matrix;

    #[test]
    fn a_token_counts_by_the_length_of_its_gradients() {
        let linear =
            |name: &str| Linear { name: name.to_string(), matrix: Matrix::test_of(2, 4), bias: Vec::new() };
        let (q, k) = (linear("q"), linear("k"));
        let mut of = Gradients::new(3);
        // The lengths of q are 5, 0 and 10; those of k are all 2. The parts of one tensor add up.
        of.add(&[(&q, &[3.0, 0.0, 0.0, 0.0]), (&q, &[4.0, 0.0, 0.0, 0.0]), (&k, &[0.0, 2.0, 2.0, 0.0])], 0);
        of.add(&[(&q, &[6.0, 8.0]), (&k, &[0.0, 2.0])], 2);
        let found = of.weights();
        let weights: Vec<f32> = found.factors("q").unwrap().iter().map(|f| f * f).collect();
        let expected = [(1.0 + 1.0) / 2.0, (0.0 + 1.0) / 2.0, (2.0 + 1.0) / 2.0];
        weights.iter().zip(expected).for_each(|(w, e)| assert!((w - e).abs() < 1e-6, "{weights:?}"));
        assert!(found.factors("v").is_none());
    }

    #[test]
    fn tokens_count_alike_where_no_gradient_is_finite_and_positive() {
        let linear = Linear { name: "q".to_string(), matrix: Matrix::test_of(1, 4), bias: Vec::new() };
        for gradients in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            let mut of = Gradients::new(2);
            of.add(&[(&linear, &gradients)], 0);
            assert_eq!(of.weights().factors("q"), Some(&[1.0, 1.0][..]), "{gradients:?}");
        }
    }
}
