//! The solver compiled for other instruction sets. Each runs the same steps, so that each gives the same bits.

mod avx2;

use super::SolverOptions;
use super::scales::Format;
use super::solve::solve;
use super::state::{FactorizedBlock, NoiseSource, Workspace};
use crate::simd_level::{Level, detected};

/// Runs [`solve`] with AVX2, FMA and F16C.
///
/// # Panics
/// Panics if the CPU lacks the instructions.
pub fn solve_avx2<F: Format>(
    block: FactorizedBlock<'_>,
    options: &SolverOptions,
    noise: NoiseSource<'_>,
    ws: &mut Workspace,
) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn with_avx2<F: Format>(
        block: FactorizedBlock<'_>,
        options: &SolverOptions,
        noise: NoiseSource<'_>,
        ws: &mut Workspace,
    ) {
        solve::<F, _>(avx2::Avx2::new(), block, options, noise, ws);
    }
    assert!(detected() >= Level::Avx2);
    // SAFETY: the CPU has the instructions, as was just checked.
    unsafe { with_avx2::<F>(block, options, noise, ws) }
}
