//! Dense linear algebra in f32 with the same bits for any number of threads and on every CPU.
//!
//! [`gemm`] is the matrix product that the others are made of, [`moments`] sums of `x^T x`, [`ldl`] the factors that
//! error feedback needs.

pub mod gemm;
pub mod ldl;
pub mod moments;
mod product;
mod scratch;
mod simd;
#[cfg(test)]
mod testing;
