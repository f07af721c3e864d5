//! How much the outputs of the matrices matter for each token of a calibration.
//!
//! An error d of the output of a matrix changes the model's answer by about (g d)^2, where g is the gradient of the log-likelihood of a
//! token that the model itself has drawn (the Fisher information). The lengths of g differ between tokens by orders of magnitude, so
//! second moments of inputs in which the tokens have weights describe the errors that count. `docs/decisions/0020-token-weights.md`
//! has the measurements.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::forward::gradient_observer::GradientObserver;
use crate::forward::weights::Linear;

/// The squared lengths of the gradients of the outputs of matrices, for each token of a run of tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gradients {
    tokens: usize,
    /// For the first of the matrices that share their input: each matrix with its squares.
    of: BTreeMap<String, Vec<(String, Vec<f32>)>>,
}

/// The names of the matrices that share an input; that of the first one stands in front.
pub type Names = (String, Vec<String>);

impl Gradients {
    pub(super) fn new(tokens: usize) -> Self {
        Self { tokens, of: BTreeMap::new() }
    }

    /// Returns the number of the tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Appends the gradients of the tokens that follow. Returns false, and leaves nothing of use, where they are those of other matrices.
    #[must_use]
    pub fn append(&mut self, next: Self) -> bool {
        if self.tokens == 0 {
            *self = next;
            return true;
        }
        let is_same = self.names() == next.names();
        self.tokens += next.tokens;
        for ((_, squares), (_, more)) in self.of.values_mut().flatten().zip(next.of.into_values().flatten()) {
            squares.extend(more);
        }
        is_same
    }

    /// Returns the names of the matrices.
    pub fn names(&self) -> Vec<Names> {
        let names = |of: &[(String, Vec<f32>)]| of.iter().map(|(name, _)| name.clone()).collect();
        self.of.iter().map(|(first, of)| (first.clone(), names(of))).collect()
    }

    /// Returns the squares of each matrix, in the order of [`Gradients::names`].
    pub fn squares(&self) -> Vec<&[f32]> {
        self.by_name().map(|(_, squares)| squares).collect()
    }

    /// Puts together what [`Gradients::names`] and [`Gradients::squares`] have returned. Returns `None` for lists of other lengths.
    pub fn of(names: Vec<Names>, squares: Vec<Vec<f32>>) -> Option<Self> {
        let tokens = squares.first().map_or(0, Vec::len);
        let count: usize = names.iter().map(|(_, of)| of.len()).sum();
        if count != squares.len() || squares.iter().any(|squares| squares.len() != tokens) {
            return None;
        }
        let mut squares = squares.into_iter();
        let of = names.into_iter().map(|(first, of)| (first, of.into_iter().zip(&mut squares).collect()));
        Some(Self { tokens, of: of.collect() })
    }

    /// Returns the squares of each matrix by its name.
    pub(super) fn by_name(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.of.values().flatten().map(|(name, squares)| (name.as_str(), squares.as_slice()))
    }

    /// Returns the weights of a run of the tokens. Their mean over all tokens is 1.
    pub fn weights(&self, run: Range<usize>) -> TokenWeights {
        let factors = self.of.iter().map(|(first, matrices)| {
            let mut weights = vec![0.0; run.len()];
            let count = matrices.len() as f32;
            for (_, squares) in matrices {
                let lengths: Vec<f32> = squares.iter().map(|square| square.sqrt()).collect();
                let mean = lengths.iter().map(|l| f64::from(*l)).sum::<f64>() / lengths.len() as f64;
                let share = (1.0 / (f64::from(count) * mean)) as f32;
                let is_usable = share.is_finite() && share > 0.0;
                weights.iter_mut().zip(&lengths[run.clone()]).for_each(|(weight, length)| {
                    *weight += if is_usable { length * share } else { 1.0 / count };
                });
            }
            weights.iter_mut().for_each(|weight| *weight = weight.sqrt());
            (first.clone(), weights)
        });
        TokenWeights { factors: factors.collect() }
    }
}

impl GradientObserver for Gradients {
    fn of_outputs(&mut self, parts: &[(&Linear, &[f32])], first: usize) {
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
        of.of_outputs(
            &[(&q, &[3.0, 0.0, 0.0, 0.0]), (&q, &[4.0, 0.0, 0.0, 0.0]), (&k, &[0.0, 2.0, 2.0, 0.0])],
            0,
        );
        of.of_outputs(&[(&q, &[6.0, 8.0]), (&k, &[0.0, 2.0])], 2);
        let found = of.weights(0..3);
        let weights: Vec<f32> = found.factors("q").unwrap().iter().map(|f| f * f).collect();
        let expected = [(1.0 + 1.0) / 2.0, (0.0 + 1.0) / 2.0, (2.0 + 1.0) / 2.0];
        weights.iter().zip(expected).for_each(|(w, e)| assert!((w - e).abs() < 1e-6, "{weights:?}"));
        assert!(found.factors("v").is_none());
        let last = of.weights(1..3);
        assert_eq!(last.factors("q"), Some(&found.factors("q").unwrap()[1..]));
    }

    #[test]
    fn runs_of_tokens_are_put_together() {
        let linear =
            |name: &str| Linear { name: name.to_string(), matrix: Matrix::test_of(1, 4), bias: Vec::new() };
        let (q, k, v) = (linear("q"), linear("k"), linear("v"));
        let (mut all, mut first, mut next) = (Gradients::new(3), Gradients::new(1), Gradients::new(2));
        all.of_outputs(&[(&q, &[1.0, 2.0, 3.0]), (&k, &[4.0, 5.0, 6.0])], 0);
        first.of_outputs(&[(&q, &[1.0]), (&k, &[4.0])], 0);
        next.of_outputs(&[(&q, &[2.0, 3.0]), (&k, &[5.0, 6.0])], 0);
        let squares = next.squares().into_iter().map(<[f32]>::to_vec).collect();
        let read = Gradients::of(next.names(), squares).unwrap();
        assert!(Gradients::of(next.names(), vec![vec![1.0]]).is_none());
        assert!(Gradients::of(next.names(), vec![vec![1.0], vec![1.0, 2.0]]).is_none());
        let mut joined = Gradients::default();
        assert!(joined.append(first) && joined.append(read));
        assert_eq!((joined.tokens(), &joined), (3, &all));
        let mut other = Gradients::new(1);
        other.of_outputs(&[(&v, &[1.0])], 0);
        assert!(!joined.append(other));
    }

    #[test]
    fn tokens_count_alike_where_no_gradient_is_finite_and_positive() {
        let linear = Linear { name: "q".to_string(), matrix: Matrix::test_of(1, 4), bias: Vec::new() };
        for gradients in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            let mut of = Gradients::new(2);
            of.of_outputs(&[(&linear, &gradients)], 0);
            assert_eq!(of.weights(0..2).factors("q"), Some(&[1.0, 1.0][..]), "{gradients:?}");
        }
    }
}
