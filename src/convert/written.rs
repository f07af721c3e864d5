//! What is written of an output that is not complete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::convert::planned::{Plan, PlannedTensor};
use crate::convert::report::RowErrors;
use crate::formats::sink;
use crate::sign::{Hash, to_hex};

/// What a run has written of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenUnit {
    /// Number of weights, from the first one of the unit.
    pub done: u64,
    /// Number of these weights that were replaced.
    pub replaced: u64,
    /// The hashes of their bytes, as [`Outputs::resume`](crate::convert::outputs::Outputs::resume) gets them.
    pub hashes: Vec<Hash>,
    /// What rounding cost these weights.
    pub errors: RowErrors,
}

impl WrittenUnit {
    /// Returns the record of the unit with this number, without its check.
    pub fn record(&self, number: usize) -> String {
        let hashes: Vec<_> = self.hashes.iter().map(|h| to_hex(h)).collect();
        let RowErrors { error, rows, energy, sampled } = self.errors;
        // A number is written with all of its digits, so that it is read back as it was.
        let errors = format!("{error:e},{rows},{energy:e},{sampled}");
        format!("unit {number} {} {} {} {errors}", self.done, self.replaced, hashes.join(","))
    }
}

/// The part of an output that was written while its calibration was made. The files are `.NAME.partial`. They vanish with this value,
/// unless a run has taken them.
#[derive(Debug)]
pub struct Written {
    units: BTreeMap<usize, WrittenUnit>,
    places: Vec<Place>,
    files: Vec<(PathBuf, u64)>,
    is_taken: AtomicBool,
}

/// Where a tensor of a plan lies: name, file, offset, bytes, and weights of a unit.
type Place = (String, usize, u64, u64, u64);

impl Written {
    /// Nothing of the output of `plan`.
    pub(super) fn nothing(plan: &Plan) -> Self {
        let (places, files) = (places(plan), files(plan));
        Self { units: BTreeMap::new(), places, files, is_taken: AtomicBool::new(false) }
    }

    /// Adds units, by their numbers.
    pub(super) fn add(&mut self, units: impl IntoIterator<Item = (usize, WrittenUnit)>) {
        self.units.extend(units);
    }

    /// Returns what is written of the units of a plan; `None` if the files are not there, or are those of another plan. The files now
    /// belong to the run of the plan.
    pub(super) fn take(&self, plan: &Plan) -> Option<&BTreeMap<usize, WrittenUnit>> {
        self.is_taken.store(true, Ordering::Relaxed);
        let is_same = self.files == files(plan) && self.places == places(plan);
        let is_there = self.files.iter().all(|(path, bytes)| sink::has_partial(path, *bytes));
        (is_same && is_there).then_some(&self.units)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // Where there is a journal, the files belong to another run.
        let has_journal = self.files.first().is_some_and(|(path, _)| journal_path(path).exists());
        if !self.is_taken.load(Ordering::Relaxed) && !has_journal {
            self.files.iter().for_each(|(path, _)| drop(sink::discard_partial(path)));
        }
    }
}

/// The journal of a run whose first output is `target`.
pub fn journal_path(target: &Path) -> PathBuf {
    sink::hidden(target, "journal")
}

fn places(plan: &Plan) -> Vec<Place> {
    let place = |t: &PlannedTensor| (t.bound.name.clone(), t.file, t.offset, t.bytes, t.unit_weights);
    plan.tensors.iter().map(place).collect()
}

fn files(plan: &Plan) -> Vec<(PathBuf, u64)> {
    plan.files.iter().map(|file| (file.path.clone(), file.bytes)).collect()
}
