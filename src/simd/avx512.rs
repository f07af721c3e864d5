//! AVX-512 (F, BW, DQ, VL): 16 lanes in a register.

use std::arch::x86_64::*;

use super::vector::instructions;
use super::{Avx2, Simd, Vector};

/// Proof that the CPU has AVX-512 F, BW, DQ and VL, and what [`Avx2`] proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512(Avx2);

impl Avx512 {
    /// Returns the proof if the CPU has the instructions.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        Avx2::new().filter(|_| has).map(Self)
    }

    /// Returns the proof without a check.
    ///
    /// # Safety
    /// The CPU must have AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
    pub const unsafe fn new_unchecked() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Avx2::new_unchecked() })
    }
}

impl Simd for Avx512 {
    type X8 = Avx2;
    type X16 = Self;
    const WIDE: bool = true;

    #[inline(always)]
    fn x8(self) -> Self::X8 {
        self.0
    }

    #[inline(always)]
    fn x16(self) -> Self::X16 {
        self
    }
}

const TO_NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// The 4 values of rows `j`, `j + 4`, `j + 8` and `j + 12`, in the quarters of a register.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn four_rows(from: &[f32], stride: usize, j: usize) -> __m512 {
    let row = |j: usize| -> &[f32; 4] { from[j * stride..].first_chunk().expect("4 values of each row") };
    let rows = [row(j), row(j + 4), row(j + 8), row(j + 12)];
    // SAFETY: the caller's promise; all rows are 4 floats.
    unsafe {
        let v = _mm512_castps128_ps512(_mm_loadu_ps(rows[0].as_ptr()));
        let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(rows[1].as_ptr()));
        let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(rows[2].as_ptr()));
        _mm512_insertf32x4::<3>(v, _mm_loadu_ps(rows[3].as_ptr()))
    }
}

/// Transposes the 4 by 4 floats in each quarter of four registers.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn transpose4([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    // SAFETY: the caller's promise.
    unsafe {
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

impl Vector for Avx512 {
    const N: usize = 16;
    type F = __m512;
    type U = __m512i;
    type M = __mmask16;

    instructions! {
        splat(v: f32) -> __m512 = _mm512_set1_ps(v);
        load(from: &[f32]) -> __m512 = _mm512_loadu_ps(from[..16].as_ptr());
        store(a: __m512, to: &mut [f32]) = _mm512_storeu_ps(to[..16].as_mut_ptr(), a);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        round_ties_even(a: __m512) -> __m512 = _mm512_roundscale_ps::<TO_NEAREST>(a);
        round_to_f16(a: __m512) -> __m512 = _mm512_cvtph_ps(_mm512_cvtps_ph::<TO_NEAREST>(a));
        lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        eq(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
        select(mask: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(mask, b, a);
        swap<K: usize>(a: __m512) -> __m512 = match K {
            1 => _mm512_permute_ps::<0b10_11_00_01>(a),
            2 => _mm512_permute_ps::<0b01_00_11_10>(a),
            4 => _mm512_shuffle_f32x4::<0b10_11_00_01>(a, a),
            _ => _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a),
        };
        first(a: __m512) -> f32 = _mm512_cvtss_f32(a);
        load_transposed(from: &[f32], stride: usize) -> [__m512; 4] = transpose4([
            four_rows(from, stride, 0),
            four_rows(from, stride, 1),
            four_rows(from, stride, 2),
            four_rows(from, stride, 3),
        ]);
        store_transposed(a: [__m512; 4], to: &mut [f32], stride: usize) = {
            let rows = transpose4(a);
            for j in 0..4 {
                let quarters = [
                    _mm512_castps512_ps128(rows[j]),
                    _mm512_extractf32x4_ps::<1>(rows[j]),
                    _mm512_extractf32x4_ps::<2>(rows[j]),
                    _mm512_extractf32x4_ps::<3>(rows[j]),
                ];
                for k in 0..4 {
                    _mm_storeu_ps(to[(j + 4 * k) * stride..][..4].as_mut_ptr(), quarters[k]);
                }
            }
        };
        load_eights(first: &[f32; 8], second: &[f32; 8]) -> __m512 = _mm512_insertf32x8::<1>(
            _mm512_castps256_ps512(_mm256_loadu_ps(first.as_ptr())),
            _mm256_loadu_ps(second.as_ptr()),
        );

        splat_u32(v: u32) -> __m512i = _mm512_set1_epi32(v as i32);
        load_u32(from: &[u32]) -> __m512i = _mm512_loadu_si512(from[..16].as_ptr().cast());
        store_u32(a: __m512i, to: &mut [u32]) = _mm512_storeu_si512(to[..16].as_mut_ptr().cast(), a);
        load_bytes(from: &[u8]) -> __m512i = _mm512_cvtepu8_epi32(_mm_loadu_si128(from[..16].as_ptr().cast()));
        store_low_bytes(a: [__m512i; 4], to: &mut [u8]) = {
            for (i, a) in a.into_iter().enumerate() {
                _mm_storeu_si128(to[16 * i..][..16].as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
            }
        };
        widening_mul(a: __m512i, b: __m512i) -> (__m512i, __m512i) = {
            let even = _mm512_mul_epu32(a, b);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            let low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd));
            let high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<32>(even), odd);
            (low, high)
        };
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        shl<K: u32>(a: __m512i) -> __m512i = _mm512_slli_epi32::<K>(a);
        shr<K: u32>(a: __m512i) -> __m512i = _mm512_srli_epi32::<K>(a);
        shr_i32<K: u32>(a: __m512i) -> __m512i = _mm512_srai_epi32::<K>(a);
        min_i32(a: __m512i, b: __m512i) -> __m512i = _mm512_min_epi32(a, b);
        max_i32(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epi32(a, b);
        eq_u32(a: __m512i, b: __m512i) -> __mmask16 = _mm512_cmpeq_epi32_mask(a, b);
        select_u32(mask: __mmask16, a: __m512i, b: __m512i) -> __m512i = _mm512_mask_blend_epi32(mask, b, a);
        to_bits(a: __m512) -> __m512i = _mm512_castps_si512(a);
        from_bits(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        to_i32(a: __m512) -> __m512i = _mm512_cvttps_epi32(a);
        from_i32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
    }

    #[inline(always)]
    fn mask_and(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn mask_or(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a | b
    }
}
