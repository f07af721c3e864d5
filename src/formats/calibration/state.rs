//! Keeps how far a pass is that is not complete, in two files: `.NAME.state-0` and `.NAME.state-1`. A third one, `.NAME.gradients`, holds
//! what weighs the tokens.
//!
//! Each state overwrites the older of the two files, in place. To write into pages that the system has already costs a tenth of what a
//! new file costs, so that a pass can be kept behind each layer. A kill leaves at most one file that is not whole, which its
//! SHA-256 shows, and then the other file counts.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::header::{Info, Input, Quantized};
use super::values;
use crate::error::{Error, Result};
use crate::formats::sink;
use crate::os::{self, Opening};

/// What is kept of a pass that is not complete, beside its values.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub info: Info,
    pub reserved: u64,
    /// Bytes of data in the file, and their SHA-256.
    pub written: u64,
    pub written_sha256: String,
    pub inputs: Vec<Input>,
    pub quantized: Vec<Quantized>,
    /// The bits of the error and the energy of each quantized tensor: a number with a point does not come back from JSON as it was.
    pub errors: Vec<[u64; 2]>,
    pub entries: Map<String, Value>,
    pub note: Value,
}

/// A state with its number: the larger one of two is the later one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    number: u64,
    state: State,
}

/// The two files.
pub struct States {
    paths: [PathBuf; 2],
    /// The file of the gradients of the tokens.
    pub gradients: PathBuf,
    /// The number of the next state. A state with an even number is written into the first file.
    next: u64,
}

impl States {
    /// The states of a pass that writes the file `target`.
    pub fn beside(target: &Path) -> Self {
        Self {
            paths: ["state-0", "state-1"].map(|suffix| sink::hidden(target, suffix)),
            gradients: sink::hidden(target, "gradients"),
            next: 0,
        }
    }

    /// Writes a state with its values.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk, and [`Error::Usage`] for a file of another user.
    pub fn keep(&mut self, state: State, values: &[&[f32]]) -> Result<()> {
        let head = values::head(&Numbered { number: self.next, state }, values);
        let length = head.len() as u64 + values.iter().map(|v| 4 * v.len() as u64).sum::<u64>();
        let path = &self.paths[(self.next % 2) as usize];
        let mut file = os::open_own(path, Opening::Either).map_err(|e| Error::io(path, "write", e))?;
        sink::check_owner(&file, path)?;
        let mut write = || {
            if file.metadata()?.len() > length {
                file.set_len(length)?;
            }
            file.write_all(&head)?;
            values.iter().try_for_each(|v| file.write_all(bytemuck::cast_slice(v)))
        };
        write().map_err(|e| Error::io(path, "write", e))?;
        self.next += 1;
        Ok(())
    }

    /// Returns the states that are whole, the later one first. The next state is written over the other file than that of the later one.
    pub fn read(&mut self) -> Vec<(State, Vec<Vec<f32>>)> {
        let mut found: Vec<_> =
            self.paths.iter().filter_map(|path| values::read_own::<Numbered>(path)).collect();
        found.sort_by_key(|(head, _)| std::cmp::Reverse(head.number));
        self.next = found.first().map_or(0, |(head, _)| head.number.saturating_add(1));
        found.into_iter().map(|(head, values)| (head.state, values)).collect()
    }

    /// Returns whether a state is there, whole or not.
    pub fn exist(&self) -> bool {
        self.paths.iter().any(|path| path.exists())
    }

    /// Removes the states.
    pub fn forget(&self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Removes the states and the gradients.
    pub fn remove(&self) {
        self.forget();
        let _ = std::fs::remove_file(&self.gradients);
    }
}
