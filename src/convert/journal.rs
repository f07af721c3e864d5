//! What an interrupted run has left, so that the next run goes on from it.
//!
//! Beside the outputs, which are kept as `.NAME.partial`, lies the journal `.NAME.journal` of the first output. The journal is text.
//! The first line says what is converted: by which program, from which input, with which options, to which plan. Then each
//! line says how many weights of a unit are written, with the SHA-256 of their bytes; the last line of a unit counts. Every
//! line ends with the first 16 digits of its own SHA-256, so a line that was cut off is not taken for one.
//!
//! ```text
//! head {"journal":3,"program":"...","input":"...","options":"...","plan":"..."} 0123456789abcdef
//! source 0 HASH 0123456789abcdef
//! unit 17 65536 0 HASH,HASH ERROR,ROWS,ENERGY,SAMPLED 0123456789abcdef
//! unit 17 884736 0 HASH,HASH ERROR,ROWS,ENERGY,SAMPLED 0123456789abcdef
//! complete 0123456789abcdef
//! ```
//!
//! A run goes on only from a journal whose first line is its own. It reads the bytes of each unit again and takes the unit
//! if the bytes have the hashes of the journal, so nothing has to be on the disk before its line is. `complete` is written
//! just before the outputs get their names. The journal is locked while a run uses it.
//!
//! A unit can take seconds, so a worker notes how far it has come within a unit as well: every tenth of a second at first, and in a
//! long run every thousandth of the time that the run has taken, so that the journal stays small.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::convert::options::{Resume, RunOptions};
use crate::convert::planned::Plan;
use crate::convert::report::RowErrors;
use crate::convert::written::WrittenUnit;
pub use crate::convert::written::journal_path;
use crate::error::{Error, Result};
use crate::formats::calibration::Calibration;
use crate::formats::sink::{self, Left};
use crate::os::{self, Opening};
use crate::sign::{Hash, Sha256, from_hex, sha256, to_hex};

/// Digits of a SHA-256 at the end of each line.
const CHECK_DIGITS: usize = 16;
/// A worker that is within a unit adds at most one line in this share of the time that the run has taken.
const SHARE_OF_TIME: u32 = 1000;
/// The form of the journal.
const VERSION: u32 = 3;

/// What two runs must have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    journal: u32,
    program: String,
    input: String,
    options: String,
    plan: String,
    /// Whether weights were replaced that are not finite. A run that replaces them goes on from one that does not, because
    /// that one has completed no unit with such weights.
    replaces: bool,
}

impl Head {
    fn new(plan: &Plan, options: &RunOptions, resume: &Resume) -> Self {
        Self {
            journal: VERSION,
            program: resume.program.clone(),
            input: input_digest(plan),
            options: resume.options.clone(),
            plan: plan_digest(plan, options),
            replaces: options.allow_nonfinite,
        }
    }

    /// What is not the same in both, as words for a message. The plan follows from the rest, and from the calibration; it is
    /// compared only if `all` is set, because it is not known before the calibration.
    fn difference(&self, other: &Self, all: bool) -> Option<&'static str> {
        match () {
            () if self.journal != other.journal || self.program != other.program => {
                Some("by another version of srd-rs")
            }
            () if self.input != other.input => Some("from other input: a file of the model was changed"),
            () if self.options != other.options || other.replaces && !self.replaces => {
                Some("with other options")
            }
            () if all && self.plan != other.plan => Some("with other options or another calibration"),
            () => None,
        }
    }
}

/// What the journal of an earlier run says.
#[derive(Debug, Default)]
struct Records {
    head: Option<Head>,
    sources: Vec<(usize, Hash)>,
    units: BTreeMap<usize, WrittenUnit>,
    complete: bool,
    /// Length of the lines that are whole.
    bytes: u64,
}

/// The journal of a run.
pub struct Journal {
    file: Mutex<File>,
    path: PathBuf,
    targets: Vec<PathBuf>,
    begin: Instant,
    /// The shortest time between two lines of one unit.
    interval: Duration,
    /// What an earlier run has left.
    pub left: Left,
    /// The source files that an earlier run has hashed: index and hash.
    pub sources: Vec<(usize, Hash)>,
    /// What an earlier run has written of the units, by their numbers.
    pub units: BTreeMap<usize, WrittenUnit>,
}

impl Journal {
    /// Opens the journal of a run, or makes a new one where there is none. Returns `None` if the run is not to be resumed. With
    /// `overwrite`, what an interrupted run of something else has left is removed.
    ///
    /// # Errors
    /// [`Error::Usage`] when what an interrupted run has left cannot be used and may not be removed, or when another process
    /// writes the same output; [`Error::Io`] from the disk.
    pub fn open(plan: &Plan, options: &RunOptions) -> Result<Option<Self>> {
        if options.against.is_some() {
            return Ok(None);
        }
        let targets: Vec<_> = plan.targets(options.gguf).into_iter().cloned().collect();
        let Some(path) = targets.first().map(|t| journal_path(t)) else { return Ok(None) };
        let Some(resume) = &options.resume else {
            return match path.symlink_metadata().is_ok() {
                true if options.overwrite => discard_unused(&targets).map(|()| None),
                true => Err(refusal(&path, "with other options")),
                false => Ok(None),
            };
        };
        let failed = |e| Error::io(&path, "open", e);
        let mut file = os::open_own(&path, Opening::Either).map_err(failed)?;
        sink::check_owner(&file, &path)?;
        lock(&file, &path)?;
        let head = Head::new(plan, options, resume);
        let mut records = Records::read(&mut file).map_err(failed)?;
        let difference = records.head.as_ref().and_then(|found| head.difference(found, true));
        if let Some(what) = difference.filter(|_| !options.overwrite) {
            return Err(refusal(&path, what));
        }
        let is_new = records.head.is_none() || difference.is_some();
        if is_new {
            records = Records::default();
        }
        file.set_len(records.bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        let written = options.written.and_then(|written| written.take(plan)).filter(|_| is_new);
        let left = match (is_new, records.complete) {
            (true, _) if written.is_some() => Left::Partial,
            (true, _) => Left::Nothing,
            (_, false) => Left::Partial,
            (_, true) => Left::Complete,
        };
        let Records { sources, mut units, .. } = records;
        units.extend(written.cloned().unwrap_or_default());
        let (begin, interval) = (Instant::now(), resume.interval);
        let file = Mutex::new(file);
        let journal = Self { file, path, targets, begin, interval, left, sources, units };
        if is_new {
            let json = serde_json::to_string(&head).expect("strings and numbers have a JSON form");
            journal.add(&format!("head {json}"))?;
            journal.units.iter().try_for_each(|(&number, unit)| journal.add_unit(number, unit))?;
        } else if head.replaces {
            journal.add("replaces")?;
        }
        Ok(Some(journal))
    }

    /// Notes the hash of a source file.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk.
    pub fn add_source(&self, file: usize, hash: &Hash) -> Result<()> {
        self.add(&format!("source {file} {}", to_hex(hash)))
    }

    /// Notes what is written of a unit.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk.
    pub fn add_unit(&self, number: usize, unit: &WrittenUnit) -> Result<()> {
        self.add(&unit.record(number))
    }

    /// Notes what another machine has written of a unit, as its [`WrittenUnit::record`] says.
    ///
    /// # Errors
    /// [`Error::Usage`] when the record is not understood; [`Error::Io`] from the disk.
    pub fn add_record(&self, record: &str) -> Result<()> {
        let mut records = Records::default();
        if !record.starts_with("unit ") || record.contains('\n') || records.add_unit(&record[5..]).is_none() {
            let what = format!("'{}' is no record of a unit", record.escape_debug());
            return Err(Error::usage(what, "Use the same version of srd-rs on all machines"));
        }
        self.add(record)
    }

    /// Returns whether a worker is to note how far it has come within a unit. `last` is when it did so, or began the unit.
    pub fn is_due(&self, last: Instant) -> bool {
        last.elapsed() >= self.interval.max(self.begin.elapsed() / SHARE_OF_TIME)
    }

    /// Notes that all outputs are complete and get their names now.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk.
    pub fn add_complete(&self) -> Result<()> {
        self.add("complete")
    }

    fn add(&self, record: &str) -> Result<()> {
        let line = line_of(record);
        let mut file = self.file.lock().unwrap_or_else(|p| p.into_inner());
        file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, "write", e))
    }

    /// Ends a run that failed. What is complete is kept, so that the same command goes on from there. Where nothing is complete,
    /// nothing is kept.
    pub fn failed(self) {
        let mut file = self.file.lock().unwrap_or_else(|p| p.into_inner());
        let is_empty = |records: Records| records.units.is_empty();
        if Records::read(&mut file).is_ok_and(is_empty) {
            let _ = discard(&self.targets);
        }
    }
}

impl Records {
    fn read(file: &mut File) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        let mut records = Self::default();
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            let record = std::str::from_utf8(line).ok().and_then(checked);
            if record.and_then(|record| records.add(record)).is_none() {
                break;
            }
            records.bytes += line.len() as u64;
        }
        Ok(records)
    }

    /// Takes a record. Returns `None` for one that is not understood.
    fn add(&mut self, record: &str) -> Option<()> {
        let mut words = record.splitn(2, ' ');
        let (kind, rest) = (words.next()?, words.next().unwrap_or_default());
        match (kind, &self.head) {
            ("head", None) => self.head = Some(serde_json::from_str(rest).ok()?),
            ("source", Some(_)) => {
                let (file, hash) = rest.split_once(' ')?;
                self.sources.push((file.parse().ok()?, from_hex(hash)?));
            }
            ("unit", Some(_)) => self.add_unit(rest)?,
            ("replaces", Some(_)) => self.head.iter_mut().for_each(|head| head.replaces = true),
            ("complete", Some(_)) => self.complete = true,
            _ => return None,
        }
        Some(())
    }

    /// Takes what is behind the word `unit` of a record.
    fn add_unit(&mut self, rest: &str) -> Option<()> {
        let mut words = rest.split(' ');
        let number = words.next()?.parse().ok()?;
        let (done, replaced) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let hashes = words.next()?.split(',').map(from_hex).collect::<Option<_>>()?;
        let errors = row_errors(words.next()?)?;
        self.units.insert(number, WrittenUnit { done, replaced, hashes, errors });
        Some(())
    }
}

/// What a run converts: by which program, from which input, with which options, to which plan. Runs with the same identity write
/// the same bytes. `None` if the run is not to be resumed.
pub fn identity(plan: &Plan, options: &RunOptions) -> Option<String> {
    let head = Head::new(plan, options, options.resume.as_ref()?);
    Some(serde_json::to_string(&head).expect("strings and numbers have a JSON form"))
}

/// Reads what rounding cost a unit.
fn row_errors(text: &str) -> Option<RowErrors> {
    let mut words = text.split(',');
    Some(RowErrors {
        error: words.next()?.parse().ok()?,
        rows: words.next()?.parse().ok()?,
        energy: words.next()?.parse().ok()?,
        sampled: words.next()?.parse().ok()?,
    })
}

/// The line of a record: the record, a space, and the first digits of its SHA-256.
fn line_of(record: &str) -> String {
    format!("{record} {}\n", &to_hex(&sha256(&[record.as_bytes()]))[..CHECK_DIGITS])
}

/// The record of a line, if the line is whole.
fn checked(line: &str) -> Option<&str> {
    let (record, _) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    (line_of(record) == line).then_some(record)
}

/// Compares a run with what an interrupted run has left, as far as that is possible before the calibration.
///
/// # Errors
/// [`Error::Usage`] when the run cannot go on from there, and may not replace it.
pub fn check(plan: &Plan, options: &RunOptions) -> Result<()> {
    let targets = plan.targets(options.gguf);
    let Some(path) = targets.first().map(|t| journal_path(t)) else { return Ok(()) };
    // What cannot be opened is refused by the run, which says why.
    let Ok(mut file) = os::open_own(&path, Opening::Existing) else { return Ok(()) };
    let Some(found) = Records::read(&mut file).ok().and_then(|records| records.head) else { return Ok(()) };
    let what = match &options.resume {
        Some(resume) => Head::new(plan, options, resume).difference(&found, false),
        None => Some("with other options"),
    };
    match what.filter(|_| !options.overwrite) {
        Some(what) => Err(refusal(&path, what)),
        None => Ok(()),
    }
}

/// Removes what an interrupted run has left of these outputs.
///
/// # Errors
/// [`Error::Usage`] when another process writes them; [`Error::Io`] when a file cannot be removed.
pub fn discard_unused(targets: &[PathBuf]) -> Result<()> {
    let Some(path) = targets.first().map(|target| journal_path(target)) else { return Ok(()) };
    match os::open_own(&path, Opening::Existing) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(&path, "open", e)),
        Ok(file) => {
            lock(&file, &path)?;
            discard(targets)
        }
    }
}

/// Removes the journal and what is kept of outputs that are not complete.
fn discard(targets: &[PathBuf]) -> Result<()> {
    targets.iter().try_for_each(|target| sink::discard_partial(target))?;
    targets.first().map_or(Ok(()), |target| forget(target))
}

/// Removes the journal of a run whose outputs have their names. `target` is the first output.
///
/// # Errors
/// [`Error::Io`] when the journal cannot be removed.
pub fn forget(target: &Path) -> Result<()> {
    let path = journal_path(target);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(&path, "remove", e)),
        _ => Ok(()),
    }
}

fn refusal(journal: &Path, what: &str) -> Error {
    let what = format!("{}: an interrupted conversion to this output was made {what}", journal.display());
    let fix = "Repeat the command of that conversion to go on with it, or start afresh with --overwrite or --no-resume";
    Error::usage(what, fix)
}

/// Locks the journal, so that two processes do not write one output. A file system without locks is taken as it is.
fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let what = format!("{}: another process is writing this output", path.display());
            Err(Error::usage(what, "Wait until it is done, or choose another name with -o"))
        }
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// The digest of what is read: names, sizes and times of the weight files and of the files beside them, and the digest of their
/// headers where the plan has one. A calibration is not among them, because the plan has its digest.
fn input_digest(plan: &Plan) -> String {
    let mut hasher = Sha256::default();
    let mut add = |path: &Path, facts: Option<std::fs::Metadata>| {
        let facts = facts.map(|m| {
            let changed = m.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            (m.len(), changed.map(|d| d.as_nanos()))
        });
        hasher.update(format!("{:?} {facts:?}\n", path.file_name()).as_bytes());
    };
    for input in plan.model.source.files() {
        add(&input.path, input.as_local().and_then(|file| file.metadata().ok()));
    }
    for path in plan.inputs.iter().filter(|path| !Calibration::recognize(path) && path.exists()) {
        add(path, path.metadata().ok());
    }
    let digest = plan.model.metadata.get("srd.source.digest");
    hasher.update(format!("{digest:?}").as_bytes());
    to_hex(&hasher.finish())
}

/// The digest of what is written: the headers of all files, the place, type and source of every tensor, and how the
/// weights are quantized.
fn plan_digest(plan: &Plan, options: &RunOptions) -> String {
    let mut hasher = Sha256::default();
    for file in &plan.files {
        hasher.update(format!("{:?} {}\n", file.path.file_name(), file.header.len()).as_bytes());
        hasher.update(&file.header);
    }
    for t in &plan.tensors {
        let (moments, weightings) = (t.moments.is_some() || t.made.is_some(), t.weightings.len());
        let facts = (&t.bound.name, t.ty.name(), t.file, t.offset, t.bytes, t.unit_weights, t.copy);
        hasher.update(format!("{facts:?} {} {moments} {weightings}\n", t.packed).as_bytes());
    }
    if let Some(container) = &plan.container {
        hasher.update(format!("{:?}\n", container.path.file_name()).as_bytes());
        hasher.update(&container.header.to_json());
    }
    let keys = (options.key.map(|k| to_hex(&k.id())), options.sign_key.map(|k| to_hex(&k.public())));
    let how = (&options.effort, options.gguf, &plan.calibration, plan.scaled_channels, keys);
    hasher.update(format!("{how:?}").as_bytes());
    to_hex(&hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let text = |s: &str| s.to_string();
        let (program, input, options, plan) = (text("p"), text("i"), text("o"), text("q"));
        Head { journal: VERSION, program, input, options, plan, replaces: false }
    }

    #[test]
    fn lines_are_read_up_to_the_first_that_is_not_whole() {
        let json = serde_json::to_string(&head()).unwrap();
        let unit =
            |n| line_of(&format!("unit {n} 256 3 {},{} 1.5e-3,64,2e0,2", "ab".repeat(32), "cd".repeat(32)));
        let whole =
            [line_of(&format!("head {json}")), line_of(&format!("source 1 {}", "0f".repeat(32))), unit(5)];
        let whole = whole.concat();
        let (second, third) = (unit(6), unit(7));
        for cut in 0..second.len() {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(whole.as_bytes()).unwrap();
            file.write_all(&second.as_bytes()[..cut]).unwrap();
            // A line behind a torn one is not taken either.
            file.write_all(if cut == 0 { b"" } else { third.as_bytes() }).unwrap();
            let records = Records::read(&mut file).unwrap();
            assert_eq!(records.bytes, whole.len() as u64);
            assert_eq!(records.head, Some(head()));
            assert_eq!(records.sources, [(1, [0x0f; 32])]);
            let hashes = vec![[0xab; 32], [0xcd; 32]];
            let errors = RowErrors { error: 0.0015, rows: 64, energy: 2.0, sampled: 2 };
            let unit = WrittenUnit { done: 256, replaced: 3, hashes, errors };
            assert_eq!(records.units, BTreeMap::from([(5, unit)]));
            assert!(!records.complete);
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let other = |change: fn(&mut Head)| {
            let mut other = head();
            change(&mut other);
            (head().difference(&other, false), head().difference(&other, true))
        };
        assert_eq!(other(|_| ()), (None, None));
        assert!(other(|h| h.program.push('x')).0.unwrap().contains("version"));
        assert!(other(|h| h.input.push('x')).0.unwrap().contains("input"));
        assert!(other(|h| h.options.push('x')).0.unwrap().contains("options"));
        let (early, late) = other(|h| h.plan.push('x'));
        assert!(early.is_none() && late.unwrap().contains("calibration"));
        // What replaces weights goes on from what does not, and not the other way.
        let replacing = Head { replaces: true, ..head() };
        assert!(replacing.difference(&head(), true).is_none());
        assert!(head().difference(&replacing, true).unwrap().contains("options"));
    }
}
