//! A queue of numbered units of work for a number of threads.
//!
//! The threads take the units in order. If several units fail, the error of the unit with the lowest number is
//! returned, so that the message does not depend on the timing of the threads.
//!
//! ```
//! use srd_rs::error::Error;
//! use srd_rs::progress::Progress;
//! use srd_rs::work;
//!
//! let result = work::run(100, 4, &Progress::default(), |number, _buffer: &mut Vec<u8>, _active| match number {
//!     7 | 70 => Err(Error::usage(format!("unit {number} is bad"), "Leave it out")),
//!     _ => Ok(()),
//! });
//! assert!(result.unwrap_err().to_string().starts_with("unit 7 is bad"));
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// Tells a long unit whether its result is still wanted.
pub struct Active<'a> {
    number: usize,
    first_failed: &'a AtomicUsize,
    progress: &'a Progress,
}

impl Active<'_> {
    /// Returns false when the run was cancelled or an earlier unit failed. The unit may then return `Ok` unfinished.
    pub fn is_wanted(&self) -> bool {
        !self.progress.is_cancelled() && self.number < self.first_failed.load(Ordering::Relaxed)
    }
}

/// Bytes that must be free before a thread is started: its stack, and as much again for what it allocates when it starts. Memory
/// that ends later, in a thread, ends the process.
const ROOM: usize = 4 << 20;

/// Starts a pool of `threads` threads (at least one) whose names begin with `name`, one after another.
///
/// # Errors
/// [`Error::Usage`] when the system refuses so many threads.
pub fn pool(name: &'static str, threads: usize) -> Result<rayon::ThreadPool> {
    let (tell, started) = mpsc::channel();
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(move |i| format!("{name}-{i}"))
        .spawn_handler(|thread| {
            let mut room = Vec::<u8>::new();
            room.try_reserve_exact(ROOM)?;
            // Without this the compiler leaves out an allocation that nothing uses.
            drop(std::hint::black_box(room));
            let mut builder = std::thread::Builder::new();
            if let Some(name) = thread.name() {
                builder = builder.name(name.into());
            }
            let tell = tell.clone();
            builder.spawn(move || {
                tell.send(()).ok();
                thread.run();
            })?;
            started.recv().map_err(std::io::Error::other)
        })
        .build()
        .map_err(|e| Error::usage(format!("cannot start {threads} threads: {e}"), "Lower --threads"))
}

/// Calls `unit(number, buffers, active)` for each number below `count` on `threads` threads. Each thread has one
/// `buffers`, which it keeps from unit to unit.
///
/// All units with a lower number than a failed one run to their end; of those with a higher number only the ones
/// that have begun do, and they may look at [`Active::is_wanted`].
///
/// # Errors
/// The error of the failed unit with the lowest number; [`Error::Interrupted`] after [`Progress::cancel`].
pub fn run<B: Default>(
    count: usize,
    threads: usize,
    progress: &Progress,
    unit: impl Fn(usize, &mut B, &Active) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let first_failed = AtomicUsize::new(usize::MAX);
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    pool("srd", threads)?.broadcast(|_| {
        let mut buffers = B::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let active = Active { number, first_failed: &first_failed, progress };
            if number >= count || !active.is_wanted() {
                break;
            }
            if let Err(error) = unit(number, &mut buffers, &active) {
                first_failed.fetch_min(number, Ordering::Relaxed);
                let mut slot = failed.lock().unwrap_or_else(|p| p.into_inner());
                if slot.as_ref().is_none_or(|(n, _)| number < *n) {
                    *slot = Some((number, error));
                }
            }
        }
    });
    match failed.into_inner().unwrap_or_else(|p| p.into_inner()) {
        Some((_, error)) => Err(error),
        None => progress.check(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_failure_is_returned_whatever_the_timing() {
        for threads in [1, 2, 8] {
            for _ in 0..20 {
                let error = run(64, threads, &Progress::default(), |number, (): &mut (), _| {
                    if number == 9 {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    match number {
                        9..=12 => Err(Error::usage(format!("unit {number}"), "")),
                        _ => Ok(()),
                    }
                });
                assert!(error.unwrap_err().to_string().starts_with("unit 9."));
            }
        }
    }

    #[test]
    fn every_unit_runs_once() {
        let runs: Vec<AtomicUsize> = std::iter::repeat_with(AtomicUsize::default).take(100).collect();
        run(100, 3, &Progress::default(), |number, (): &mut (), active| {
            assert!(active.is_wanted());
            runs[number].fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_cancelled_run_ends_early() {
        let (progress, begun) = (Progress::default(), AtomicUsize::new(0));
        let result = run(1000, 2, &progress, |number, (): &mut (), _| {
            begun.fetch_add(1, Ordering::Relaxed);
            if number == 3 {
                progress.cancel();
            }
            Ok(())
        });
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!(begun.into_inner() < 1000);
    }
}
