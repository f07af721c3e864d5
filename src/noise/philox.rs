//! Philox4x32-10 in AVX2: eight calls in two sets of registers, a call to 64 bits of each.

use std::arch::x86_64::*;

use crate::noise::{DRAW, LANES, MULTIPLIERS, ROUNDS, WEYL};

/// Noise of the groups `first ..` of `row`; see [`crate::noise::Noise::fill`].
#[target_feature(enable = "avx2")]
pub fn draw(key: [u32; 2], row: u64, first: u32, out: &mut [f32; DRAW]) {
    const { assert!(LANES == 8) }
    // Intrinsics on registers are safe where the instructions are enabled.
    let counters: [i64; 8] = std::array::from_fn(|j| i64::from(first.wrapping_add(j as u32)));
    let low = |c: &[i64]| _mm256_set_epi64x(c[3], c[2], c[1], c[0]);
    let (mut a0, mut b0) = (low(&counters[..4]), low(&counters[4..]));
    let mut a1 = _mm256_set1_epi64x((row & 0xffff_ffff) as i64);
    let mut a2 = _mm256_set1_epi64x((row >> 32) as i64);
    let mut a3 = _mm256_setzero_si256();
    let (mut b1, mut b2, mut b3) = (a1, a2, a3);
    let m0 = _mm256_set1_epi64x(i64::from(MULTIPLIERS[0]));
    let m1 = _mm256_set1_epi64x(i64::from(MULTIPLIERS[1]));
    let [mut key0, mut key1] = key;
    for _ in 0..ROUNDS {
        let (k0, k1) = (_mm256_set1_epi64x(i64::from(key0)), _mm256_set1_epi64x(i64::from(key1)));
        [a0, a1, a2, a3] = round([a0, a1, a2, a3], [m0, m1], [k0, k1]);
        [b0, b1, b2, b3] = round([b0, b1, b2, b3], [m0, m1], [k0, k1]);
        key0 = key0.wrapping_add(WEYL[0]);
        key1 = key1.wrapping_add(WEYL[1]);
    }
    let (left, right) = out.split_at_mut(DRAW / 2);
    spread([a0, a1, a2, a3], left);
    spread([b0, b1, b2, b3], right);
}

/// The words are the low halves; a product reads nothing else, so what is above them may stay.
#[target_feature(enable = "avx2")]
fn round(c: [__m256i; 4], m: [__m256i; 2], k: [__m256i; 2]) -> [__m256i; 4] {
    let (p0, p1) = (_mm256_mul_epu32(c[0], m[0]), _mm256_mul_epu32(c[2], m[1]));
    let high = |p, c, k| _mm256_xor_si256(_mm256_srli_epi64::<32>(p), _mm256_xor_si256(c, k));
    [high(p1, c[1], k[0]), p1, high(p0, c[3], k[1]), p0]
}

/// The 16 bytes of each of the four calls, in order, as noise.
#[target_feature(enable = "avx2")]
fn spread(c: [__m256i; 4], out: &mut [f32]) {
    let pair = |low, high| _mm256_blend_epi32::<0b1010_1010>(low, _mm256_slli_epi64::<32>(high));
    let (front, back) = (pair(c[0], c[1]), pair(c[2], c[3]));
    // Calls 0 and 2, and 1 and 3.
    let (even, odd) = (_mm256_unpacklo_epi64(front, back), _mm256_unpackhi_epi64(front, back));
    let calls = [
        _mm256_castsi256_si128(even),
        _mm256_castsi256_si128(odd),
        _mm256_extracti128_si256::<1>(even),
        _mm256_extracti128_si256::<1>(odd),
    ];
    // (2 x - 255) / 512 without a rounding.
    let (scale, offset) = (_mm256_set1_ps(1.0 / 256.0), _mm256_set1_ps(255.0 / 512.0));
    for (bytes, out) in calls.into_iter().zip(out.as_chunks_mut::<16>().0) {
        for (bytes, out) in [bytes, _mm_srli_si128::<8>(bytes)].into_iter().zip(out.as_chunks_mut::<8>().0) {
            let x = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
            let u = _mm256_sub_ps(_mm256_mul_ps(x, scale), offset);
            // SAFETY: room for eight floats, unaligned.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), u) };
        }
    }
}
