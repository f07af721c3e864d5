//! The search of TQ1_0 and TQ2_0: 256 weights with one scale and the levels -1, 0 and 1.
//!
//! The search minimizes `sum h (w - d q)^2` over a block, where `h` is the importance of the column (1 without an imatrix).
//! Shares of the largest magnitude give a few sets of codes. The best scale for given codes follows by least squares, and
//! two more rounds alternate between codes and scale. Weights that have three values already come back exactly, to the
//! precision of the scale.

use super::arithmetic::MIN_GAIN;
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::Columns;
use crate::simd::{Simd, Vector, f16};

/// Shares of the largest magnitude that are tried as the scale. The first one is ggml's choice.
const SHARES: [f32; 6] = [1.0, 0.75, 0.6, 0.48, 0.38, 0.28];
/// Rounds of least squares and rounding after the best share.
const REFITS: usize = 2;

/// Quantizes whole blocks; see [`Encoding::quantize`](super::Encoding::quantize).
#[inline(always)]
pub fn quantize<F: BlockFormat, S: Simd>(
    simd: S,
    rows: &[f32],
    columns: Option<Columns<'_>>,
    out: &mut [u8],
) {
    let v = simd.x16();
    let mut codes = [0; MAX_BLOCK];
    let even = [1.0; MAX_BLOCK];
    for (i, (x, out)) in
        rows.as_chunks::<MAX_BLOCK>().0.iter().zip(out.chunks_exact_mut(F::BYTES)).enumerate()
    {
        let h = columns.map_or(&even, |columns| columns.block(i));
        let scale = search(v, x, h);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (x, codes) in x.as_chunks::<64>().0.iter().zip(codes.as_chunks_mut::<64>().0) {
            let mut words = [v.splat_u32(0); 4];
            for (x, word) in x.as_chunks::<16>().0.iter().zip(&mut words) {
                *word = v.to_i32(v.add(level(v, v.load(x), inverse), v.splat(1.0)));
            }
            v.store_low_bytes(words, codes);
        }
        F::pack(&Scales::one(scale), &codes, out);
    }
}

/// Returns the levels nearest to `x * inverse`.
#[inline(always)]
fn level<V: Vector>(v: V, x: V::F, inverse: f32) -> V::F {
    v.round_ties_even(v.clamp(v.mul(x, v.splat(inverse)), v.splat(-1.0), v.splat(1.0)))
}

/// Returns the scale of a block, an f16.
#[inline(always)]
fn search<V: Vector>(v: V, x: &[f32; MAX_BLOCK], h: &[f32; MAX_BLOCK]) -> f32 {
    let mut largest = v.splat(0.0);
    for x in x.as_chunks::<16>().0 {
        largest = v.max(largest, v.abs(v.load(x)));
    }
    let largest = v.reduce_max(largest);
    if largest < f32::MIN_POSITIVE {
        return 0.0;
    }
    let (mut best, mut most) = (largest, 0.0);
    for share in SHARES {
        let (scale, gain) = fit(v, x, h, largest, share);
        if gain > most * MIN_GAIN {
            (best, most) = (scale, gain);
        }
    }
    for _ in 0..REFITS {
        let (scale, gain) = fit(v, x, h, largest, best);
        if gain > most * MIN_GAIN {
            (best, most) = (scale, gain);
        }
    }
    f16::decode(f16::encode((best * largest).min(f16::MAX)))
}

/// Returns the least-squares scale for the codes that `scale` gives, and the amount by which the squared error is below that
/// of zeros. Both are in units of the largest magnitude, so that no square vanishes.
#[inline(always)]
fn fit<V: Vector>(v: V, x: &[f32; MAX_BLOCK], h: &[f32; MAX_BLOCK], largest: f32, scale: f32) -> (f32, f32) {
    let unit = v.splat(1.0 / largest);
    let inverse = 1.0 / scale;
    let (mut xq, mut qq) = (v.splat(0.0), v.splat(0.0));
    for (x, h) in x.as_chunks::<16>().0.iter().zip(h.as_chunks::<16>().0) {
        let x = v.mul(v.load(x), unit);
        let q = level(v, x, inverse);
        let hq = v.mul(v.load(h), q);
        xq = v.add(xq, v.mul(hq, x));
        qq = v.add(qq, v.mul(hq, q));
    }
    let (xq, qq) = (v.reduce_sum(xq), v.reduce_sum(qq));
    if qq > 0.0 && xq > 0.0 { (xq / qq, xq * (xq / qq)) } else { (scale, 0.0) }
}
