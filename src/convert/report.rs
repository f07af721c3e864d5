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
