//! Work without the GIL: panics become exceptions, and long work looks after signals and progress.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::error::{Error, Result};
use crate::py::errors::{ToPy, panicked};

/// How often the waiting thread looks at signals and reports progress.
const TICK: Duration = Duration::from_millis(50);

/// What the last panic said, with its place in the source.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Keeps what a panic says for the exception that the panic becomes, instead of printing a backtrace; with SRD_DEBUG=1
/// the backtrace is printed as well.
pub fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            *LAST_PANIC.lock().unwrap_or_else(|p| p.into_inner()) = info.to_string().replace('\n', " ");
            if std::env::var_os("SRD_DEBUG").is_some_and(|v| v == "1") {
                before(info);
            }
        }));
    });
}

fn last_panic() -> String {
    LAST_PANIC.lock().unwrap_or_else(|p| p.into_inner()).clone()
}

/// Runs short work without the GIL. A panic is raised as `InternalError`.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(result) => result.py(py),
        Err(_) => Err(panicked(py, &last_panic())),
    }
}

/// Runs `work` on a thread of its own. About 20 times a second `tick` is called with the GIL held; when `tick` raises,
/// or a signal handler does, `cancel` is called and the exception is raised when `work` ends. A panic is raised as
/// `InternalError`. Signals are seen only when the caller is Python's main thread.
pub fn watched<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send,
    cancel: impl Fn(),
    mut tick: impl FnMut() -> PyResult<()>,
) -> PyResult<T> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().spawn_scoped(scope, work).map_err(no_thread).py(py)?;
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
            (None, Err(_)) => Err(panicked(py, &last_panic())),
        }
    })
}

fn no_thread(error: std::io::Error) -> Error {
    let fix = "Close other programs, or raise the limits of memory and of processes (ulimit -v, ulimit -u)";
    Error::usage(format!("the system starts no thread: {error}"), fix)
}

/// Panics, in this thread or in a thread of its own. The tests see with it how a panic ends.
#[pyfunction]
pub fn panic_for_tests(py: Python<'_>, threaded: bool) -> PyResult<()> {
    let work = || -> Result<()> { panic!("this panic\nis a test") };
    if threaded { watched(py, work, || {}, || Ok(())) } else { detached(py, work) }
}

/// Sleeps for a tick, or until the worker is done.
fn wait<T>(worker: &std::thread::ScopedJoinHandle<'_, T>) {
    let end = Instant::now() + TICK;
    while !worker.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
}
