//! Calibration files: the second moments `H = E[x x^T]` of the inputs of each matrix, in diagonal blocks.
//!
//! [`crate::calibrate::Accumulator`] sums the moments up during a forward pass and gives those of each layer to a [`Writer`].
//! [`Calibration`] reads the file, one input at a time. `docs/calibration.md` describes the format.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use srd_rs::formats::calibration::Calibration;
//!
//! let calibration = Arc::new(Calibration::open("model.calibration".as_ref())?);
//! let input = calibration.get("blk.0.ffn_down.weight").expect("the tensor was calibrated");
//! let moments = input.read(0)?;
//! println!("{} values, blocks of {}, {} tokens", moments.n, moments.block, moments.tokens);
//! # Ok::<(), srd_rs::Error>(())
//! ```

mod header;
mod reader;
mod state;
mod sums;
pub mod values;
mod writer;

pub use header::{Info, Input, Quantized, block_side};
pub use reader::{Blocks, Calibration, Moments};
pub use writer::{Output, Writer};

/// The second moments of an input of `n` values, as diagonal blocks of `block` values.
#[derive(Debug, Clone, PartialEq)]
pub struct SecondMoments {
    /// Number of values of an input.
    pub n: usize,
    /// Side of a block: a multiple of 256, or `n` itself. The last block is smaller where `block` does not divide `n`.
    pub block: usize,
    /// `[n, block]` row-major. Row i has H[i, s .. s + block] with s = i / block * block, and zeros for columns beyond `n`.
    pub values: Vec<f32>,
    /// Number of tokens that the mean was taken over.
    pub tokens: u64,
}

impl SecondMoments {
    /// Returns the start and the length of each diagonal block.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        blocks(self.n, self.block)
    }

    /// Returns whether the number of values is right, the values are finite, and the blocks end where super-blocks of
    /// `block_len` weights end.
    pub fn is_valid(&self, block_len: usize) -> bool {
        self.block > 0
            && self.n.is_multiple_of(block_len)
            && (self.block == self.n || self.block.is_multiple_of(256))
            && self.block <= self.n
            && self.n.checked_mul(self.block) == Some(self.values.len())
            && self.values.iter().all(|v| v.is_finite())
    }

    /// Sets `H = (1 - share) H + share diag(H)`: off the diagonal every moment is multiplied by `1 - share`.
    ///
    /// Few tokens make the moments between two inputs look stronger than they are in other text. Shrinkage toward the
    /// diagonal (Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004) takes this
    /// back.
    pub fn shrink_to_diagonal(&mut self, share: f32) {
        for (i, row) in self.values.chunks_exact_mut(self.block).enumerate() {
            let diagonal = row[i % self.block];
            row.iter_mut().for_each(|v| *v *= 1.0 - share);
            row[i % self.block] = diagonal;
        }
    }

    /// Sets `H = (1 - share) H + share m I`, where m is the mean of the diagonal.
    pub fn mix_identity(&mut self, share: f32) {
        let mean = self.diagonal().iter().map(|&v| f64::from(v)).sum::<f64>() / self.n as f64;
        self.values.iter_mut().for_each(|v| *v *= 1.0 - share);
        for i in 0..self.n {
            self.values[i * self.block + i % self.block] += (f64::from(share) * mean) as f32;
        }
    }

    /// Returns `h_ii`, the mean squares of the inputs: an imatrix.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.n).map(|i| self.values[i * self.block + i % self.block]).collect()
    }
}

/// Returns the start and the length of each diagonal block of side `block` of a matrix of side `n`.
pub fn blocks(n: usize, block: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n.div_ceil(block)).map(move |i| (i * block, block.min(n - i * block)))
}
