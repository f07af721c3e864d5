//! Dense linear algebra in f32 that gives the same bits with any number of threads and on every CPU.
//!
//! [`matrix`] holds the views, [`gemm`] the matrix product, [`moments`] sums `x^T x` over tokens, and [`udu`] factorizes
//! second moments for error feedback. Decision 0003 (`docs/decisions`) says why the crate has a product of its own: other
//! libraries choose the order of their sums from the caches of the machine.
//!
//! ```
//! use srd_rs::linalg::matrix::MatRef;
//! use srd_rs::linalg::{moments, udu};
//!
//! // Two inputs that are nearly equal, for three tokens.
//! let x = [1.0, 1.1, -2.0, -1.9, 0.5, 0.4];
//! let mut h = [0.0; 4];
//! moments::accumulate(&x, 2, 2, &mut h);
//! moments::symmetrize(&mut h, 2, 2, 3);
//! let factors = udu::factorize(MatRef::from_row_major_slice(&h, 2, 2), 0.01)?.unwrap();
//! assert!(factors.d[0] < 0.1 * h[0], "little of input 0 is left when input 1 is known");
//! # Ok::<(), srd_rs::Error>(())
//! ```

pub mod gemm;
mod kernel;
pub mod matrix;
pub mod moments;
mod product;
mod scratch;
#[cfg(test)]
mod testing;
pub mod udu;
