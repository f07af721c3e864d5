//! AVX2 with F16C: 8 lanes.

use std::arch::x86_64::*;

use super::{Importance, Lanes, walk};
use crate::quant::search::Codes;

/// Proof that the CPU has AVX2 and F16C.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Avx2(());

impl Avx2 {
    /// Safe to call only from code compiled for these instructions: to get there took the check.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(in crate::quant) fn new() -> Self {
        Self(())
    }
}

/// Methods whose bodies are intrinsics.
macro_rules! ops {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` is the proof that the CPU has the instructions.
            unsafe { $body }
        }
    )*};
}

const TO_NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Lanes for Avx2 {
    type F = __m256;
    type M = __m256;

    ops! {
        splat(v: f32) -> __m256 = _mm256_set1_ps(v);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        abs(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        least(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        most(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        cut(a: __m256, top: __m256) -> __m256 = _mm256_castsi256_ps(_mm256_min_epi32(
            _mm256_max_epi32(_mm256_castps_si256(a), _mm256_setzero_si256()),
            _mm256_castps_si256(top),
        ));
        below(a: __m256, top: __m256) -> __m256 =
            _mm256_castsi256_ps(_mm256_min_epi32(_mm256_castps_si256(a), _mm256_castps_si256(top)));
        nearest(a: __m256) -> __m256 = _mm256_round_ps::<TO_NEAREST>(a);
        round16(a: __m256) -> __m256 = _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
        above(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_GT_OQ>(a, b);
        and(a: __m256, b: __m256) -> __m256 = _mm256_and_ps(a, b);
        select(m: __m256, a: __m256, b: __m256) -> __m256 = _mm256_blendv_ps(b, a, m);
        swap1(a: __m256) -> __m256 = _mm256_permute_ps::<0b10_11_00_01>(a);
        swap2(a: __m256) -> __m256 = _mm256_permute_ps::<0b01_00_11_10>(a);
        swap4(a: __m256) -> __m256 = _mm256_permute2f128_ps::<1>(a, a);
        load_halves(a: &[f32; 8], _b: &[f32; 8]) -> __m256 = _mm256_loadu_ps(a.as_ptr());
    }

    #[inline(always)]
    fn swap8(self, a: __m256) -> __m256 {
        a
    }

    #[inline(always)]
    fn store(self, a: __m256, to: &mut [f32]) {
        let to = to.first_chunk_mut::<8>().expect("room for 8 lanes");
        // SAFETY: `self` proves the instructions; `to` is 8 floats, and the store is unaligned.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), a) }
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], len: usize) -> [__m256; 4] {
        assert!(from.len() >= 7 * len + 4);
        let p = from.as_ptr();
        // SAFETY: `self` proves the instructions; the furthest load, of 4 floats at 7 * len, is
        // inside `from` as asserted.
        unsafe {
            // Register i: the 4 weights of sub-blocks i and i + 4.
            let gather = |i: usize| {
                let v = _mm256_castps128_ps256(_mm_loadu_ps(p.add(i * len)));
                _mm256_insertf128_ps::<1>(v, _mm_loadu_ps(p.add((i + 4) * len)))
            };
            let (a, b, c, d) = (gather(0), gather(1), gather(2), gather(3));
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low),
                _mm256_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low),
                _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
                _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    fn bytes(self, q: [__m256; 4], to: &mut [u32; 16]) {
        // SAFETY: `self` proves the instructions; `to` has room for 8 words, and the store is unaligned.
        unsafe {
            let [a, b, c, d] = [
                _mm256_cvtps_epi32(q[0]),
                _mm256_cvtps_epi32(q[1]),
                _mm256_cvtps_epi32(q[2]),
                _mm256_cvtps_epi32(q[3]),
            ];
            let ab = _mm256_or_si256(a, _mm256_slli_epi32::<8>(b));
            let cd = _mm256_or_si256(c, _mm256_slli_epi32::<8>(d));
            let all = _mm256_or_si256(ab, _mm256_slli_epi32::<16>(cd));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), all);
        }
    }
}

/// See [`super::affine_rows`]; the CPU must have AVX2 and F16C. `first`: the number of the first
/// super-block of `rows` in the whole, for the importances.
pub(super) fn affine_rows<C: Codes>(rows: &[f32], h: Option<&Importance>, first: usize, out: &mut [u8]) {
    // SAFETY: the caller has found the CPU to have the instructions.
    unsafe { affine_blocks::<C>(rows, h, first, out) }
}

#[target_feature(enable = "avx2,f16c")]
fn affine_blocks<C: Codes>(rows: &[f32], h: Option<&Importance>, first: usize, out: &mut [u8]) {
    walk::affine_rows::<_, C, 8>(Avx2::new(), rows, h, first, out);
}

/// See [`super::signed_rows`]; the CPU must have AVX2 and F16C.
pub(super) fn signed_rows(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    // SAFETY: the caller has found the CPU to have the instructions.
    unsafe { signed_blocks(rows, h, out) }
}

#[target_feature(enable = "avx2,f16c")]
fn signed_blocks(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    walk::signed_rows::<_, 8, 2>(Avx2::new(), rows, h, out);
}
