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
    /// The part of the run that the phase fills, where the run has several.
    part: Mutex<Option<(f64, f64)>>,
    cancelled: AtomicBool,
}

/// The units of a run of several parts.
const UNITS: f64 = 1e6;

impl Progress {
    /// Begins a phase of `total` units of work (bytes, or steps of a forward pass). Nothing of the phase is done yet.
    pub fn start(&self, phase: &str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.set_phase(phase);
    }

    /// Says that the phases that follow fill the part from `from` to `to` of the run, where 1 is the whole run. The counts are then those
    /// of the whole run, in units of their own.
    pub fn enter_part(&self, from: f64, to: f64) {
        self.done.store(0, Ordering::Relaxed);
        *self.part.lock().unwrap_or_else(|p| p.into_inner()) = Some((from, to));
    }

    fn part(&self) -> Option<(f64, f64)> {
        *self.part.lock().unwrap_or_else(|p| p.into_inner())
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
        let done = self.done.load(Ordering::Relaxed);
        let Some((from, to)) = self.part() else { return done };
        let share = (done as f64 / self.total.load(Ordering::Relaxed).max(1) as f64).min(1.0);
        (UNITS * (from + (to - from) * share)) as u64
    }

    /// Returns the units of work of the whole phase, or of the whole run where it has several parts. The number is 0 before the first phase.
    pub fn total(&self) -> u64 {
        self.part().map_or_else(|| self.total.load(Ordering::Relaxed), |_| UNITS as u64)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_run_follow_each_other() {
        let progress = Progress::default();
        let mut seen = Vec::new();
        for (from, to) in [(0.0, 0.25), (0.25, 1.0)] {
            progress.enter_part(from, to);
            seen.push(progress.done());
            progress.start("", 4);
            (0..4).for_each(|_| {
                progress.add(1);
                seen.push(progress.done());
            });
        }
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!((seen[0], seen[4], seen[9], progress.total()), (0, 250_000, 1_000_000, 1_000_000));
    }
}
