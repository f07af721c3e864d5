//! Calibration: a forward pass over calibration tokens is watched, and the second moments of each matrix's inputs
//! are written to a calibration file.

mod accumulator;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::noise::Noise;

pub use accumulator::{Accumulator, BLEND};

/// `count` token ids drawn uniformly from `ids`, the same for the same `seed` everywhere.
///
/// # Errors
/// [`Error::Usage`] when there are no ids.
pub fn random_tokens(ids: &[u32], count: usize, seed: u64) -> Result<Vec<u32>> {
    if ids.is_empty() {
        return Err(Error::usage("the vocabulary has no ordinary tokens", "Calibrate on a text"));
    }
    let noise = Noise::new(seed, "calibration tokens");
    // 32 bits scaled to the number of ids: for a vocabulary of 2^18 ids none is likelier by more than 2^-14.
    let scaled = |word: u32| ((u64::from(word) * ids.len() as u64) >> 32) as usize;
    Ok((0..count as u64).map(|i| ids[scaled(noise.word(i))]).collect())
}
