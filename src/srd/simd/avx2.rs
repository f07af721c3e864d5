//! Eight floats in one AVX register.

use super::Lanes;
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
    fn store(self) -> [f32; 8] {
        let mut to = [0.0; 8];
        // SAFETY: eight floats to write, unaligned; AVX is there, see the type.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) };
        to
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
    fn bytes(codes: [Self; 4]) -> [u8; 32] {
        let mut to = [0; 32];
        // SAFETY: AVX2 is there, see the type; 32 bytes to write, unaligned.
        unsafe {
            let [a, b, c, d] = codes.map(|v| _mm256_cvtps_epi32(v.0));
            // Both packs work within halves: fours of a b c d, then of their second halves.
            let all = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let all = _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), all);
        }
        to
    }
}
