//! One output that several machines write. The offsets of all units are fixed before the first weight is read, and the bytes of a unit
//! depend on nothing but the plan, so a machine can write any units into the file of a shared file system.
//!
//! One process owns the output. [`Shared::open`] makes the file `.NAME.partial` of the whole size and the journal beside it. Any process on
//! any machine that has made the same plan calls [`convert_units`] for some units: it writes their bytes into the file and returns
//! a record of each unit, with the SHA-256 of the bytes. The owner puts the records into the journal with [`Shared::add`]. At last
//! the owner calls [`run`](crate::convert::run::run), which reads the bytes of all units again, compares them with the journal, converts what
//! is missing or wrong, and names the file. A unit that two machines write has the same bytes twice.
//!
//! ```no_run
//! use srd_rs::convert::options::RunOptions;
//! use srd_rs::convert::shared::{Shared, convert_units};
//! use srd_rs::convert::planned::Plan;
//! use srd_rs::convert::run::run;
//! use srd_rs::progress::Progress;
//!
//! /// Converts in two parts, which could as well run on two machines.
//! fn convert(plan: &Plan, options: &RunOptions) -> srd_rs::Result<()> {
//!     let shared = Shared::open(plan, options)?;
//!     let (first, second) = shared.pending.split_at(shared.pending.len() / 2);
//!     for part in [first, second] {
//!         let numbers: Vec<_> = part.iter().map(|unit| unit.number).collect();
//!         shared.add(&convert_units(plan, options, &shared.identity, &numbers, &Progress::default())?)?;
//!     }
//!     drop(shared);
//!     run(plan, options, &Progress::default()).map(drop)
//! }
//! ```

use crate::convert::chunk::Converter;
use crate::convert::journal::{self, Journal};
use crate::convert::options::RunOptions;
use crate::convert::outputs::Outputs;
use crate::convert::planned::Plan;
use crate::convert::run::{self, bytes_of, wanted};
use crate::convert::source_hashes::Step;
use crate::convert::units::Units;
use crate::error::{Error, Result};
use crate::formats::sink::{self, Left};
use crate::progress::Progress;

/// A unit that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Number of the unit in the plan.
    pub number: usize,
    /// Bytes of the output.
    pub bytes: u64,
}

/// An output that several machines write. The journal stays locked until the value is dropped.
pub struct Shared {
    journal: Journal,
    /// What the machines must agree on: see [`journal::identity`].
    pub identity: String,
    /// The units that the journal does not know as complete.
    pub pending: Vec<Pending>,
    /// Bytes of the units that an earlier run has completed.
    pub resumed_bytes: u64,
}

impl Shared {
    /// Makes the files of the whole size, or takes those of an interrupted run.
    ///
    /// # Errors
    /// As [`run`](crate::convert::run::run) before it reads a weight; [`Error::Usage`] without [`RunOptions::resume`], and for a plan with a
    /// container, whose seal needs the key on every machine.
    pub fn open(plan: &Plan, options: &RunOptions) -> Result<Self> {
        options.effort.feedback.check()?;
        refuse_container(plan)?;
        let (Some(journal), Some(identity)) =
            (Journal::open(plan, options)?, journal::identity(plan, options))
        else {
            let what = "several machines can write an output only if what is complete is kept";
            return Err(Error::usage(what, "Leave out --no-resume"));
        };
        if journal.left != Left::Complete
            && let Err(error) = Outputs::create(plan, options, Some(journal.left), &Progress::default())
        {
            journal.failed();
            return Err(error);
        }
        let (units, mut pending, mut resumed_bytes) = (Units::cut(plan), Vec::new(), 0);
        for number in 0..units.count() {
            let unit = units.get(number);
            let bytes = bytes_of(&unit, unit.weights());
            match journal.units.get(&number) {
                Some(written) if written.done == unit.weights() => resumed_bytes += bytes,
                _ => pending.push(Pending { number, bytes }),
            }
        }
        Ok(Self { journal, identity, pending, resumed_bytes })
    }

    /// Notes what a machine has written: the records that [`convert_units`] returned.
    ///
    /// # Errors
    /// [`Error::Usage`] when a record is not understood; [`Error::Io`] from the disk.
    pub fn add(&self, records: &[String]) -> Result<()> {
        records.iter().try_for_each(|record| self.journal.add_record(record))
    }

    /// Ends a run that failed. What is complete is kept; where nothing is complete, nothing is kept.
    pub fn failed(self) {
        self.journal.failed();
    }
}

/// Converts the units with these numbers into the file that [`Shared::open`] made, and returns their records. `progress` counts the
/// bytes of tensor data.
///
/// # Errors
/// [`Error::Usage`] when the plan or the options are not those of `identity`, or when the file is not there; whatever went wrong first
/// in the order of the numbers; [`Error::Interrupted`] after [`Progress::cancel`].
pub fn convert_units(
    plan: &Plan,
    options: &RunOptions,
    identity: &str,
    numbers: &[usize],
    progress: &Progress,
) -> Result<Vec<String>> {
    options.effort.feedback.check()?;
    refuse_container(plan)?;
    if journal::identity(plan, options).as_deref() != Some(identity) {
        let what = "this machine would convert something else: it sees other files, options or another version of srd-rs";
        return Err(Error::usage(what, "Give all machines the same files and the same version of srd-rs"));
    }
    let missing = plan.files.iter().find(|f| options.gguf && !sink::has_partial(&f.path, f.bytes));
    if let Some(file) = missing {
        let what = format!("the file that is being written beside {} is not there", file.path.display());
        return Err(Error::usage(what, "Name an output on a file system that all machines share"));
    }
    let units = Units::cut(plan);
    if let Some(number) = numbers.iter().find(|&&number| number >= units.count()) {
        return Err(Error::usage(format!("the plan has no unit {number}"), "This is a mistake: report it"));
    }
    let threads = options.threads.max(1);
    let outputs = Outputs::create(plan, options, Some(Left::Partial), progress)?;
    let converter = Converter::new(plan, options, threads);
    let parts: Vec<_> = numbers.iter().map(|&number| (number, units.get(number))).collect();
    progress.start("", parts.iter().map(|(_, unit)| bytes_of(unit, unit.weights())).sum());
    let wanted = wanted(numbers.iter().map(|&number| Step::Convert(number)), &units);
    let _fetching = plan.model.source.read_ahead(wanted, options.max_memory / 4, None);
    let made = run::convert_units(&parts, &outputs, &converter, threads, (progress, progress))?;
    Ok(made.into_iter().map(|(number, unit)| unit.record(number)).collect())
}

fn refuse_container(plan: &Plan) -> Result<()> {
    if plan.container.is_none() {
        return Ok(());
    }
    let fix = "Leave out --axm (--no-axm), and make the container with srd-rs pack on one machine";
    Err(Error::usage("a signed container is written by one machine", fix))
}
