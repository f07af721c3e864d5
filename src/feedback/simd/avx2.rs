//! Implements [`Vector`] with two registers of AVX2, with FMA and F16C.

use std::arch::x86_64::*;

use super::super::vector::{F32x16, U32x16, Vector};

/// A proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(());

impl Avx2 {
    /// Makes the proof. Only code that is compiled for these instructions can call this function safely.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super) fn new() -> Self {
        Self(())
    }
}

/// Defines methods that work on both registers of their arguments.
macro_rules! ops {
    ($($name:ident($($arg:ident: $ty:ident),*) -> $out:ident = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::$ty),*) -> Self::$out {
            // Written out twice: a closure would not be sure to be inlined into what is compiled for AVX2.
            // SAFETY: `self` is the proof that the CPU has the instructions.
            let first = { $(let $arg = $arg[0];)* unsafe { $body } };
            // SAFETY: as above.
            let second = { $(let $arg = $arg[1];)* unsafe { $body } };
            [first, second]
        }
    )*};
}

const NEAREST16: i32 = _MM_FROUND_TO_NEAREST_INT;

impl Vector for Avx2 {
    type F32 = [__m256; 2];
    type U32 = [__m256i; 2];

    ops! {
        add(a: F32, b: F32) -> F32 = _mm256_add_ps(a, b);
        sub(a: F32, b: F32) -> F32 = _mm256_sub_ps(a, b);
        mul(a: F32, b: F32) -> F32 = _mm256_mul_ps(a, b);
        div(a: F32, b: F32) -> F32 = _mm256_div_ps(a, b);
        mul_add(a: F32, b: F32, c: F32) -> F32 = _mm256_fmadd_ps(a, b, c);
        min(a: F32, b: F32) -> F32 = _mm256_min_ps(a, b);
        max(a: F32, b: F32) -> F32 = _mm256_max_ps(a, b);
        round_f16(a: F32) -> F32 = _mm256_cvtph_ps(_mm256_cvtps_ph::<NEAREST16>(a));
        lt(a: F32, b: F32) -> U32 = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        eq(a: F32, b: F32) -> U32 = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b));
        select(mask: U32, a: F32, b: F32) -> F32 = _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
        to_bits(a: F32) -> U32 = _mm256_castps_si256(a);
        and(a: U32, b: U32) -> U32 = _mm256_and_si256(a, b);
        or(a: U32, b: U32) -> U32 = _mm256_or_si256(a, b);
        xor(a: U32, b: U32) -> U32 = _mm256_xor_si256(a, b);
        eq_u32(a: U32, b: U32) -> U32 = _mm256_cmpeq_epi32(a, b);
        i32_to_f32(a: U32) -> F32 = _mm256_cvtepi32_ps(a);
    }

    #[inline(always)]
    fn shl<const N: i32>(self, a: Self::U32) -> Self::U32 {
        // SAFETY: as above.
        unsafe { [_mm256_slli_epi32::<N>(a[0]), _mm256_slli_epi32::<N>(a[1])] }
    }

    #[inline(always)]
    fn shr<const N: i32>(self, a: Self::U32) -> Self::U32 {
        // SAFETY: as above.
        unsafe { [_mm256_srli_epi32::<N>(a[0]), _mm256_srli_epi32::<N>(a[1])] }
    }

    #[inline(always)]
    fn sar<const N: i32>(self, a: Self::U32) -> Self::U32 {
        // SAFETY: as above.
        unsafe { [_mm256_srai_epi32::<N>(a[0]), _mm256_srai_epi32::<N>(a[1])] }
    }

    #[inline(always)]
    fn splat(self, v: f32) -> Self::F32 {
        // SAFETY: as above.
        unsafe { [_mm256_set1_ps(v); 2] }
    }

    #[inline(always)]
    fn splat_u32(self, v: u32) -> Self::U32 {
        // SAFETY: as above.
        unsafe { [_mm256_set1_epi32(v as i32); 2] }
    }

    #[inline(always)]
    fn load(self, from: &F32x16) -> Self::F32 {
        let at = from.0.as_ptr();
        // SAFETY: as above; 16 floats, aligned to 64 bytes.
        unsafe { [_mm256_load_ps(at), _mm256_load_ps(at.add(8))] }
    }

    #[inline(always)]
    fn store(self, a: Self::F32, to: &mut F32x16) {
        let at = to.0.as_mut_ptr();
        // SAFETY: as above; 16 floats, aligned to 64 bytes.
        unsafe {
            _mm256_store_ps(at, a[0]);
            _mm256_store_ps(at.add(8), a[1]);
        }
    }

    #[inline(always)]
    fn load_u32(self, from: &U32x16) -> Self::U32 {
        let at = from.0.as_ptr().cast::<__m256i>();
        // SAFETY: as above; 16 words, aligned to 64 bytes.
        unsafe { [_mm256_load_si256(at), _mm256_load_si256(at.add(1))] }
    }

    #[inline(always)]
    fn store_u32(self, a: Self::U32, to: &mut U32x16) {
        let at = to.0.as_mut_ptr().cast::<__m256i>();
        // SAFETY: as above; 16 words, aligned to 64 bytes.
        unsafe {
            _mm256_store_si256(at, a[0]);
            _mm256_store_si256(at.add(1), a[1]);
        }
    }

    #[inline(always)]
    fn transpose8x8(self, from: [&[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let mut out = [[0.0; 8]; 8];
        // SAFETY: as above; 8 floats everywhere, unaligned.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                r[i] = _mm256_loadu_ps(from[i].as_ptr());
            }
            let r = transpose(r);
            for i in 0..8 {
                _mm256_storeu_ps(out[i].as_mut_ptr(), r[i]);
            }
        }
        out
    }
}

/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
        let (a2, a3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
        let (a4, a5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
        let (a6, a7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
        let quads = [
            (_mm256_shuffle_ps::<0b01_00_01_00>(a0, a2), _mm256_shuffle_ps::<0b01_00_01_00>(a4, a6)),
            (_mm256_shuffle_ps::<0b11_10_11_10>(a0, a2), _mm256_shuffle_ps::<0b11_10_11_10>(a4, a6)),
            (_mm256_shuffle_ps::<0b01_00_01_00>(a1, a3), _mm256_shuffle_ps::<0b01_00_01_00>(a5, a7)),
            (_mm256_shuffle_ps::<0b11_10_11_10>(a1, a3), _mm256_shuffle_ps::<0b11_10_11_10>(a5, a7)),
        ];
        let mut out = [_mm256_setzero_ps(); 8];
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(quads[i].0, quads[i].1);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(quads[i].0, quads[i].1);
        }
        out
    }
}
