//! The solver compiled for AVX2 with FMA: the very same code, so the very same bits.

use super::grid::Format;
use super::lanes::Lane;
use super::solve::{Moments, Steps, Work, solve};
use crate::simd_level::{Level, detected};

/// [`solve`], on a CPU with AVX2 and FMA.
///
/// # Panics
/// If the CPU lacks them.
pub fn solve_avx2<F: Format>(m: Moments<'_>, steps: Steps, noise: Option<&[Lane]>, work: &mut Work) -> Lane {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn shell<F: Format>(m: Moments<'_>, steps: Steps, noise: Option<&[Lane]>, work: &mut Work) -> Lane {
        solve::<F>(m, steps, noise, work)
    }
    assert!(detected() >= Level::Avx2);
    // SAFETY: the CPU has the features, as was just checked.
    unsafe { shell::<F>(m, steps, noise, work) }
}
