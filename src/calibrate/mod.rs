//! Calibration: an observer of the forward pass sums the second moments of each matrix's inputs over calibration tokens,
//! and writes the moments to a calibration file.
//!
//! [`Accumulator`] is the observer; [`part`] lets several machines calibrate together; [`random_tokens`] draws tokens where there is no text.
//!
//! ```
//! use srd_rs::calibrate::Accumulator;
//! use srd_rs::formats::calibration::{Info, Output};
//! use srd_rs::forward::Observer;
//!
//! let folder = tempfile::tempdir().unwrap();
//! let output = Output::File { path: folder.path().join("model.calib"), overwrite: false };
//! let info = Info {
//!     text: "random".into(), text_sha256: None, seed: 0, weighed: false, tokens: 2, ctx: 2, block: 0,
//!     source_digest: "sha256:00".into(),
//! };
//! let shapes: [(&str, &[u64]); 1] = [("blk.0.attn_q.weight", &[2, 8])];
//! let mut accumulator = Accumulator::create(&shapes, info, &output)?;
//! accumulator.inputs(&["blk.0.attn_q.weight"], None, 2, &[1.0, 2.0, 3.0, 0.0])?;
//! let calibration = std::sync::Arc::new(accumulator.finish()?);
//! let moments = calibration.get("blk.0.attn_q.weight").unwrap().read(0)?;
//! assert_eq!(moments.values, [5.0, 1.0, 1.0, 2.0]);
//! # Ok::<(), srd_rs::Error>(())
//! ```

mod accumulator;
pub mod part;
#[cfg(test)]
mod tests;
mod weighing;

use crate::error::{Error, Result};
use crate::noise::Noise;

pub use accumulator::{Accumulator, BLEND};
pub use weighing::{BATCHES, PASSES, runs, weigh_part};

/// Draws `count` token ids uniformly from `ids`. A `seed` gives the same tokens on every machine.
///
/// # Errors
/// Returns [`Error::Usage`] if there are no ids.
pub fn random_tokens(ids: &[u32], count: usize, seed: u64) -> Result<Vec<u32>> {
    if ids.is_empty() {
        return Err(Error::usage(
            "the vocabulary has no ordinary tokens to draw from",
            "Calibrate with a text",
        ));
    }
    let noise = Noise::new(seed, "calibration tokens");
    // 32 random bits are scaled to the number of ids. With 2^18 ids no id is likelier than another by more than 2^-14.
    let scaled = |word: u32| ((u64::from(word) * ids.len() as u64) >> 32) as usize;
    Ok((0..count as u64).map(|i| ids[scaled(noise.word(i))]).collect())
}
