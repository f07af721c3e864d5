//! Files of f32 values behind a JSON that says what the values are. The SHA-256 of both is in the file, so that a file that is not whole
//! is known.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Place, Result};
use crate::formats::sink;
use crate::os::{self, Opening};
use crate::sign::{Sha256, sha256, to_hex};

/// What stands in front of the values in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head<T> {
    note: T,
    /// Numbers of the values, and the SHA-256 of all of them.
    values: Vec<usize>,
    values_sha256: String,
}

/// Returns what stands in front of the values: a length, a SHA-256 and the JSON.
pub(super) fn head<T: Serialize>(note: &T, values: &[&[f32]]) -> Vec<u8> {
    let mut hash = Sha256::default();
    values.iter().for_each(|v| hash.update(bytemuck::cast_slice(v)));
    let lengths = values.iter().map(|v| v.len()).collect();
    let head = Head { note, values: lengths, values_sha256: to_hex(&hash.finish()) };
    let json = serde_json::to_vec(&head).expect("names and numbers");
    [&(json.len() as u64).to_le_bytes(), &sha256(&[&json])[..], &json].concat()
}

/// Reads a file. Returns `None` for one that is not whole.
fn read_from<T: DeserializeOwned>(file: &mut File) -> Option<(T, Vec<Vec<f32>>)> {
    let size = file.metadata().ok()?.len();
    let (mut length, mut hash) = ([0; 8], [0; 32]);
    file.read_exact(&mut length).ok()?;
    file.read_exact(&mut hash).ok()?;
    let length = u64::from_le_bytes(length);
    let rest = size.checked_sub(40)?.checked_sub(length)?;
    let mut json = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut json).ok()?;
    if sha256(&[&json]) != hash {
        return None;
    }
    let head: Head<T> = serde_json::from_slice(&json).ok()?;
    let count = head.values.iter().try_fold(0u64, |sum, &n| sum.checked_add(n as u64))?;
    if count.checked_mul(4)? != rest {
        return None;
    }
    let mut hash = Sha256::default();
    let mut all = Vec::with_capacity(head.values.len());
    for &n in &head.values {
        let mut values = vec![0f32; n];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        file.read_exact(bytes).ok()?;
        hash.update(bytes);
        all.push(values);
    }
    (to_hex(&hash.finish()) == head.values_sha256).then_some((head.note, all))
}

/// Writes a file, which has its name only when it is whole. A file of this name is replaced.
///
/// # Errors
/// [`Error::Io`] from the disk.
pub fn write<T: Serialize>(path: &Path, note: &T, values: &[&[f32]]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let fail = |e| Error::io(path, "write", e);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    let write = |file: &mut File| {
        file.write_all(&head(note, values))?;
        values.iter().try_for_each(|v| file.write_all(bytemuck::cast_slice(v)))
    };
    write(file.as_file_mut()).map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error)).map(drop)
}

/// Reads a file that [`write()`] has written.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be opened, and [`Error::Model`] for one that is not whole or holds something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, Vec<Vec<f32>>)> {
    let mut file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
    read_from(&mut file).ok_or_else(|| invalid(path))
}

/// Reads a file that [`write()`] has written. Returns `None` for one that is not there, not whole, or that another user has made.
pub fn read_own<T: DeserializeOwned>(path: &Path) -> Option<(T, Vec<Vec<f32>>)> {
    let mut file = os::open_own(path, Opening::Existing).ok()?;
    sink::check_owner(&file, path).ok()?;
    read_from(&mut file)
}

/// The error of a file that is not whole or holds something else.
pub fn invalid(path: &Path) -> Error {
    let what = "is not whole, or not what a part of a calibration leaves";
    Error::model(Place::file(path), what, "Remove the file, and convert again")
}
