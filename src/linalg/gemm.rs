//! The matrix product.
//!
//! ```
//! use srd_rs::linalg::gemm::{Update, gemm};
//! use srd_rs::linalg::matrix::{MatMut, MatRef};
//!
//! let (a, b) = ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0]);
//! let mut c = [0.0; 2];
//! let a = MatRef::from_row_major_slice(&a, 2, 2);
//! let b = MatRef::from_row_major_slice(&b, 2, 1);
//! gemm(a, b, MatMut::from_row_major_slice(&mut c, 2, 1), Update::Set);
//! assert_eq!(c, [50.0, 110.0]);
//! ```

pub use super::matrix::Update;
use super::matrix::{MatMut, MatRef};
use super::product::{GemmTask, Triangle};
use crate::simd::Isa;

/// Multiplies `a`, `[m, k]`, by `b`, `[k, n]`, and updates `c`, `[m, n]`, with the product.
///
/// The sum of an element runs over k in ascending order, in pieces of 256. A piece is a chain of fused multiply-adds
/// from zero; the pieces are added one after another. So the bits depend neither on the CPU nor on the number of
/// threads (the function runs on rayon's current pool).
///
/// # Panics
/// Panics if the shapes do not agree.
pub fn gemm(a: MatRef<'_>, b: MatRef<'_>, c: MatMut<'_>, update: Update) {
    gemm_on(Isa::detect(), a, b, c, update);
}

/// Computes [`gemm`] with the instruction set `isa`. Every instruction set gives the same bits; tests and benches compare
/// them.
///
/// # Panics
/// Panics if the shapes do not agree.
pub fn gemm_on(isa: Isa, a: MatRef<'_>, b: MatRef<'_>, c: MatMut<'_>, update: Update) {
    GemmTask { isa, update, triangle: Triangle::Whole }.run(a, b, c);
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
