//! RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016) of rows.
//!
//! ```
//! use srd_rs::forward::arch::NormKind;
//! use srd_rs::forward::norm::Norm;
//!
//! let mut x = [3.0, 4.0];
//! Norm::without_weights(NormKind::Rms, 0.0).apply(&mut x, 2);
//! assert!((x[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6);
//! ```

use rayon::prelude::*;

use crate::forward::arch::NormKind;
use crate::simd::{Isa, dispatch};

/// A norm with its parameters.
///
/// `weight` and `bias` hold one or more rows of n values. Row i of the input uses row `i % (len / n)` of them, so that
/// every head can have weights of its own.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Which norm is applied.
    pub kind: NormKind,
    /// Number that is added to the variance.
    pub eps: f32,
    /// Factors after the normalization. An empty vector stands for ones.
    pub weight: Vec<f32>,
    /// Summands after the factors. An empty vector stands for zeros.
    pub bias: Vec<f32>,
}

/// Number of values in a parallel piece of work, in whole rows.
const PIECE: usize = 1 << 14;

impl Norm {
    /// Returns a norm whose factors are one and whose summands are zero.
    pub fn without_weights(kind: NormKind, eps: f32) -> Self {
        Self { kind, eps, weight: Vec::new(), bias: Vec::new() }
    }

    /// Normalizes rows of `n` values.
    ///
    /// # Panics
    /// Panics if `n` is zero, or if `x` or the parameters are not whole rows.
    pub fn apply(&self, x: &mut [f32], n: usize) {
        let lengths = [x.len(), self.weight.len(), self.bias.len()];
        assert!(
            n > 0 && lengths.iter().all(|len| len.is_multiple_of(n)),
            "{lengths:?} values in rows of {n}"
        );
        let (rows, isa) = ((PIECE / n).max(1), Isa::detect());
        x.par_chunks_mut(rows * n).enumerate().for_each(|(piece, x)| {
            for (i, row) in x.chunks_exact_mut(n).enumerate() {
                let number = piece * rows + i;
                let (weight, bias) = (cyclic_row(&self.weight, n, number), cyclic_row(&self.bias, n, number));
                match self.kind {
                    NormKind::Rms => rms_norm(isa, row, weight, bias, self.eps),
                    NormKind::Layer => layer_norm(isa, row, weight, bias, self.eps),
                }
            }
        });
    }

    /// Turns `gradient`, the derivatives of a number by the outputs of the norm, into its derivatives by the inputs `x`, rows of `n`
    /// values.
    ///
    /// # Panics
    /// As [`Norm::apply`], and if `gradient` and `x` have different lengths.
    pub fn gradient(&self, x: &[f32], gradient: &mut [f32], n: usize) {
        assert!(
            n > 0
                && x.len() == gradient.len()
                && [x.len(), self.weight.len()].iter().all(|len| len.is_multiple_of(n))
        );
        let (rows, isa) = ((PIECE / n).max(1), Isa::detect());
        let pieces = gradient.par_chunks_mut(rows * n).zip(x.par_chunks(rows * n)).enumerate();
        pieces.for_each(|(piece, (gradient, x))| {
            for (i, (gradient, x)) in gradient.chunks_exact_mut(n).zip(x.chunks_exact(n)).enumerate() {
                let weight = cyclic_row(&self.weight, n, piece * rows + i);
                norm_gradient(isa, gradient, x, weight, (self.kind, self.eps));
            }
        });
    }
}

/// Returns row `row % (number of rows)` of `values`, which has rows of `n` values; an empty row if there is none.
fn cyclic_row(values: &[f32], n: usize, row: usize) -> &[f32] {
    match values.len() / n {
        0 => &[],
        rows => &values[row % rows * n..][..n],
    }
}

dispatch! {
    fn rms_norm(_simd: S, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        rms(x, weight, eps);
        x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }

    fn layer_norm(_simd: S, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        let mean = (sum(x, f64::from) / x.len() as f64) as f32;
        x.iter_mut().for_each(|x| *x -= mean);
        rms(x, weight, eps);
        x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

dispatch! {
    /// With the normalized values v = (x - m) / s the gradient is (g - v mean(g v)) / s, where g is that of the outputs times the
    /// weights; LayerNorm takes the mean of g off as well.
    fn norm_gradient(_simd: S, gradient: &mut [f32], x: &[f32], weight: &[f32], kind: (NormKind, f32)) {
        let (n, (kind, eps)) = (x.len() as f64, kind);
        gradient.iter_mut().zip(weight).for_each(|(g, w)| *g *= w);
        let (mean, of_gradient) = match kind {
            NormKind::Rms => (0.0, 0.0),
            NormKind::Layer => ((sum(x, f64::from) / n) as f32, (sum(gradient, f64::from) / n) as f32),
        };
        let square = |x: f32| f64::from(x - mean) * f64::from(x - mean);
        let scale = (1.0 / (sum(x, square) / n + f64::from(eps)).sqrt()) as f32;
        let along = (sum_of_products(x, gradient, mean) / n) as f32 * scale * scale;
        for (g, x) in gradient.iter_mut().zip(x) {
            *g = scale * (*g - of_gradient - (x - mean) * along);
        }
    }
}

/// Returns the sum of `(x - mean) y` in double precision, in the order of [`sum`].
#[inline(always)]
fn sum_of_products(x: &[f32], y: &[f32], mean: f32) -> f64 {
    let mut sums = [0.0f64; 8];
    for (x, y) in x.chunks(8).zip(y.chunks(8)) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += f64::from(x - mean) * f64::from(*y);
        }
    }
    sums.iter().sum()
}

#[inline(always)]
fn rms(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean = sum(x, |x| f64::from(x) * f64::from(x)) / x.len() as f64;
    let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    x.iter_mut().for_each(|x| *x *= scale);
    x.iter_mut().zip(weight).for_each(|(x, w)| *x *= w);
}

/// Returns the sum of `f(x)` in double precision. Eight partial sums are added in order, so that the bits are the same for
/// vectors of any width.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f64) -> f64 {
    let mut sums = [0.0f64; 8];
    let (pieces, rest) = x.as_chunks::<8>();
    for piece in pieces {
        for (sum, &x) in sums.iter_mut().zip(piece) {
            *sum += f(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f(x);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_the_quotients_of_differences() {
        let value = |i: usize| ((i * 37 % 23) as f32 - 11.0) / 7.0;
        let (n, x): (usize, Vec<f32>) = (11, (0..44).map(value).collect());
        let by: Vec<f32> = (3..47).map(value).collect();
        for kind in [NormKind::Rms, NormKind::Layer] {
            for weight in [Vec::new(), (1..23).map(value).collect()] {
                let norm = Norm { weight, ..Norm::without_weights(kind, 0.01) };
                let number = |x: &[f32]| {
                    let mut x = x.to_vec();
                    norm.apply(&mut x, n);
                    x.iter().zip(&by).map(|(x, g)| f64::from(*x) * f64::from(*g)).sum::<f64>()
                };
                let mut found = by.clone();
                norm.gradient(&x, &mut found, n);
                for at in 0..x.len() {
                    let moved = |step: f32| {
                        let mut x = x.clone();
                        x[at] += step;
                        number(&x)
                    };
                    let expected = (moved(1.0 / 256.0) - moved(-1.0 / 256.0)) * 128.0;
                    assert!(
                        (f64::from(found[at]) - expected).abs() < 2e-3,
                        "{kind:?} {at}: {} {expected}",
                        found[at]
                    );
                }
            }
        }
    }

    #[test]
    fn rows_use_their_weights_cyclically() {
        let x: Vec<f32> = (0..4 * 11).map(|i| ((i * 7) % 13) as f32 - 5.0).collect();
        let weight: Vec<f32> = (0..22).map(|i| 1.0 + i as f32).collect();
        for kind in [NormKind::Rms, NormKind::Layer] {
            let bias = if kind == NormKind::Layer { vec![0.25; 22] } else { Vec::new() };
            let norm = Norm { kind, eps: 1e-5, weight: weight.clone(), bias };
            let mut y = x.clone();
            norm.apply(&mut y, 11);
            for r in 0..4 {
                let row: Vec<f64> = x[r * 11..][..11].iter().map(|&v| v.into()).collect();
                let mean = if kind == NormKind::Layer { row.iter().sum::<f64>() / 11.0 } else { 0.0 };
                let square = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 11.0;
                for c in 0..11 {
                    let plain = (row[c] - mean) / (square + 1e-5).sqrt();
                    let shift = if kind == NormKind::Layer { 0.25 } else { 0.0 };
                    let expected = plain * f64::from(weight[(r % 2) * 11 + c]) + shift;
                    assert!((f64::from(y[r * 11 + c]) - expected).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "in rows of 0")]
    fn rows_of_no_values_panic() {
        Norm::without_weights(NormKind::Rms, 1e-5).apply(&mut [], 0);
    }
}
