//! The SHA-256 of the whole weight files that a container is made from. They are hashed while the weights are converted: a
//! file is hashed from its start to its end just before its first tensor is converted, so that the bytes come from the disk
//! once if they fit into the page cache.

use std::sync::Mutex;

use crate::convert::planned::Plan;
use crate::convert::units::Units;
use crate::error::{Error, Place, Result};
use crate::progress::Progress;
use crate::sign::file::hash_range;
use crate::sign::{Hash, to_hex};

/// The name of a source file, without its folder, and the SHA-256 of the file.
pub type SourceHash = (String, Hash);

/// One step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Hash the source file with this index.
    Hash(usize),
    /// Convert the unit with this number.
    Convert(usize),
}

/// The source files of a plan, and the hashes that were made.
pub struct SourceHashes<'a> {
    plan: &'a Plan,
    /// For each source file its length, or `None` if its hash is not wanted.
    lengths: Vec<Option<u64>>,
    done: Mutex<Vec<SourceHash>>,
}

impl<'a> SourceHashes<'a> {
    /// Takes the files whose hashes the header of the container has a place for. A plan without a container has none.
    pub fn new(plan: &'a Plan) -> Self {
        let sources = plan.container.as_ref().map_or(&[][..], |c| &c.header.sources);
        let length = |name: &str| {
            let wanted = sources.iter().find(|s| s.name == name && s.file_sha256.is_some());
            wanted.map(|s| s.bytes)
        };
        let lengths = (0..plan.model.source.files().len()).map(|file| length(&name(plan, file))).collect();
        Self { plan, lengths, done: Mutex::default() }
    }

    /// Takes the hash of a file that an earlier run has made.
    pub fn take(&self, file: usize, hash: Hash) {
        let mut done = self.done.lock().unwrap_or_else(|p| p.into_inner());
        if file < self.lengths.len() {
            done.push((name(self.plan, file), hash));
        }
    }

    /// Returns the steps of the run: all units, and before the first unit that reads a file the step that hashes the file. Units
    /// that are complete (`is_complete`) and files whose hash is known are left out.
    pub fn steps(&self, units: &Units, is_complete: impl Fn(usize) -> bool) -> Vec<Step> {
        let known = self.done.lock().unwrap_or_else(|p| p.into_inner());
        let is_known = |file: usize| known.iter().any(|(of, _)| *of == name(self.plan, file));
        let wanted = |(file, length): (usize, &Option<u64>)| length.is_some() && !is_known(file);
        let mut waiting: Vec<bool> = self.lengths.iter().enumerate().map(wanted).collect();
        let mut steps = Vec::with_capacity(units.count() + waiting.len());
        for number in 0..units.count() {
            let unit = units.get(number);
            if unit.number == 0 {
                unit.tensor.bound.source.for_each_source(&mut |tensor| {
                    let file = self.plan.model.source.file_of(tensor);
                    if std::mem::take(&mut waiting[file]) {
                        steps.push(Step::Hash(file));
                    }
                });
            }
            if !is_complete(number) {
                steps.push(Step::Convert(number));
            }
        }
        steps.extend((0..waiting.len()).filter(|&file| waiting[file]).map(Step::Hash));
        steps
    }

    /// Hashes a file, and returns the hash.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read or has become shorter; [`Error::Verification`] when the hub names another
    /// hash for the file; [`Error::Interrupted`] when the run was cancelled.
    pub fn hash(&self, file: usize, progress: &Progress) -> Result<Hash> {
        let input = &self.plan.model.source.files()[file];
        let hash = hash_range(input, &input.path, 0..self.lengths[file].unwrap_or(0), progress)?;
        if let Some(expected) = input.as_remote().and_then(|remote| remote.sha256())
            && to_hex(&hash) != expected
        {
            let what = format!("has the SHA-256 {}, but the hub names {expected}", to_hex(&hash));
            let fix = "Run the same command again; report the file to the hub if the hashes still differ";
            return Err(Error::verification(Place::file(&input.path), what, fix));
        }
        self.take(file, hash);
        Ok(hash)
    }

    /// Returns the hashes that were made.
    pub fn finish(self) -> Vec<SourceHash> {
        self.done.into_inner().unwrap_or_else(|p| p.into_inner())
    }
}

/// The name of a source file, without its folder.
fn name(plan: &Plan, file: usize) -> String {
    plan.model.source.files()[file].name()
}
