//! SIMD shells of the plain types and the 32-weight blocks.
//!
//! Conversions and dequantisers are written over fixed-size arrays: a [`Kernel`] is compiled once more
//! for each wider instruction set. Rust neither fuses nor reorders floating-point operations, so every
//! shell gives the bits of the scalar code. The searches of the 32-weight blocks run over the lanes of
//! [`super::simd`], a block to a lane ([`blocks`]).

#[cfg(target_arch = "x86_64")]
use crate::simd_level;
use crate::simd_level::Level;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

pub mod blocks;
#[cfg(target_arch = "x86_64")]
mod q8_0;

/// Quantises whole blocks to Q8_0, or returns false where there is no shell for the level.
pub fn quantize_q8_0(level: Level, rows: &[f32], out: &mut [u8]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if level.min(supported()) >= Level::Avx2 {
        // SAFETY: `supported` found AVX2 on this CPU.
        unsafe { q8_0::quantize(rows, out) };
        return true;
    }
    let _ = (level, rows, out);
    false
}

/// A piece of work to be compiled for several instruction sets. `run`, and everything hot that it
/// calls, must be `#[inline(always)]`: what is not inlined stays compiled for the base CPU.
pub trait Kernel {
    fn run(self);
}

/// Runs the kernel as compiled for `level`, or for the best level below it that this CPU has.
#[cfg(target_arch = "x86_64")]
pub fn run<K: Kernel>(level: Level, kernel: K) {
    #[target_feature(enable = "avx2")]
    fn with_avx2<K: Kernel>(kernel: K) {
        kernel.run();
    }

    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    fn with_avx512<K: Kernel>(kernel: K) {
        kernel.run();
    }

    match level.min(supported()) {
        Level::Scalar | Level::Neon => kernel.run(),
        // SAFETY: `supported` found AVX2 on this CPU.
        Level::Avx2 => unsafe { with_avx2(kernel) },
        // SAFETY: `supported` found AVX-512 F, BW, DQ and VL, and AVX2, on this CPU.
        Level::Avx512 => unsafe { with_avx512(kernel) },
    }
}

/// The best level of this CPU, whatever the environment says.
#[cfg(target_arch = "x86_64")]
pub fn supported() -> Level {
    static SUPPORTED: OnceLock<Level> = OnceLock::new();
    *SUPPORTED.get_or_init(|| simd_level::available().into_iter().max().unwrap_or(Level::Scalar))
}

/// Runs the kernel. Other architectures have one level; their base sets include vectors.
#[cfg(not(target_arch = "x86_64"))]
pub fn run<K: Kernel>(_level: Level, kernel: K) {
    kernel.run();
}
