//! Runs a plan. Units of work are read, decoded, checked, quantized and written a chunk at a time, by as many workers as
//! asked. The bytes of a chunk depend on the chunk alone, so the number of workers and their order change nothing.
//!
//! ```no_run
//! use srd_rs::convert::options::RunOptions;
//! use srd_rs::convert::planned::Plan;
//! use srd_rs::convert::run::run;
//! use srd_rs::progress::Progress;
//!
//! /// Runs a plan on 8 threads with at most 512 MiB of weights in memory.
//! fn convert(plan: &Plan) -> srd_rs::Result<u64> {
//!     let report = run(plan, &RunOptions::new(8, 512 << 20), &Progress::default())?;
//!     Ok(report.source_bytes)
//! }
//! ```

use std::sync::atomic::AtomicU64;

use crate::convert::chunk::{Buffers, Converter};
use crate::convert::destination::Converted;
use crate::convert::options::RunOptions;
use crate::convert::outputs::Outputs;
use crate::convert::planned::Plan;
use crate::convert::report::{Clock, Report};
use crate::convert::source_hashes::{SourceHashes, Step};
use crate::convert::units::{Unit, Units};
use crate::error::Result;
use crate::os;
use crate::progress::Progress;
use crate::work::{self, Active};

/// Bytes that are written at a time. Writing chunk by chunk takes twice the system time, because every write locks the
/// file, and begins and ends within a page.
const WRITE: usize = 1 << 20;

/// Runs `plan`. When the function returns `Ok`, every output file is complete under its name; otherwise no output is
/// named. `progress` counts bytes of tensor data; its phase is the name of the tensor that is being converted.
///
/// # Errors
/// Whatever went wrong first in the order of the plan; [`Error::Interrupted`](crate::Error::Interrupted) after
/// [`Progress::cancel`]; [`Error::Usage`](crate::Error::Usage) when there is a container to sign and no key.
pub fn run(plan: &Plan, options: &RunOptions, progress: &Progress) -> Result<Report> {
    options.effort.feedback.check()?;
    let clock = Clock::start();
    let threads = options.threads.max(1);
    let outputs = Outputs::create(plan, options)?;
    let replaced = AtomicU64::new(0);
    let converter = Converter::new(plan, options, threads, &replaced);
    let units = Units::cut(plan);
    let hashes = SourceHashes::new(plan);
    let steps = hashes.steps(&units);
    progress.start("", plan.tensor_bytes());
    work::run(steps.len(), threads, progress, |number, worker: &mut Worker, active| {
        let unit = match steps[number] {
            Step::Hash(file) => return hashes.hash(file, progress),
            Step::Convert(unit) => units.get(unit),
        };
        progress.set_phase(&unit.tensor.bound.name);
        worker.convert(&unit, &converter, &outputs, (active, progress))
    })?;
    let container = outputs.commit(&hashes.finish())?;
    Ok(Report {
        seconds: clock.seconds(),
        cpu_seconds: clock.cpu_seconds(),
        peak_rss_bytes: os::peak_rss_bytes(),
        source_bytes: plan.source_bytes(),
        replaced: replaced.into_inner(),
        threads,
        container,
    })
}

/// The buffers of one thread.
#[derive(Default)]
struct Worker {
    chunk: Buffers,
    /// Blocks of a unit that are not yet written.
    unwritten: Vec<u8>,
}

impl Worker {
    /// Converts one unit. The unit stays unfinished when it is no longer wanted.
    fn convert(
        &mut self,
        unit: &Unit,
        converter: &Converter,
        outputs: &Outputs,
        (active, progress): (&Active, &Progress),
    ) -> Result<()> {
        // An unfinished unit may have left bytes behind.
        self.unwritten.clear();
        let mut writers = outputs.begin(unit);
        let mut start = unit.start;
        while start < unit.end {
            if !active.is_wanted() {
                return Ok(());
            }
            let chunk = unit.chunk(start, converter.chunk_weights(unit.tensor));
            start += chunk.len;
            converter.convert(&chunk, &mut self.chunk)?;
            let (blocks, weights) = (self.chunk.blocks(), self.chunk.weights());
            progress.add(blocks.len() as u64);
            writers.see(&Converted { chunk, blocks, weights })?;
            self.unwritten.extend_from_slice(blocks);
            if start == unit.end || self.unwritten.len() >= WRITE {
                writers.write(&self.unwritten)?;
                self.unwritten.clear();
            }
        }
        writers.finish()
    }
}
