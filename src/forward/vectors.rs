//! Sums and multiples of the values of many tokens.

use rayon::prelude::*;

/// Number of values in a parallel piece of work.
pub(super) const PIECE: usize = 1 << 14;

/// Computes `x += factor y`.
pub(super) fn add(x: &mut [f32], y: &[f32], factor: f32) {
    assert_eq!(x.len(), y.len(), "the summands have different shapes");
    x.par_chunks_mut(PIECE)
        .zip(y.par_chunks(PIECE))
        .for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y));
}

/// Computes `x *= factor`.
pub(super) fn scale(x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        x.par_chunks_mut(PIECE).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
    }
}
