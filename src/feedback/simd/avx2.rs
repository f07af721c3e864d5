//! [`Lanes`] in two registers of AVX2, with FMA and F16C.

use std::arch::x86_64::*;

use super::super::lanes::{Lane, Lanes, Word};

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(());

impl Avx2 {
    /// Safe to call only from code compiled for these instructions: to get there took the check.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super) fn new() -> Self {
        Self(())
    }
}

/// Methods on both registers of their arguments.
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

impl Lanes for Avx2 {
    type F = [__m256; 2];
    type W = [__m256i; 2];

    ops! {
        add(a: F, b: F) -> F = _mm256_add_ps(a, b);
        sub(a: F, b: F) -> F = _mm256_sub_ps(a, b);
        mul(a: F, b: F) -> F = _mm256_mul_ps(a, b);
        div(a: F, b: F) -> F = _mm256_div_ps(a, b);
        mul_add(a: F, b: F, c: F) -> F = _mm256_fmadd_ps(a, b, c);
        least(a: F, b: F) -> F = _mm256_min_ps(a, b);
        most(a: F, b: F) -> F = _mm256_max_ps(a, b);
        round16(a: F) -> F = _mm256_cvtph_ps(_mm256_cvtps_ph::<NEAREST16>(a));
        less(a: F, b: F) -> W = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        equal(a: F, b: F) -> W = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b));
        pick(mask: W, a: F, b: F) -> F = _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
        bits(a: F) -> W = _mm256_castps_si256(a);
        and(a: W, b: W) -> W = _mm256_and_si256(a, b);
        or(a: W, b: W) -> W = _mm256_or_si256(a, b);
        xor(a: W, b: W) -> W = _mm256_xor_si256(a, b);
        same(a: W, b: W) -> W = _mm256_cmpeq_epi32(a, b);
        floats(a: W) -> F = _mm256_cvtepi32_ps(a);
    }

    #[inline(always)]
    fn left<const N: i32>(self, a: Self::W) -> Self::W {
        // SAFETY: as above.
        unsafe { [_mm256_slli_epi32::<N>(a[0]), _mm256_slli_epi32::<N>(a[1])] }
    }

    #[inline(always)]
    fn right<const N: i32>(self, a: Self::W) -> Self::W {
        // SAFETY: as above.
        unsafe { [_mm256_srli_epi32::<N>(a[0]), _mm256_srli_epi32::<N>(a[1])] }
    }

    #[inline(always)]
    fn right_signed<const N: i32>(self, a: Self::W) -> Self::W {
        // SAFETY: as above.
        unsafe { [_mm256_srai_epi32::<N>(a[0]), _mm256_srai_epi32::<N>(a[1])] }
    }

    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        // SAFETY: as above.
        unsafe { [_mm256_set1_ps(v); 2] }
    }

    #[inline(always)]
    fn word(self, v: u32) -> Self::W {
        // SAFETY: as above.
        unsafe { [_mm256_set1_epi32(v as i32); 2] }
    }

    #[inline(always)]
    fn load(self, from: &Lane) -> Self::F {
        let at = from.0.as_ptr();
        // SAFETY: as above; 16 floats, aligned to 64 bytes.
        unsafe { [_mm256_load_ps(at), _mm256_load_ps(at.add(8))] }
    }

    #[inline(always)]
    fn store(self, a: Self::F, to: &mut Lane) {
        let at = to.0.as_mut_ptr();
        // SAFETY: as above; 16 floats, aligned to 64 bytes.
        unsafe {
            _mm256_store_ps(at, a[0]);
            _mm256_store_ps(at.add(8), a[1]);
        }
    }

    #[inline(always)]
    fn load_word(self, from: &Word) -> Self::W {
        let at = from.0.as_ptr().cast::<__m256i>();
        // SAFETY: as above; 16 words, aligned to 64 bytes.
        unsafe { [_mm256_load_si256(at), _mm256_load_si256(at.add(1))] }
    }

    #[inline(always)]
    fn store_word(self, a: Self::W, to: &mut Word) {
        let at = to.0.as_mut_ptr().cast::<__m256i>();
        // SAFETY: as above; 16 words, aligned to 64 bytes.
        unsafe {
            _mm256_store_si256(at, a[0]);
            _mm256_store_si256(at.add(1), a[1]);
        }
    }

    #[inline(always)]
    fn turn(self, from: [&[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let mut out = [[0.0; 8]; 8];
        // SAFETY: as above; 8 floats everywhere, unaligned.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                r[i] = _mm256_loadu_ps(from[i].as_ptr());
            }
            let r = transposed(r);
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
unsafe fn transposed(r: [__m256; 8]) -> [__m256; 8] {
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
