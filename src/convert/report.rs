//! What a run made, and what the run cost: wall time, CPU time and peak memory.
//!
//! ```
//! use srd_rs::convert::report::Clock;
//!
//! let clock = Clock::start();
//! assert!(clock.seconds() >= 0.0 && clock.cpu_seconds() >= 0.0);
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::os;

/// What a run made and cost.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Wall time in seconds.
    pub seconds: f64,
    /// User and system time of the process during the run, in seconds.
    pub cpu_seconds: f64,
    /// Most memory that the process had, in bytes, with mapped pages; 0 where the system does not say.
    pub peak_rss_bytes: u64,
    /// Bytes of the source tensors that were read.
    pub source_bytes: u64,
    /// Number of weights that were replaced because they were NaN, infinite or too large (`--allow-nonfinite`).
    pub replaced: u64,
    /// Bytes of tensor data that an interrupted run had written, and that this run has taken.
    pub resumed_bytes: u64,
    /// Number of threads.
    pub threads: usize,
    /// The container that was written, if there is one.
    pub container: Option<Sealed>,
    /// For each tensor of the plan the energy that rounding adds to its output, as a share of the energy of the output, to
    /// four digits. `None` where the inputs of the tensor are not known.
    pub errors: Vec<Option<f64>>,
}

/// What the rounding of some rows of a tensor costs under the second moments `H` of their inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowErrors {
    /// The sum of `(v - w) H (v - w)^T` over all rows.
    pub error: f64,
    /// The number of these rows.
    pub rows: u64,
    /// The sum of `w H w^T` over a sample of the rows.
    pub energy: f64,
    /// The number of rows in the sample.
    pub sampled: u64,
}

impl RowErrors {
    /// Adds the sums of other rows of the same tensor.
    pub fn add(&mut self, other: &Self) {
        self.error += other.error;
        self.rows += other.rows;
        self.energy += other.energy;
        self.sampled += other.sampled;
    }

    /// Returns the mean error of a row as a share of the mean energy, to four digits. The digits hide the order in which the
    /// errors were added, which depends on the memory limit. `None` if nothing was measured.
    pub fn share(&self) -> Option<f64> {
        let share = (self.error / self.rows as f64) / (self.energy / self.sampled as f64);
        let known = self.rows > 0 && self.sampled > 0 && share.is_finite() && share >= 0.0;
        known.then(|| format!("{share:.3e}").parse().unwrap_or(share))
    }
}

/// What a finished container is known by.
#[derive(Debug, Clone, Serialize)]
pub struct Sealed {
    /// Path of the container.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Fingerprint, 64 hex digits.
    pub fingerprint: String,
    /// Id of the container, 64 hex digits.
    pub container: String,
    /// Id of the master key that signed the container, in hex.
    pub key_id: String,
    /// Whether the container has an Ed25519 signature.
    pub signed: bool,
}

/// Measures wall time and CPU time since [`Clock::start`].
pub struct Clock {
    start: Instant,
    cpu: Duration,
}

impl Clock {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { start: Instant::now(), cpu: os::cpu_time() }
    }

    /// Returns the wall time in seconds.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Returns the user and system time of the process in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        os::cpu_time().saturating_sub(self.cpu).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_the_mean_row() {
        let mut sums = RowErrors { error: 2.0, rows: 4, energy: 30.0, sampled: 1 };
        assert_eq!(sums.share(), Some(0.01667));
        sums.add(&RowErrors { error: 2.0, rows: 4, energy: 10.0, sampled: 1 });
        assert_eq!(sums.share(), Some(0.025));
        assert_eq!(RowErrors::default().share(), None);
        assert_eq!(RowErrors { energy: 0.0, ..sums }.share(), None);
    }
}
