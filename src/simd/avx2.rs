//! AVX2 with FMA and F16C: 8 lanes in a register.

use std::arch::x86_64::*;

use super::vector::instructions;
use super::{Pair, Simd, Vector};

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx2(());

impl Avx2 {
    /// Returns the proof if the CPU has the instructions.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }

    /// Returns the proof without a check.
    ///
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    pub const unsafe fn new_unchecked() -> Self {
        Self(())
    }
}

impl Simd for Avx2 {
    type X8 = Self;
    type X16 = Pair<Self>;
    const WIDE: bool = false;

    #[inline(always)]
    fn x8(self) -> Self::X8 {
        self
    }

    #[inline(always)]
    fn x16(self) -> Self::X16 {
        Pair(self)
    }
}

const TO_NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// The 4 values of row `j` and those of row `j + 4`, in the halves of a register.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn two_rows(from: &[f32], stride: usize, j: usize) -> __m256 {
    let row = |j: usize| -> &[f32; 4] { from[j * stride..].first_chunk().expect("4 values of each row") };
    let (low, high) = (row(j), row(j + 4));
    // SAFETY: the caller's promise; both rows are 4 floats.
    unsafe {
        let low = _mm256_castps128_ps256(_mm_loadu_ps(low.as_ptr()));
        _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(high.as_ptr()))
    }
}

/// Transposes the 4 by 4 floats in each half of four registers.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn transpose4([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller's promise.
    unsafe {
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

impl Vector for Avx2 {
    const N: usize = 8;
    type F = __m256;
    type U = __m256i;
    type M = __m256;

    instructions! {
        splat(v: f32) -> __m256 = _mm256_set1_ps(v);
        load(from: &[f32]) -> __m256 = _mm256_loadu_ps(from[..8].as_ptr());
        store(a: __m256, to: &mut [f32]) = _mm256_storeu_ps(to[..8].as_mut_ptr(), a);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        abs(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        round_ties_even(a: __m256) -> __m256 = _mm256_round_ps::<TO_NEAREST>(a);
        round_to_f16(a: __m256) -> __m256 =
            _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
        lt(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        eq(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
        select(mask: __m256, a: __m256, b: __m256) -> __m256 = _mm256_blendv_ps(b, a, mask);
        swap<K: usize>(a: __m256) -> __m256 = match K {
            1 => _mm256_permute_ps::<0b10_11_00_01>(a),
            2 => _mm256_permute_ps::<0b01_00_11_10>(a),
            4 => _mm256_permute2f128_ps::<1>(a, a),
            _ => a,
        };
        first(a: __m256) -> f32 = _mm256_cvtss_f32(a);
        load_transposed(from: &[f32], stride: usize) -> [__m256; 4] = transpose4([
            two_rows(from, stride, 0),
            two_rows(from, stride, 1),
            two_rows(from, stride, 2),
            two_rows(from, stride, 3),
        ]);
        store_transposed(a: [__m256; 4], to: &mut [f32], stride: usize) = {
            let rows = transpose4(a);
            for j in 0..4 {
                _mm_storeu_ps(to[j * stride..][..4].as_mut_ptr(), _mm256_castps256_ps128(rows[j]));
                let high = _mm256_extractf128_ps::<1>(rows[j]);
                _mm_storeu_ps(to[(j + 4) * stride..][..4].as_mut_ptr(), high);
            }
        };
        load_eights(first: &[f32; 8], _second: &[f32; 8]) -> __m256 = _mm256_loadu_ps(first.as_ptr());

        splat_u32(v: u32) -> __m256i = _mm256_set1_epi32(v as i32);
        load_u32(from: &[u32]) -> __m256i = _mm256_loadu_si256(from[..8].as_ptr().cast());
        store_u32(a: __m256i, to: &mut [u32]) = _mm256_storeu_si256(to[..8].as_mut_ptr().cast(), a);
        load_bytes(from: &[u8]) -> __m256i = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from[..8].as_ptr().cast()));
        store_low_bytes(a: [__m256i; 4], to: &mut [u8]) = {
            // In each half, the low bytes of the 4 words of vector i go to word i.
            let order = |word: i32| {
                let order = |i: i32| if i == word { 0x0c08_0400 } else { 0x8080_8080u32 as i32 };
                _mm256_broadcastsi128_si256(_mm_setr_epi32(order(0), order(1), order(2), order(3)))
            };
            let ab = _mm256_or_si256(_mm256_shuffle_epi8(a[0], order(0)), _mm256_shuffle_epi8(a[1], order(1)));
            let cd = _mm256_or_si256(_mm256_shuffle_epi8(a[2], order(2)), _mm256_shuffle_epi8(a[3], order(3)));
            let halves = _mm256_or_si256(ab, cd);
            let bytes = _mm256_permutevar8x32_epi32(halves, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(to[..32].as_mut_ptr().cast(), bytes);
        };
        widening_mul(a: __m256i, b: __m256i) -> (__m256i, __m256i) = {
            let even = _mm256_mul_epu32(a, b);
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            let low = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
            let high = _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd);
            (low, high)
        };
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        // A shift by a number that is known to the compiler becomes the instruction with an immediate operand.
        shl<K: u32>(a: __m256i) -> __m256i = _mm256_sll_epi32(a, _mm_cvtsi32_si128(K as i32));
        shr<K: u32>(a: __m256i) -> __m256i = _mm256_srl_epi32(a, _mm_cvtsi32_si128(K as i32));
        shr_i32<K: u32>(a: __m256i) -> __m256i = _mm256_sra_epi32(a, _mm_cvtsi32_si128(K as i32));
        min_i32(a: __m256i, b: __m256i) -> __m256i = _mm256_min_epi32(a, b);
        max_i32(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epi32(a, b);
        eq_u32(a: __m256i, b: __m256i) -> __m256 = _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b));
        select_u32(mask: __m256, a: __m256i, b: __m256i) -> __m256i = _mm256_castps_si256(
            _mm256_blendv_ps(_mm256_castsi256_ps(b), _mm256_castsi256_ps(a), mask),
        );
        to_bits(a: __m256) -> __m256i = _mm256_castps_si256(a);
        from_bits(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        to_i32(a: __m256) -> __m256i = _mm256_cvttps_epi32(a);
        from_i32(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);

        mask_and(a: __m256, b: __m256) -> __m256 = _mm256_and_ps(a, b);
        mask_or(a: __m256, b: __m256) -> __m256 = _mm256_or_ps(a, b);
    }
}
