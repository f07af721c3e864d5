//! The SIMD layer: one trait of vector operations, one file per instruction set, one dispatch macro.
//!
//! - [`Vector`] names the operations on `N` lanes of f32 and of 32-bit words. Algorithms are generic over `Vector`.
//! - [`Simd`] is an instruction set: a zero-sized value that proves that the CPU has the instructions, and that hands out
//!   vectors of 8 and of 16 lanes. The instruction sets are [`Portable`], `Avx2`, `Avx512` and `Neon`.
//! - [`Isa`] is the choice that is made at run time. [`Isa::detect`] gives the best instruction set that the CPU has and
//!   that the environment allows.
//! - [`dispatch!`](crate::simd::dispatch) compiles one generic function once per instruction set and calls the version
//!   that an [`Isa`] asks for.
//!
//! Every operation gives the same bits on every instruction set, and [`Vector`] fixes the order of every reduction.
//! Therefore an algorithm that is generic over [`Vector`] gives the same bits on every CPU. Rust neither fuses nor
//! reorders floating-point operations, so a plain loop inside [`dispatch!`](crate::simd::dispatch) has this property too.
//!
//! The decision record `docs/decisions/0007-simd.md` says why the crate has its own trait.
//!
//! # Examples
//!
//! A function of one's own, compiled for every instruction set:
//!
//! ```
//! use srd_rs::simd::{Isa, Simd, Vector, dispatch};
//!
//! dispatch! {
//!     /// Returns the sum of the squares of `x`, whose length must be a multiple of 8.
//!     fn sum_of_squares(simd: S, x: &[f32]) -> f32 {
//!         let v = simd.x8();
//!         let mut sum = v.splat(0.0);
//!         for x in x.as_chunks::<8>().0 {
//!             let x = v.load(x);
//!             sum = v.add(sum, v.mul(x, x));
//!         }
//!         v.reduce_sum(sum)
//!     }
//! }
//!
//! for isa in Isa::available() {
//!     assert_eq!(sum_of_squares(isa, &[2.0; 16]), 64.0);
//! }
//! ```

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
pub mod f16;
mod isa;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;
mod vector;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use dispatch::dispatch;
pub use isa::Isa;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use portable::{Portable, fused};
pub use vector::{Pair, Simd, Vector};
