//! What calibration knows of each matrix's inputs: second moments `H = E[x x^T]` in diagonal blocks.
//!
//! [`crate::calibrate::Accumulator`] sums them up during a forward pass and hands each layer's to a [`Writer`]; [`Calibration`] is
//! the file read back, one input at a time. `docs/calibration.md` describes the file.

mod header;
mod reader;
mod writer;

pub use header::{Info, Input, block_side};
pub use reader::{Calibration, Moments};
pub use writer::{Output, Writer};

/// The second moments of an input of `n` values, as diagonal blocks of `block` values.
#[derive(Debug, Clone, PartialEq)]
pub struct SecondMoments {
    pub n: usize,
    /// Side of a block, a multiple of 256 or `n` itself; the last block is smaller where `block` does not divide `n`.
    pub block: usize,
    /// `[n, block]` row-major: row i holds H[i, s .. s + block] with s = i / block * block; beyond `n` zeros.
    pub values: Vec<f32>,
    /// Tokens that were averaged.
    pub tokens: u64,
}

impl SecondMoments {
    /// Start and length of the diagonal blocks.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        blocks(self.n, self.block)
    }

    /// Whether the values are as many as they should be and finite, and the blocks end where super-blocks of
    /// `block_len` weights do.
    pub fn is_valid(&self, block_len: usize) -> bool {
        self.block > 0
            && self.n.is_multiple_of(block_len)
            && (self.block == self.n || self.block.is_multiple_of(256))
            && self.block <= self.n
            && self.n.checked_mul(self.block) == Some(self.values.len())
            && self.values.iter().all(|v| v.is_finite())
    }

    /// `H = (1 - share) H + share m I`, m the mean of the diagonal.
    pub fn mix_identity(&mut self, share: f32) {
        let mean = self.diagonal().iter().map(|&v| f64::from(v)).sum::<f64>() / self.n as f64;
        self.values.iter_mut().for_each(|v| *v *= 1.0 - share);
        for i in 0..self.n {
            self.values[i * self.block + i % self.block] += (f64::from(share) * mean) as f32;
        }
    }

    /// `h_ii`: the mean squares of the inputs, an imatrix.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.n).map(|i| self.values[i * self.block + i % self.block]).collect()
    }
}

/// Start and length of the diagonal blocks of side `block` of a matrix of side `n`.
pub fn blocks(n: usize, block: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n.div_ceil(block)).map(move |i| (i * block, block.min(n - i * block)))
}
