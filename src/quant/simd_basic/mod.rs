//! SIMD shells of the plain types and the 32-weight blocks.
//!
//! The scalar code is written over fixed-size arrays and eight [`Lanes`]. A shell compiles that same
//! code once more for a wider instruction set. Rust neither fuses nor reorders floating-point
//! operations, so every shell gives the bits of the scalar code.

#[cfg(target_arch = "x86_64")]
use crate::simd_level;
use crate::simd_level::Level;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod avx2;
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

/// Eight floats that are worked on together. `max` and `min` give the second one when neither is
/// larger or smaller.
pub trait Lanes: Copy {
    fn load(from: &[f32; 8]) -> Self;
    fn splat(x: f32) -> Self;
    fn store(self) -> [f32; 8];
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
}

#[inline(always)]
fn zip(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// The scalar reference.
impl Lanes for [f32; 8] {
    #[inline(always)]
    fn load(from: &[f32; 8]) -> Self {
        *from
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; 8]
    }
    #[inline(always)]
    fn store(self) -> [f32; 8] {
        self
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        zip(self, other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        zip(self, other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        zip(self, other, |a, b| a * b)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        zip(self, other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        zip(self, other, |a, b| if a < b { a } else { b })
    }
}

/// A piece of work to be compiled for several instruction sets. `run`, and everything hot that it
/// calls, must be `#[inline(always)]`: what is not inlined stays compiled for the base CPU.
pub trait Kernel {
    fn run<V: Lanes>(self);
}

/// Runs the kernel as compiled for `level`, or for the best level below it that this CPU has.
#[cfg(target_arch = "x86_64")]
pub fn run<K: Kernel>(level: Level, kernel: K) {
    #[target_feature(enable = "avx2")]
    fn with_avx2<K: Kernel>(kernel: K) {
        kernel.run::<avx2::Eight>();
    }

    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    fn with_avx512<K: Kernel>(kernel: K) {
        kernel.run::<avx2::Eight>();
    }

    match level.min(supported()) {
        Level::Scalar => kernel.run::<[f32; 8]>(),
        // SAFETY: `supported` found AVX2 on this CPU.
        Level::Avx2 => unsafe { with_avx2(kernel) },
        // SAFETY: `supported` found AVX-512 F, BW, DQ and VL, and AVX2, on this CPU.
        Level::Avx512 => unsafe { with_avx512(kernel) },
    }
}

/// The best level of this CPU, whatever the environment says.
#[cfg(target_arch = "x86_64")]
fn supported() -> Level {
    static SUPPORTED: OnceLock<Level> = OnceLock::new();
    *SUPPORTED.get_or_init(|| simd_level::available().into_iter().max().unwrap_or(Level::Scalar))
}

/// Runs the kernel. Other architectures have one level; their base sets include vectors.
#[cfg(not(target_arch = "x86_64"))]
pub fn run<K: Kernel>(_level: Level, kernel: K) {
    kernel.run::<[f32; 8]>();
}
