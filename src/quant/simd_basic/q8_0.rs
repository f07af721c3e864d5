//! Q8_0 in AVX2: the scalar code's operations, eight weights at a time.

use crate::quant::f16;
use crate::quant::q8_0::{BELOW_HALF, scale_and_inverse};
use std::arch::x86_64::*;

/// Quantises whole blocks of 32 finite weights.
#[target_feature(enable = "avx2")]
pub fn quantize(rows: &[f32], out: &mut [u8]) {
    for (w, out) in rows.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<34>().0) {
        encode(w, out);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn encode(w: &[f32; 32], out: &mut [u8; 34]) {
    // SAFETY: four loads of eight floats within the 32 of `w`; unaligned loads are allowed.
    let w: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(w.as_ptr().add(8 * i)) });
    let (scale, inverse) = scale_and_inverse(largest(&w) / 127.0);
    let codes = w.map(|w| round_half_away(_mm256_mul_ps(w, _mm256_set1_ps(inverse))));
    let words = (_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
    // Packing works within the 128-bit halves: this puts the groups of four back in order.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words.0, words.1), order);
    out[..2].copy_from_slice(&f16::encode(scale).to_le_bytes());
    // SAFETY: 32 bytes from byte 2 of the 34 of `out`; unaligned stores are allowed.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(2).cast(), bytes) };
}

/// The largest magnitude.
#[inline]
#[target_feature(enable = "avx2")]
fn largest(w: &[__m256; 4]) -> f32 {
    let abs = w.map(|w| _mm256_andnot_ps(_mm256_set1_ps(-0.0), w));
    let eight = _mm256_max_ps(_mm256_max_ps(abs[0], abs[1]), _mm256_max_ps(abs[2], abs[3]));
    let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// See the scalar function of this name.
#[inline]
#[target_feature(enable = "avx2")]
fn round_half_away(x: __m256) -> __m256i {
    let sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0));
    _mm256_cvttps_epi32(_mm256_add_ps(x, _mm256_or_ps(sign, _mm256_set1_ps(BELOW_HALF))))
}
