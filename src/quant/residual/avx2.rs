//! Eight floats in one AVX register.

use super::lanes::Lanes;
use std::arch::x86_64::*;

/// Made only inside the shells, by kernels that the dispatcher started after finding AVX2.
#[derive(Clone, Copy)]
pub struct Eight(__m256);

impl Lanes for Eight {
    #[inline(always)]
    fn load(from: &[f32; 8]) -> Self {
        // SAFETY: eight floats to read, unaligned; AVX is there, see the type.
        Self(unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: AVX is there, see the type.
        Self(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: AVX is there, see the type.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: AVX is there, see the type.
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: AVX is there, see the type.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: AVX is there, see the type.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: AVX is there, see the type.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: AVX is there, see the type.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: AVX is there, see the type.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn bytes(codes: [Self; 4]) -> [u8; 32] {
        let mut to = [0; 32];
        // SAFETY: AVX2 is there, see the type; 32 bytes to write, unaligned.
        unsafe {
            let (a, b) = (_mm256_cvtps_epi32(codes[0].0), _mm256_cvtps_epi32(codes[1].0));
            let (c, d) = (_mm256_cvtps_epi32(codes[2].0), _mm256_cvtps_epi32(codes[3].0));
            // Both packs work within halves: fours of a b c d, then of their second halves.
            let all = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let all = _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), all);
        }
        to
    }
}
