//! RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016) of rows.

use rayon::prelude::*;

use crate::forward::arch::Norm;
use crate::forward::simd;

/// A norm with its weights. Rows of `n` values take the weights in turn: as many rows' worth as there are.
#[derive(Debug, Clone)]
pub struct NormOf {
    pub kind: Norm,
    pub eps: f32,
    /// Empty: ones.
    pub weight: Vec<f32>,
    /// Empty: zeros.
    pub bias: Vec<f32>,
}

/// Values of a parallel piece, in whole rows.
const PIECE: usize = 1 << 14;

impl NormOf {
    pub fn bare(kind: Norm, eps: f32) -> Self {
        Self { kind, eps, weight: Vec::new(), bias: Vec::new() }
    }

    /// Normalises rows of `n` values.
    pub fn apply(&self, x: &mut [f32], n: usize) {
        let rows = (PIECE / n).max(1);
        x.par_chunks_mut(rows * n).enumerate().for_each(|(piece, x)| {
            for (i, row) in x.chunks_exact_mut(n).enumerate() {
                let row_index = piece * rows + i;
                let (weight, bias) = (turn(&self.weight, n, row_index), turn(&self.bias, n, row_index));
                match self.kind {
                    Norm::Rms => simd::rms_norm(row, weight, self.eps),
                    Norm::Layer => simd::layer_norm(row, weight, bias, self.eps),
                }
            }
        });
    }
}

fn turn(weights: &[f32], n: usize, row: usize) -> &[f32] {
    match weights.len() / n {
        0 => &[],
        turns => &weights[row % turns * n..][..n],
    }
}

/// Sum of `f(x)` in double precision: eight running sums, added up in order.
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

#[inline(always)]
pub(super) fn rms_kernel(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean = sum(x, |x| f64::from(x) * f64::from(x)) / x.len() as f64;
    let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    x.iter_mut().for_each(|x| *x *= scale);
    x.iter_mut().zip(weight).for_each(|(x, w)| *x *= w);
}

#[inline(always)]
pub(super) fn layer_kernel(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let mean = (sum(x, f64::from) / x.len() as f64) as f32;
    x.iter_mut().for_each(|x| *x -= mean);
    rms_kernel(x, weight, eps);
    x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_take_their_weights_in_turn() {
        let x: Vec<f32> = (0..4 * 11).map(|i| ((i * 7) % 13) as f32 - 5.0).collect();
        let weight: Vec<f32> = (0..22).map(|i| 1.0 + i as f32).collect();
        for kind in [Norm::Rms, Norm::Layer] {
            let bias = if kind == Norm::Layer { vec![0.25; 22] } else { Vec::new() };
            let norm = NormOf { kind, eps: 1e-5, weight: weight.clone(), bias };
            let mut y = x.clone();
            norm.apply(&mut y, 11);
            for r in 0..4 {
                let row: Vec<f64> = x[r * 11..][..11].iter().map(|&v| v.into()).collect();
                let mean = if kind == Norm::Layer { row.iter().sum::<f64>() / 11.0 } else { 0.0 };
                let square = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 11.0;
                for c in 0..11 {
                    let plain = (row[c] - mean) / (square + 1e-5).sqrt();
                    let shift = if kind == Norm::Layer { 0.25 } else { 0.0 };
                    let expected = plain * f64::from(weight[(r % 2) * 11 + c]) + shift;
                    assert!((f64::from(y[r * 11 + c]) - expected).abs() < 1e-5);
                }
            }
        }
    }
}
