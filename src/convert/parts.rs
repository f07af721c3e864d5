//! Parts of a GGUF that leave the disk while the next ones are written.
//!
//! A part is created when its first blocks come and handed to a taker when its last ones are written. The taker uploads the
//! part, for example, and returns it. Then only the header stays on the disk, as the start of a file of the full size without
//! the rest of its blocks. At most [`ON_DISK`] whole parts exist at any time: a worker that comes to the next part waits until one
//! has been returned.
//!
//! ```
//! use srd_rs::convert::parts::Handover;
//!
//! let handover = Handover::default();
//! handover.close();
//! assert!(handover.next()?.is_none());
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::convert::destination::{Destination, Finished, UnitWriter};
use crate::convert::files::Files;
use crate::convert::planned::Plan;
use crate::convert::source_hashes::SourceHash;
use crate::convert::units::Unit;
use crate::error::{Error, Place, Result};
use crate::formats::sink::{self, Sink};
use crate::progress::Progress;
use crate::sign::Hash;

/// Largest number of whole parts on the disk: one that is written and one that is taken.
pub const ON_DISK: usize = 2;
/// How often a waiting worker looks whether the run was cancelled.
const TICK: Duration = Duration::from_millis(50);
/// What the progress shows while the workers wait.
const WAITING: &str = "waiting for the upload";

/// The queue between a run and the taker of its parts.
#[derive(Debug, Default)]
pub struct Handover {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of parts that were created.
    created: usize,
    /// Number of parts that were returned.
    returned: usize,
    /// Parts that are written and not yet taken.
    written: VecDeque<Written>,
    /// Parts that are taken.
    taken: Vec<(PathBuf, u64)>,
    /// Why the taker gave up.
    failed: Option<String>,
    closed: bool,
}

/// A part that is written, and the bytes of its header.
#[derive(Debug)]
struct Written {
    sink: Sink,
    path: PathBuf,
    header: u64,
}

impl Handover {
    /// Waits for the next part and gives it its name. Returns `None` when there will be no more.
    ///
    /// # Errors
    /// As [`Sink::commit`].
    pub fn next(&self) -> Result<Option<PathBuf>> {
        let mut state = self.lock();
        let written = loop {
            if let Some(written) = state.written.pop_front() {
                break written;
            }
            if state.closed || state.failed.is_some() {
                return Ok(None);
            }
            state = self.changed.wait(state).unwrap_or_else(|p| p.into_inner());
        };
        state.taken.push((written.path.clone(), written.header));
        drop(state);
        written.sink.commit()?;
        Ok(Some(written.path))
    }

    /// Takes a part back, of which only the header stays on the disk.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be cut.
    pub fn give_back(&self, path: &Path) -> Result<()> {
        let found = self.lock().taken.iter().find(|(taken, _)| taken == path).cloned();
        let Some((_, header)) = found else {
            return Err(Error::usage(
                format!("{} was not handed over", path.display()),
                "Return what was taken",
            ));
        };
        sink::keep_start(path, header)?;
        let mut state = self.lock();
        state.taken.retain(|(taken, _)| taken != path);
        state.returned += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// Says that the taker takes no more parts. The run ends with an error that says `why`.
    pub fn fail(&self, why: &str) {
        self.lock().failed = Some(why.to_string());
        self.changed.notify_all();
    }

    /// Says that there will be no more parts.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Waits until part `number` may be created. Parts are created in their order.
    fn wait_for_room(&self, number: usize, progress: &Progress) -> Result<()> {
        self.wait(progress, |state| state.created == number && number < state.returned + ON_DISK)?.created +=
            1;
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until all parts that were created have been returned.
    fn wait_for_all(&self, progress: &Progress) -> Result<()> {
        self.wait(progress, |state| state.returned == state.created).map(drop)
    }

    fn wait(&self, progress: &Progress, is_ready: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        loop {
            progress.check()?;
            if let Some(why) = &state.failed {
                return Err(Error::Io {
                    place: Place::default(),
                    action: "hand over a part of the output",
                    source: std::io::Error::other(why.clone()),
                    fix: "Run the same command again",
                });
            }
            if is_ready(&state) {
                return Ok(state);
            }
            progress.set_phase(WAITING);
            state = self.changed.wait_timeout(state, TICK).unwrap_or_else(|p| p.into_inner()).0;
        }
    }
}

/// The planned files, each of which is handed over when it is written.
pub struct Parts<'a> {
    plan: &'a Plan,
    overwrite: bool,
    handover: &'a Handover,
    progress: &'a Progress,
    parts: Vec<Part>,
}

/// A planned file.
struct Part {
    /// The file while it is written. A writer keeps the file for as long as it writes a unit.
    sink: Mutex<Option<Arc<Sink>>>,
    /// Bytes of tensor data that are not written yet.
    unwritten: AtomicU64,
}

impl<'a> Parts<'a> {
    /// Prepares to write the files of `plan`. No file is created yet.
    pub fn new(plan: &'a Plan, overwrite: bool, handover: &'a Handover, progress: &'a Progress) -> Self {
        let bytes = |i| plan.tensors.iter().filter(|t| t.file == i).map(|t| t.bytes).sum::<u64>();
        let part = |i| Part { sink: Mutex::default(), unwritten: AtomicU64::new(bytes(i)) };
        Self { plan, overwrite, handover, progress, parts: (0..plan.files.len()).map(part).collect() }
    }

    /// Returns the file of part `number`, which is created when there is room for it.
    fn open(&self, number: usize) -> Result<Arc<Sink>> {
        let mut slot = self.parts[number].sink.lock().unwrap_or_else(|p| p.into_inner());
        if let Some(sink) = &*slot {
            return Ok(Arc::clone(sink));
        }
        self.handover.wait_for_room(number, self.progress)?;
        let file = &self.plan.files[number];
        let sink = Arc::new(Sink::create(&file.path, file.bytes, self.overwrite)?);
        sink.write_at(&file.header, 0)?;
        *slot = Some(Arc::clone(&sink));
        Ok(sink)
    }

    /// Notes that `bytes` bytes of a part are written by a writer that has let go of the file.
    fn written(&self, number: usize, bytes: u64) {
        let part = &self.parts[number];
        if part.unwritten.fetch_sub(bytes, Ordering::AcqRel) != bytes {
            return;
        }
        let sink = part.sink.lock().unwrap_or_else(|p| p.into_inner()).take();
        if let Some(sink) = sink.and_then(Arc::into_inner) {
            let file = &self.plan.files[number];
            let (path, header) = (file.path.clone(), file.header.len() as u64);
            self.handover.lock().written.push_back(Written { sink, path, header });
            self.handover.changed.notify_all();
        }
    }
}

impl Destination for Parts<'_> {
    fn begin<'u>(&'u self, unit: &Unit<'u>) -> Box<dyn UnitWriter + 'u> {
        let start = Files::offset(unit, unit.start);
        Box::new(Run { parts: self, number: unit.tensor.file, start, offset: start, sink: None })
    }

    fn finish(self: Box<Self>, _: &[SourceHash]) -> Result<Finished> {
        self.handover.wait_for_all(self.progress)?;
        Ok(Finished { sinks: Vec::new(), sealed: None })
    }
}

/// A unit in its part.
struct Run<'u> {
    parts: &'u Parts<'u>,
    /// Number of the part.
    number: usize,
    /// Offset of the unit in the file.
    start: u64,
    /// Offset of the next byte in the file.
    offset: u64,
    /// The file, once something was written.
    sink: Option<Arc<Sink>>,
}

impl UnitWriter for Run<'_> {
    fn write(&mut self, blocks: &[u8]) -> Result<()> {
        if self.sink.is_none() {
            self.sink = Some(self.parts.open(self.number)?);
        }
        self.sink.iter().try_for_each(|sink| sink.write_at(blocks, self.offset))?;
        self.offset += blocks.len() as u64;
        Ok(())
    }

    fn hashes(&mut self) -> Result<Vec<Hash>> {
        Ok(Vec::new())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Hash>> {
        if let Some(sink) = self.sink.take() {
            sink.start_writeback(self.start..self.offset);
        }
        self.parts.written(self.number, self.offset - self.start);
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, name: &str) -> Written {
        let path = folder.join(name);
        let sink = Sink::create(&path, 1 << 20, false).unwrap();
        sink.write_at(b"head", 0).unwrap();
        Written { sink, path, header: 4 }
    }

    #[test]
    fn a_third_part_waits_until_one_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let (handover, progress) = (Handover::default(), Progress::default());
        for name in ["a", "b"] {
            let number = handover.lock().created;
            handover.wait_for_room(number, &progress).unwrap();
            handover.lock().written.push_back(written(dir.path(), name));
        }
        std::thread::scope(|scope| {
            let third = scope.spawn(|| handover.wait_for_room(2, &progress));
            assert!(!dir.path().join("a").exists(), "a part has no name before it is taken");
            let path = handover.next().unwrap().unwrap();
            std::thread::sleep(TICK * 2);
            assert!(!third.is_finished());
            handover.give_back(&path).unwrap();
            third.join().unwrap().unwrap();
            let left = std::fs::read(&path).unwrap();
            assert_eq!((left.len(), &left[..5]), (1 << 20, b"head\0".as_slice()));
            assert!(handover.give_back(&path).is_err(), "a part is given back once");
        });
    }

    #[test]
    fn whoever_waits_hears_of_a_failure_and_of_a_cancelled_run() {
        let (handover, progress) = (Handover::default(), Progress::default());
        std::thread::scope(|scope| {
            let late = scope.spawn(|| handover.wait_for_room(1, &progress));
            handover.fail("the cable is loose");
            let error = late.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("the cable is loose"), "{error}");
            assert!(handover.next().unwrap().is_none());
        });
        let handover = Handover::default();
        progress.cancel();
        assert!(matches!(handover.wait_for_room(1, &progress), Err(Error::Interrupted)));
    }
}
