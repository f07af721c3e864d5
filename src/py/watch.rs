//! Long work off the GIL, with signals and progress looked after.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::error::Result;
use crate::py::errors::ToPy;

/// How often the waiting thread looks at signals and reports progress.
const TICK: Duration = Duration::from_millis(50);

/// Runs `work` on a thread of its own. About 20 times a second `tick` is called with the GIL held; when
/// it raises, or a signal handler does, `cancel` is called and the exception is raised when `work` ends.
pub fn watched<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send,
    cancel: impl Fn(),
    mut tick: impl FnMut() -> PyResult<()>,
) -> PyResult<T> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        let mut raised = None;
        while !worker.is_finished() {
            py.detach(|| wait(&worker));
            if let Err(e) = py.check_signals().and_then(|()| tick()) {
                cancel();
                raised = Some(e);
                break;
            }
        }
        let result = py.detach(|| worker.join());
        match (raised, result) {
            // The work may have been completed before the interruption was seen: then it is done.
            (Some(e), _) => Err(e),
            (None, Ok(result)) => result.py(py),
            (None, Err(panic)) => std::panic::resume_unwind(panic),
        }
    })
}

/// Sleeps for a tick, or until the worker is done.
fn wait<T>(worker: &std::thread::ScopedJoinHandle<'_, T>) {
    let end = Instant::now() + TICK;
    while !worker.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
}
