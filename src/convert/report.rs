//! What a run made, and what the run cost: wall time, CPU time and peak memory.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::os;

/// Measured around a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seconds: f64,
    /// User and system time of the process during the run.
    pub cpu_seconds: f64,
    /// VmHWM of the process in bytes, mapped pages included; 0 where the system does not tell.
    pub peak_rss_bytes: u64,
    /// Bytes of source tensors read.
    pub source_bytes: u64,
    /// Weights that were NaN or infinite or too large and were replaced (`--allow-nonfinite`).
    pub replaced: u64,
    pub threads: usize,
    /// The container that was written.
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

/// Wall and CPU clock since [`Clock::start`].
pub struct Clock {
    start: Instant,
    cpu: Duration,
}

impl Clock {
    pub fn start() -> Self {
        Self { start: Instant::now(), cpu: os::cpu_time() }
    }

    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    pub fn cpu_seconds(&self) -> f64 {
        os::cpu_time().saturating_sub(self.cpu).as_secs_f64()
    }
}
