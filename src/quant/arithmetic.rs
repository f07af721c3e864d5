//! Small arithmetic that the searches of all block formats share: constants, and functions of vectors.
//!
//! Each function states the scalar operation that every lane performs. The oracles of the tests perform the same
//! operations in the same order.

use crate::simd::{Vector, f16};

/// A scale of a smaller magnitude counts as zero: its reciprocal would overflow, and f16 cannot hold the scale anyway.
pub const MIN_SCALE: f32 = 1e-30;
/// Codes whose variance is a smaller share of their mean square count as equal: the rest is rounding noise.
pub const MIN_RELATIVE_VARIANCE: f32 = 1e-6;
/// The factor by which a candidate must gain more than another to be better. Less is rounding noise, and sub-blocks of
/// one or two values, which any codes fit, fare better with equal codes.
pub const MIN_GAIN: f32 = 1.000_000_5;

/// Returns `1/s`, or 0 where `s` is no usable positive scale.
#[inline(always)]
pub fn inverse<V: Vector>(v: V, s: V::F) -> V::F {
    v.select(v.gt(s, v.splat(MIN_SCALE)), v.div(v.splat(1.0), s), v.splat(0.0))
}

/// Returns `1/s`, or 0 where `s` is no usable scale of either sign.
#[inline(always)]
pub fn signed_inverse<V: Vector>(v: V, s: V::F) -> V::F {
    v.select(v.gt(v.abs(s), v.splat(MIN_SCALE)), v.div(v.splat(1.0), s), v.splat(0.0))
}

/// Returns `a / b`, or `other` where `b` is not positive.
#[inline(always)]
pub fn ratio_or<V: Vector>(v: V, a: V::F, b: V::F, other: V::F) -> V::F {
    v.select(v.gt(b, v.splat(0.0)), v.div(a, b), other)
}

/// Returns the nearest finite f16; the lowest one for a NaN.
#[inline(always)]
pub fn finite_f16<V: Vector>(v: V, a: V::F) -> V::F {
    v.round_to_f16(v.clamp(a, v.splat(-f16::MAX), v.splat(f16::MAX)))
}

/// Returns the nearest finite f16 that is not negative; 0 for a NaN.
#[inline(always)]
pub fn positive_f16<V: Vector>(v: V, a: V::F) -> V::F {
    v.round_to_f16(v.clamp(a, v.splat(0.0), v.splat(f16::MAX)))
}

/// Returns the nearest integer in `0 ..= top` of `a`, which is no NaN.
#[inline(always)]
pub fn code<V: Vector>(v: V, a: V::F, top: V::F) -> V::F {
    v.round_ties_even(v.clamp_bits(a, top))
}

/// Returns in each lane the sum over its group of 8 lanes: `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))`.
#[inline(always)]
pub fn sum8<V: Vector>(v: V, a: V::F) -> V::F {
    let a = v.add(a, v.swap::<1>(a));
    let a = v.add(a, v.swap::<2>(a));
    v.add(a, v.swap::<4>(a))
}

/// Returns in each of 16 lanes the sum over all: [`sum8`] of the lower lanes and of the upper ones, added.
#[inline(always)]
pub fn sum16<V: Vector>(v: V, a: V::F) -> V::F {
    let a = sum8(v, a);
    v.add(a, v.swap::<8>(a))
}

/// Returns in each lane the maximum over its group of 8 lanes.
#[inline(always)]
pub fn max8<V: Vector>(v: V, a: V::F) -> V::F {
    let a = v.max(a, v.swap::<1>(a));
    let a = v.max(a, v.swap::<2>(a));
    v.max(a, v.swap::<4>(a))
}

/// Returns in each of 16 lanes the maximum over all.
#[inline(always)]
pub fn max16<V: Vector>(v: V, a: V::F) -> V::F {
    let a = max8(v, a);
    v.max(a, v.swap::<8>(a))
}

/// Returns in each lane the sum over the lanes of its super-block, whose sub-blocks have `SUB` weights: [`sum8`] for 32
/// weights, [`sum16`] for 16.
#[inline(always)]
pub fn sum_of<V: Vector, const SUB: usize>(v: V, a: V::F) -> V::F {
    if SUB == 16 { sum16(v, a) } else { sum8(v, a) }
}

/// Returns in each lane the maximum over the lanes of its super-block; see [`sum_of`].
#[inline(always)]
pub fn max_of<V: Vector, const SUB: usize>(v: V, a: V::F) -> V::F {
    if SUB == 16 { max16(v, a) } else { max8(v, a) }
}

/// Stores 16 codes of each of `V::N` sub-blocks in the order of the weights. `codes[i]` holds code `16 k + i` of each
/// sub-block, an integer from 0 to 255. Sub-block `j` begins at word `j * stride` of `to`, which holds four codes a word.
#[inline(always)]
pub fn store_codes<V: Vector>(v: V, codes: &[V::F; 16], k: usize, to: &mut [u32], stride: usize) {
    let mut words = [v.splat_u32(0); 4];
    for (i, word) in words.iter_mut().enumerate() {
        let [a, b, c, d] = [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3];
        let (a, b) = (v.to_i32(codes[a]), v.to_i32(codes[b]));
        let (c, d) = (v.to_i32(codes[c]), v.to_i32(codes[d]));
        *word = v.or(v.or(a, v.shl::<8>(b)), v.or(v.shl::<16>(c), v.shl::<24>(d)));
    }
    v.store_transposed_u32(words, &mut to[4 * k..], stride);
}
