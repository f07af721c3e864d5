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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::convert::chunk::{Buffers, Converter};
use crate::convert::destination::Converted;
use crate::convert::journal::Journal;
use crate::convert::options::RunOptions;
use crate::convert::outputs::{Outputs, Writers};
use crate::convert::planned::Plan;
use crate::convert::report::{Clock, Report, RowErrors};
use crate::convert::source_hashes::{SourceHashes, Step};
use crate::convert::units::{Unit, Units};
use crate::convert::written::WrittenUnit;
use crate::error::Result;
use crate::model::source::Wanted;
use crate::os;
use crate::progress::Progress;
use crate::work::{self, Active};

/// Bytes that are written at a time. Writing chunk by chunk takes twice the system time, because every write locks the
/// file, and begins and ends within a page.
const WRITE: usize = 1 << 20;

/// Runs `plan`. When the function returns `Ok`, every output file is complete under its name; otherwise no output is
/// named. `progress` counts bytes of tensor data; its phase is the name of the tensor that is being converted.
///
/// With [`RunOptions::resume`] the run goes on from what an interrupted run has left, and a run that is interrupted leaves what is
/// complete. The journal stays until [`forget`](crate::convert::journal::forget) removes it, so that the caller can do more work that belongs to the
/// outputs: the same run then only checks that they are complete.
///
/// # Errors
/// Whatever went wrong first in the order of the plan; [`Error::Interrupted`](crate::Error::Interrupted) after
/// [`Progress::cancel`]; [`Error::Usage`](crate::Error::Usage) when there is a container to sign and no key, and when an
/// interrupted run was another one.
pub fn run(plan: &Plan, options: &RunOptions, progress: &Progress) -> Result<Report> {
    options.effort.feedback.check()?;
    let journal = Journal::open(plan, options)?;
    let result = convert(plan, options, progress, journal.as_ref());
    if let (Some(journal), Err(_)) = (journal, &result) {
        journal.failed();
    }
    result
}

fn convert(
    plan: &Plan,
    options: &RunOptions,
    progress: &Progress,
    journal: Option<&Journal>,
) -> Result<Report> {
    let clock = Clock::start();
    let threads = options.threads.max(1);
    let outputs = Outputs::create(plan, options, journal.map(|j| j.left), progress)?;
    let converter = Converter::new(plan, options, threads);
    let units = Units::cut(plan);
    let hashes = SourceHashes::new(plan);
    let (replaced, resumed) = (AtomicU64::new(0), AtomicU64::new(0));
    let errors: Mutex<BTreeMap<usize, RowErrors>> = Mutex::default();
    progress.start("", plan.tensor_bytes());
    let taken = match journal {
        Some(journal) => {
            journal.sources.iter().for_each(|&(file, hash)| hashes.take(file, hash));
            let taken = take(journal, &units, &outputs, threads, progress)?;
            replaced.fetch_add(taken.replaced, Ordering::Relaxed);
            resumed.fetch_add(taken.bytes, Ordering::Relaxed);
            *errors.lock().unwrap_or_else(|p| p.into_inner()) = taken.errors;
            taken.units
        }
        None => BTreeSet::new(),
    };
    let steps = hashes.steps(&units, |number| taken.contains(&number));
    let _fetching =
        plan.model.source.read_ahead(wanted(steps.iter().copied(), &units), options.max_memory / 4, None);
    work::run(steps.len(), threads, progress, |number, worker: &mut Worker, active| {
        let number = match steps[number] {
            Step::Hash(file) => {
                let hash = hashes.hash(file, progress)?;
                return journal.map_or(Ok(()), |j| j.add_source(file, &hash));
            }
            Step::Convert(number) => number,
        };
        let unit = units.get(number);
        progress.set_phase(&unit.tensor.bound.name);
        let begun = match journal {
            Some(journal) => Begun::resume(journal, number, &unit, &outputs, progress)?,
            None => None,
        };
        let begun = begun.unwrap_or_else(|| Begun::new(&unit, &outputs));
        let bytes = bytes_of(&unit, begun.done);
        resumed.fetch_add(bytes, Ordering::Relaxed);
        progress.add(bytes);
        let notes = journal.map(|journal| (journal, number));
        let Some(complete) = worker.convert(&unit, begun, &converter, (active, progress), notes)? else {
            return Ok(());
        };
        replaced.fetch_add(complete.replaced, Ordering::Relaxed);
        errors.lock().unwrap_or_else(|p| p.into_inner()).insert(number, complete.errors);
        journal.map_or(Ok(()), |journal| journal.add_unit(number, &complete))
    })?;
    let container = outputs.commit(&hashes.finish(), || journal.map_or(Ok(()), Journal::add_complete))?;
    Ok(Report {
        seconds: clock.seconds(),
        cpu_seconds: clock.cpu_seconds(),
        peak_rss_bytes: os::peak_rss_bytes(),
        source_bytes: plan.source_bytes(),
        replaced: replaced.into_inner(),
        resumed_bytes: resumed.into_inner(),
        threads,
        container,
        errors: shares(plan, &units, &errors.into_inner().unwrap_or_else(|p| p.into_inner())),
    })
}

/// What the steps read of the source, in their order. A tensor is read from its start to its end by several units.
pub(super) fn wanted(steps: impl IntoIterator<Item = Step>, units: &Units) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut before = None;
    for step in steps {
        match step {
            Step::Hash(file) => wanted.push(Wanted::File(file)),
            Step::Convert(number) => {
                let unit = units.get(number);
                if before.replace(unit.index) != Some(unit.index) {
                    unit.tensor
                        .bound
                        .source
                        .for_each_source(&mut |tensor| wanted.push(Wanted::Tensor(tensor)));
                }
            }
        }
    }
    wanted
}

/// Converts units, each with its number, on so many threads, and returns what is written of each in their order. `counted` counts the
/// bytes of tensor data and has the name of the tensor; `progress` may end the run.
pub(super) fn convert_units(
    units: &[(usize, Unit)],
    outputs: &Outputs,
    converter: &Converter,
    threads: usize,
    (progress, counted): (&Progress, &Progress),
) -> Result<Vec<(usize, WrittenUnit)>> {
    let made: Mutex<BTreeMap<usize, WrittenUnit>> = Mutex::default();
    work::run(units.len(), threads, progress, |at, worker: &mut Worker, active| {
        let (_, unit) = &units[at];
        counted.set_phase(&unit.tensor.bound.name);
        let begun = Begun::new(unit, outputs);
        if let Some(unit) = worker.convert(unit, begun, converter, (active, counted), None)? {
            made.lock().unwrap_or_else(|p| p.into_inner()).insert(at, unit);
        }
        Ok(())
    })?;
    let made = made.into_inner().unwrap_or_else(|p| p.into_inner());
    Ok(made.into_iter().map(|(at, unit)| (units[at].0, unit)).collect())
}

/// Adds up what rounding cost the units of each tensor, in the order of the units. `errors` has the numbers of the units.
fn shares(plan: &Plan, units: &Units, errors: &BTreeMap<usize, RowErrors>) -> Vec<Option<f64>> {
    let mut sums = vec![RowErrors::default(); plan.tensors.len()];
    errors.iter().for_each(|(&number, cost)| sums[units.get(number).index].add(cost));
    sums.iter().map(RowErrors::share).collect()
}

/// What a run takes from an interrupted one.
#[derive(Default)]
struct Taken {
    /// Numbers of the units.
    units: BTreeSet<usize>,
    /// Their bytes of tensor data.
    bytes: u64,
    /// The weights in them that were replaced.
    replaced: u64,
    /// What rounding cost them.
    errors: BTreeMap<usize, RowErrors>,
}

/// Takes the units that the journal says are complete, if their bytes are the ones that were written.
fn take(
    journal: &Journal,
    units: &Units,
    outputs: &Outputs,
    threads: usize,
    progress: &Progress,
) -> Result<Taken> {
    let is_complete = |&(&number, written): &(&usize, &WrittenUnit)| {
        number < units.count() && written.done == units.get(number).weights()
    };
    let known: Vec<_> = journal.units.iter().filter(is_complete).collect();
    let taken = Mutex::new(Taken::default());
    work::run(known.len(), threads, progress, |number, (): &mut (), _| {
        let (&number, complete) = known[number];
        let unit = units.get(number);
        progress.set_phase(&unit.tensor.bound.name);
        if let Some(writers) = outputs.resume(&unit, complete.done, &complete.hashes, progress)? {
            writers.finish()?;
            let bytes = bytes_of(&unit, complete.done);
            let mut taken = taken.lock().unwrap_or_else(|p| p.into_inner());
            taken.units.insert(number);
            taken.bytes += bytes;
            taken.replaced += complete.replaced;
            taken.errors.insert(number, complete.errors);
            progress.add(bytes);
        }
        Ok(())
    })?;
    Ok(taken.into_inner().unwrap_or_else(|p| p.into_inner()))
}

/// Returns the bytes of the first `weights` weights of a unit.
pub(super) fn bytes_of(unit: &Unit, weights: u64) -> u64 {
    unit.tensor.ty.row_bytes(weights).expect("units are cut at block boundaries")
}

/// A unit that is being written.
pub(super) struct Begun<'u> {
    writers: Writers<'u>,
    /// Number of weights that are written.
    done: u64,
    /// Number of these weights that were replaced.
    replaced: u64,
    /// What rounding cost these weights.
    errors: RowErrors,
}

impl<'u> Begun<'u> {
    pub(super) fn new(unit: &Unit<'u>, outputs: &'u Outputs) -> Self {
        Self { writers: outputs.begin(unit), done: 0, replaced: 0, errors: RowErrors::default() }
    }

    /// Goes on with a unit that an earlier run has begun. Returns `None` if there is nothing of it that can be used.
    fn resume(
        journal: &Journal,
        number: usize,
        unit: &Unit<'u>,
        outputs: &'u Outputs,
        progress: &Progress,
    ) -> Result<Option<Self>> {
        let Some(written) = journal.units.get(&number).filter(|w| unit.has_cut(w.done)) else {
            return Ok(None);
        };
        let &WrittenUnit { done, replaced, errors, .. } = written;
        let writers = outputs.resume(unit, done, &written.hashes, progress)?;
        Ok(writers.map(|writers| Self { writers, done, replaced, errors }))
    }
}

/// The buffers of one thread.
#[derive(Default)]
pub(super) struct Worker {
    chunk: Buffers,
    /// Blocks of a unit that are not yet written.
    unwritten: Vec<u8>,
}

impl Worker {
    /// Converts what is not yet written of one unit. Returns `None` when the unit is no longer wanted and stays unfinished. The
    /// journal, which knows the unit by its number, gets from time to time how far the unit is.
    pub(super) fn convert(
        &mut self,
        unit: &Unit,
        Begun { mut writers, done, mut replaced, mut errors }: Begun,
        converter: &Converter,
        (active, progress): (&Active, &Progress),
        notes: Option<(&Journal, usize)>,
    ) -> Result<Option<WrittenUnit>> {
        // An unfinished unit may have left bytes behind.
        self.unwritten.clear();
        self.chunk.take_replaced();
        self.chunk.take_errors();
        let mut start = unit.start + done;
        let mut noted = Instant::now();
        while start < unit.end {
            if !active.is_wanted() {
                return Ok(None);
            }
            let chunk = unit.chunk(start, converter.chunk_weights(unit.tensor));
            start += chunk.len;
            converter.convert(&chunk, &mut self.chunk)?;
            let (blocks, weights) = (self.chunk.blocks(), self.chunk.weights());
            progress.add(blocks.len() as u64);
            writers.see(&Converted { chunk, blocks, weights })?;
            self.unwritten.extend_from_slice(blocks);
            let due = notes.filter(|(journal, _)| start < unit.end && journal.is_due(noted));
            if start == unit.end || due.is_some() || self.unwritten.len() >= WRITE {
                writers.write(&self.unwritten)?;
                self.unwritten.clear();
            }
            replaced += self.chunk.take_replaced();
            errors.add(&self.chunk.take_errors());
            if let Some((journal, number)) = due {
                let (done, hashes) = (start - unit.start, writers.hashes()?);
                journal.add_unit(number, &WrittenUnit { done, replaced, hashes, errors })?;
                noted = Instant::now();
            }
        }
        Ok(Some(WrittenUnit { done: unit.weights(), replaced, hashes: writers.finish()?, errors }))
    }
}
