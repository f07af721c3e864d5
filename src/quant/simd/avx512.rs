//! AVX-512 (F, BW, DQ, VL): 16 lanes, two super-blocks of Q4_K or Q5_K at a time, one of Q6_K.

use std::arch::x86_64::*;

use super::{Importance, Lanes, avx2, walk};
use crate::quant::search::Codes;

/// Proof that the CPU has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Avx512(());

impl Avx512 {
    /// Safe to call only from code compiled for these instructions: to get there took the check.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
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

impl Lanes for Avx512 {
    type F = __m512;
    type M = __mmask16;

    ops! {
        splat(v: f32) -> __m512 = _mm512_set1_ps(v);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        least(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        most(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        cut(a: __m512, top: __m512) -> __m512 = _mm512_castsi512_ps(_mm512_min_epi32(
            _mm512_max_epi32(_mm512_castps_si512(a), _mm512_setzero_si512()),
            _mm512_castps_si512(top),
        ));
        below(a: __m512, top: __m512) -> __m512 =
            _mm512_castsi512_ps(_mm512_min_epi32(_mm512_castps_si512(a), _mm512_castps_si512(top)));
        nearest(a: __m512) -> __m512 = _mm512_roundscale_ps::<TO_NEAREST>(a);
        round16(a: __m512) -> __m512 = _mm512_cvtph_ps(_mm512_cvtps_ph::<TO_NEAREST>(a));
        above(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b);
        select(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(m, b, a);
        swap1(a: __m512) -> __m512 = _mm512_permute_ps::<0b10_11_00_01>(a);
        swap2(a: __m512) -> __m512 = _mm512_permute_ps::<0b01_00_11_10>(a);
        swap4(a: __m512) -> __m512 = _mm512_shuffle_f32x4::<0b10_11_00_01>(a, a);
        swap8(a: __m512) -> __m512 = _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a);
        load_halves(a: &[f32; 8], b: &[f32; 8]) -> __m512 = _mm512_insertf32x8::<1>(
            _mm512_castps256_ps512(_mm256_loadu_ps(a.as_ptr())),
            _mm256_loadu_ps(b.as_ptr()),
        );
    }

    #[inline(always)]
    fn and(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn store(self, a: __m512, to: &mut [f32]) {
        let to = to.first_chunk_mut::<16>().expect("room for 16 lanes");
        // SAFETY: `self` proves the instructions; `to` is 16 floats, and the store is unaligned.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), a) }
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], len: usize) -> [__m512; 4] {
        assert!(from.len() >= 15 * len + 4);
        let p = from.as_ptr();
        // SAFETY: `self` proves the instructions; the furthest load, of 4 floats at 15 * len, is
        // inside `from` as asserted.
        unsafe {
            // Register i: the 4 weights of sub-blocks i, i + 4, i + 8, i + 12.
            let gather = |i: usize| {
                let quad = |j: usize| _mm_loadu_ps(p.add((i + j) * len));
                let v = _mm512_castps128_ps512(quad(0));
                let v = _mm512_insertf32x4::<1>(v, quad(4));
                let v = _mm512_insertf32x4::<2>(v, quad(8));
                _mm512_insertf32x4::<3>(v, quad(12))
            };
            let (a, b, c, d) = (gather(0), gather(1), gather(2), gather(3));
            let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            [
                _mm512_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low),
                _mm512_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low),
                _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
                _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    fn bytes(self, q: [__m512; 4], to: &mut [u32; 16]) {
        // SAFETY: `self` proves the instructions; `to` is 16 words, and the store is unaligned.
        unsafe {
            let [a, b, c, d] = [
                _mm512_cvtps_epi32(q[0]),
                _mm512_cvtps_epi32(q[1]),
                _mm512_cvtps_epi32(q[2]),
                _mm512_cvtps_epi32(q[3]),
            ];
            let ab = _mm512_or_si512(a, _mm512_slli_epi32::<8>(b));
            let cd = _mm512_or_si512(c, _mm512_slli_epi32::<8>(d));
            let all = _mm512_or_si512(ab, _mm512_slli_epi32::<16>(cd));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), all);
        }
    }
}

/// See [`super::affine_rows`]; the CPU must have AVX-512 F, BW, DQ and VL.
pub(super) fn affine_rows<C: Codes>(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    let pairs = rows.len() / 512;
    let (rows, last) = rows.split_at(pairs * 512);
    let (out, last_out) = out.split_at_mut(pairs * 2 * C::BYTES);
    // SAFETY: the caller has found the CPU to have the instructions.
    unsafe { affine_pairs::<C>(rows, h, out) }
    if !last.is_empty() {
        avx2::affine_rows::<C>(last, h, 2 * pairs, last_out);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn affine_pairs<C: Codes>(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    walk::affine_rows::<_, C, 16>(Avx512::new(), rows, h, 0, out);
}

/// See [`super::signed_rows`]; the CPU must have AVX-512 F, BW, DQ and VL.
pub(super) fn signed_rows(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    // SAFETY: the caller has found the CPU to have the instructions.
    unsafe { signed_blocks(rows, h, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn signed_blocks(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    walk::signed_rows::<_, 16, 1>(Avx512::new(), rows, h, out);
}
