//! How far a long run has come, and the wish to end it.
//!
//! One [`Progress`] is shared between the threads that work and the thread that shows a progress bar: the workers
//! count what they have done, the other thread reads the counts and may [cancel](Progress::cancel) the run.
//!
//! ```
//! use srd_rs::progress::Progress;
//!
//! let progress = Progress::default();
//! progress.start("verify", 4096);
//! progress.add(1024);
//! assert_eq!((progress.phase().as_str(), progress.done(), progress.total()), ("verify", 1024, 4096));
//! progress.cancel();
//! assert!(progress.check().is_err());
//! ```

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// The state of a run, for its workers and for the thread that watches them.
///
/// The counts carry no data between threads, so a reader may see them a moment late.
#[derive(Debug, Default)]
pub struct Progress {
    phase: Mutex<String>,
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Begins a phase of `total` units of work (bytes, or steps of a forward pass). Nothing of the phase is done yet.
    pub fn start(&self, phase: &str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.set_phase(phase);
    }

    /// Names what is being worked on, for example a tensor. The counts stay.
    pub fn set_phase(&self, phase: &str) {
        let mut slot = self.phase.lock().unwrap_or_else(|p| p.into_inner());
        slot.clear();
        slot.push_str(phase);
    }

    /// Counts `units` of work as done.
    pub fn add(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    /// Returns the name of what is being worked on. The name is empty before the first phase.
    pub fn phase(&self) -> String {
        self.phase.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }

    /// Returns the units of work that are done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Returns the units of work of the whole phase. The number is 0 before the first phase.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Asks the workers to stop. The run then ends with [`Error::Interrupted`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Returns whether the run was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Ends a worker whose run was asked to stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after [`Progress::cancel`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
