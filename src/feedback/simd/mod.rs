//! The solver compiled for other instruction sets: the very same steps, so the very same bits.

mod avx2;

use super::grid::Format;
use super::solve::{Draw, Moments, Steps, Work, solve};
use crate::simd_level::{Level, detected};

/// [`solve`], on a CPU with AVX2 and FMA.
///
/// # Panics
/// If the CPU lacks them.
pub fn solve_avx2<F: Format>(m: Moments<'_>, steps: Steps, draw: Draw<'_>, work: &mut Work) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn shell<F: Format>(m: Moments<'_>, steps: Steps, draw: Draw<'_>, work: &mut Work) {
        solve::<F, _>(avx2::Avx2::new(), m, steps, draw, work);
    }
    assert!(detected() >= Level::Avx2);
    // SAFETY: the CPU has the features, as was just checked.
    unsafe { shell::<F>(m, steps, draw, work) }
}
