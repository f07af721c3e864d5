//! A GGUF that may be split into several files, as `llama-gguf-split` and `--split-max-size` write it.
//!
//! The parts are named `NAME-00001-of-00003.gguf` and so on. Each part says in its metadata which part it is; the first part
//! holds the metadata of the model.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::reader::{GgufFile, GgufTensor};
use super::values::KeyValues;
use super::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
use crate::error::{Error, Place, Result};

/// A whole GGUF: one file, or all parts of a split one.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    parts: Vec<GgufFile>,
}

/// Returns the path of part `index` (from 0) of `count` parts of a split GGUF: `name-00001-of-00003.gguf` for `name.gguf`,
/// as llama.cpp names the parts.
///
/// ```
/// use std::path::Path;
/// use srd_rs::formats::gguf::split::part_path;
///
/// assert_eq!(part_path("out/m.gguf".as_ref(), 1, 3), Path::new("out/m-00002-of-00003.gguf"));
/// ```
pub fn part_path(whole: &Path, index: usize, count: usize) -> PathBuf {
    let stem = whole.file_stem().unwrap_or_default().to_string_lossy();
    whole.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", index + 1))
}

/// Returns the path of the first part of a split GGUF that `path` names a part of, or `path` itself for any other name.
///
/// ```
/// use srd_rs::formats::gguf::split::first_part;
///
/// assert_eq!(first_part("m-00002-of-00003.gguf".as_ref()).to_str(), Some("m-00001-of-00003.gguf"));
/// assert_eq!(first_part("m.gguf".as_ref()).to_str(), Some("m.gguf"));
/// ```
pub fn first_part(path: &Path) -> PathBuf {
    let named = path.file_name().and_then(|name| name.to_str()).and_then(numbered);
    named.map_or_else(
        || path.to_path_buf(),
        |(stem, _, count)| path.with_file_name(format!("{stem}-00001-of-{count}.gguf")),
    )
}

/// Returns the stem, the number and the count, as texts, of a name that ends as those of parts do.
fn numbered(name: &str) -> Option<(&str, &str, &str)> {
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    (is_number(number) && is_number(count)).then_some((stem, number, count))
}

/// Returns the file beside `path` that has the name of the part before or behind it, if there is one.
fn neighbour_of(path: &Path) -> Option<PathBuf> {
    let (stem, number, count) = numbered(path.file_name()?.to_str()?)?;
    let (number, of) = (number.parse::<u64>().ok()?, count.parse::<u64>().ok()?);
    let near = [number.checked_sub(1), number.checked_add(1)].into_iter().flatten();
    near.filter(|n| (1..=of).contains(n))
        .map(|n| path.with_file_name(format!("{stem}-{n:05}-of-{count}.gguf")))
        .find(|neighbour| neighbour.exists())
}

impl Gguf {
    /// Opens a GGUF. `path` names the file, or any part of a split GGUF; the other parts lie beside that part.
    ///
    /// # Errors
    /// As [`GgufFile::open`]; [`Error::Model`] when a part is missing or does not belong to the others.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let named = GgufFile::open(path)?;
        let number = |key: &str| named.kv.get(key).and_then(|v| v.as_u64());
        if let Some(key) = [SPLIT_NO, SPLIT_COUNT]
            .into_iter()
            .find(|key| named.kv.get(key).is_some() && number(key).is_none())
        {
            let what = format!("has a '{key}' that is no number, so the other parts cannot be found");
            let fix = "Get the file again from where the model was published";
            return Err(Error::model(Place::file(path), what, fix));
        }
        let (no, count) = (number(SPLIT_NO).unwrap_or(0), number(SPLIT_COUNT).unwrap_or(1));
        if count <= 1 {
            if let Some(neighbour) = neighbour_of(path) {
                let of = neighbour.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let what = format!(
                    "has the name of a part, and {of} lies beside it, but it does not say that it is one"
                );
                let fix = "Get all parts again from where the model was published, or rename the file if it is whole";
                return Err(Error::model(Place::file(path), what, fix));
            }
            return Ok(Self { path: path.to_path_buf(), parts: vec![named] });
        }
        let whole = whole_name(path, no, count)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut parts = Vec::new();
        for index in 0..count {
            parts.push(open_part(&part_path(&whole, index, count), &named, index, count)?);
        }
        let gguf = Self { path: path.to_path_buf(), parts };
        gguf.check_tensors(number(SPLIT_TENSORS))?;
        Ok(gguf)
    }

    /// Makes a GGUF of parts that were read already, in order. `path` is what messages name.
    ///
    /// # Errors
    /// [`Error::Model`] when there is no part, or when two parts have the same tensor.
    pub fn from_parts(path: &Path, parts: Vec<GgufFile>) -> Result<Self> {
        if parts.is_empty() {
            return Err(Error::model(Place::file(path), "holds no GGUF", "Name a GGUF"));
        }
        let gguf = Self { path: path.to_path_buf(), parts };
        gguf.check_tensors(None)?;
        Ok(gguf)
    }

    fn check_tensors(&self, stated: Option<u64>) -> Result<()> {
        let fix = "Get all parts again from where the model was published";
        let mut names = HashSet::new();
        if let Some((part, twice)) = self.tensors().find(|(_, t)| !names.insert(t.name.as_str())) {
            let place = self.parts[part].place(twice);
            return Err(Error::model(place, "is in another part of the split GGUF as well", fix));
        }
        match stated.filter(|&n| n != names.len() as u64) {
            None => Ok(()),
            Some(n) => {
                let what =
                    format!("states {n} tensors, but its {} parts have {}", self.parts.len(), names.len());
                Err(Error::model(Place::file(&self.path), what, fix))
            }
        }
    }

    /// Returns what the user named: the file or one of the parts.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the files. There is at least one.
    pub fn parts(&self) -> &[GgufFile] {
        &self.parts
    }

    /// Returns the metadata of the model, which the first part holds.
    pub fn metadata(&self) -> &KeyValues {
        &self.parts[0].kv
    }

    /// Returns all tensors in file order, each with the index of the part that it lies in.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, &GgufTensor)> {
        self.parts.iter().enumerate().flat_map(|(i, part)| part.tensors.iter().map(move |t| (i, t)))
    }
}

/// Returns the path without `-00001-of-00003`.
fn whole_name(path: &Path, no: u64, count: u64) -> Result<PathBuf> {
    let suffix = format!("-{:05}-of-{count:05}.gguf", no.saturating_add(1));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_suffix(&suffix) {
        Some(stem) => Ok(path.with_file_name(format!("{stem}.gguf"))),
        None => {
            let what = format!(
                "is part {} of {count} of a split GGUF, but its name does not end in '{suffix}', so the other parts \
                 cannot be found",
                no.saturating_add(1)
            );
            Err(Error::model(
                Place::file(path),
                what,
                "Give all parts the names that they were published with",
            ))
        }
    }
}

fn open_part(path: &Path, named: &GgufFile, index: usize, count: usize) -> Result<GgufFile> {
    let fail = |what: String| {
        Err(Error::model(Place::file(path), what, "Put all parts of the split GGUF into one folder"))
    };
    let part = match GgufFile::open(path) {
        Ok(part) => part,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            let of = named.path.file_name().unwrap_or_default().to_string_lossy();
            return fail(format!(
                "is missing: part {} of {count} of the split GGUF that {of} belongs to",
                index + 1
            ));
        }
        Err(e) => return Err(e),
    };
    let number = |key: &str| part.kv.get(key).and_then(|v| v.as_u64());
    if (number(SPLIT_NO), number(SPLIT_COUNT)) != (Some(index as u64), Some(count as u64)) {
        return fail(format!("does not say that it is part {} of {count} of a split GGUF", index + 1));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::GgmlType;
    use crate::formats::gguf::{TensorHeader, Value, encode_header};

    /// Writes three parts with one F32 tensor of four values each.
    fn write(folder: &Path, names: [&str; 3], total: i32) -> PathBuf {
        let whole = folder.join("m.gguf");
        for (i, name) in names.iter().enumerate() {
            let mut kv = KeyValues::default();
            kv.set(SPLIT_NO, Value::U16(i as u16));
            kv.set(SPLIT_COUNT, Value::U16(3));
            kv.set(SPLIT_TENSORS, Value::I32(total));
            let tensors = [TensorHeader { name, ne: &[4], ty: GgmlType::F32 }];
            let mut bytes = encode_header(&kv, &tensors).unwrap().bytes;
            bytes.extend([0; 32]);
            std::fs::write(part_path(&whole, i, 3), bytes).unwrap();
        }
        whole
    }

    #[test]
    fn any_part_opens_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let whole = write(dir.path(), ["a", "b", "c"], 3);
        for i in 0..3 {
            let gguf = Gguf::open(part_path(&whole, i, 3)).unwrap();
            let tensors: Vec<_> = gguf.tensors().map(|(part, t)| (part, t.name.as_str())).collect();
            assert_eq!(tensors, [(0, "a"), (1, "b"), (2, "c")]);
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path, message: &str| {
            let error = Gguf::open(path).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        let whole = write(dir.path(), ["a", "b", "c"], 4);
        let part = |i| part_path(&whole, i, 3);
        refused(&part(0), "states 4 tensors");
        write(dir.path(), ["a", "b", "a"], 3);
        refused(&part(0), "another part");
        write(dir.path(), ["a", "b", "c"], 3);
        std::fs::copy(part(0), part(2)).unwrap();
        refused(&part(0), "part 3 of 3");
        std::fs::remove_file(part(2)).unwrap();
        refused(&part(0), "m-00003-of-00003.gguf: is missing");
        std::fs::rename(part(0), dir.path().join("x.gguf")).unwrap();
        refused(&dir.path().join("x.gguf"), "does not end in '-00001-of-00003.gguf'");
    }
}
