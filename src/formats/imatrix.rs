//! llama.cpp's importance matrices (imatrix), as a GGUF or in the older .dat format. An imatrix has the mean square of each
//! input of each matrix: the diagonal of `H = E[x x^T]`.
//!
//! ```no_run
//! use srd_rs::formats::imatrix::Importance;
//!
//! let imatrix = Importance::open("imatrix.gguf".as_ref())?;
//! let squares = imatrix.of("blk.0.ffn_down.weight", &[8192, 2048])?;
//! assert!(squares.is_none_or(|h| h.len() == 8192));
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use crate::formats::calibration::{Calibration, Moments};
use crate::formats::gguf::values::{KeyValues, Strings};
use crate::formats::gguf::writer::{TensorHeader, encode_header};
use crate::formats::gguf::{self, Array, GgufFile, GgufTensor, Value};
use crate::formats::sink::{Sink, check_not_input};
use crate::formats::source::{open_regular, read_at};
use crate::os;

/// Largest file that is read, in bytes. The statistics of a large model take some hundred MB.
const MAX_FILE: u64 = 4 << 30;

/// Importance of the columns of each matrix, by the GGUF name of the matrix.
#[derive(Debug)]
pub struct Importance {
    path: PathBuf,
    entries: HashMap<String, Squares>,
    /// Names of the texts that the statistics were taken from.
    pub datasets: Vec<String>,
    /// Number of chunks of text, 0 where the file does not say.
    pub chunks: u32,
}

/// The statistics of one matrix or stack of experts.
#[derive(Debug, Clone)]
struct Squares {
    /// `h_ii` of the columns. A stack of experts has the values of its experts one after another.
    values: Vec<f32>,
    /// The number of counts that the file has: one for each expert, or one for all of them.
    counts: usize,
    /// The number of these counts that are zero.
    unseen: usize,
}

impl Importance {
    /// Reads an imatrix file of either format.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Format`] when the file is no imatrix, is cut short, or has a value
    /// that is negative or not finite.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, size) = open_file(path)?;
        let mut magic = [0; 4];
        read_at(&file, Place::file(path), 0, &mut magic)?;
        let read =
            if magic == gguf::MAGIC { Self::open_gguf(path)? } else { Self::open_dat(path, &file, size)? };
        match read.entries.is_empty() {
            true => Err(bad(path, "holds no statistics", NOT_IMATRIX)),
            false => Ok(read),
        }
    }

    /// Takes the diagonals of a calibration, which is all that a search for scales can use.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] from reading the calibration.
    pub fn from_calibration(calibration: &Arc<Calibration>) -> Result<Self> {
        let mut entries = HashMap::new();
        for name in calibration.tensors() {
            let moments = moments_of(calibration, name);
            let squares = Squares { values: moments.diagonal()?, counts: moments.experts(), unseen: 0 };
            entries.insert(name.to_string(), squares);
        }
        Ok(Self {
            path: calibration.path().to_path_buf(),
            entries,
            datasets: vec![calibration.info.text.clone()],
            chunks: u32::try_from(calibration.info.chunks()).unwrap_or(u32::MAX),
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of matrices.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no matrices.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns whether the file has something for a tensor of shape `ne`.
    pub fn names(&self, name: &str, ne: &[u64]) -> bool {
        self.entries.contains_key(name) || self.experts(name, ne).any(|e| e.is_some())
    }

    /// Returns the number of experts of a stack that the file has no statistics of, although it has some of others.
    pub fn unseen_experts(&self, name: &str, ne: &[u64]) -> usize {
        match self.entries.get(name) {
            Some(squares) => squares.unseen,
            None if self.names(name, ne) => self.experts(name, ne).filter(Option::is_none).count(),
            None => 0,
        }
    }

    /// Returns the importance for a tensor of shape `ne`: `ne[0]` values, or as many for each of its `ne[2]` experts; `None`
    /// if the file has nothing for the tensor. Older files name each expert: `blk.0.ffn_up.3.weight` is expert 3 of
    /// `blk.0.ffn_up_exps.weight`. An expert that such a file leaves out counts every input the same.
    ///
    /// # Errors
    /// [`Error::Model`] when the file has another number of values, because the file then belongs to another model. Such
    /// values of token embeddings are ignored, as llama-quantize does: an embedding is looked up and never multiplied.
    pub fn of(&self, name: &str, ne: &[u64]) -> Result<Option<Vec<f32>>> {
        let dim = |i: usize| ne.get(i).copied().unwrap_or(1);
        let Some(Squares { values, counts, .. }) =
            self.entries.get(name).cloned().or_else(|| self.stack(name, ne))
        else {
            return Ok(None);
        };
        if values.len() as u64 == dim(0) * dim(2) && (counts == 1 || counts as u64 == dim(2)) {
            return Ok(Some(values));
        }
        if matches!(name, "token_embd.weight" | "per_layer_token_embd.weight") {
            return Ok(None);
        }
        let has = match counts {
            1 => format!("{} values", values.len()),
            counts => format!("{counts} rows of {} values", values.len() / counts),
        };
        let what = match dim(2) {
            1 => format!("has {has} where the model has {} inputs", dim(0)),
            experts => format!("has {has} where the model has {experts} experts of {} inputs", dim(0)),
        };
        Err(Error::model(
            Place::file(&self.path).tensor(name),
            what,
            "Use the imatrix that was made for this very model",
        ))
    }

    /// Returns the entry of each expert of a stack, where experts have entries of their own.
    fn experts<'a>(&'a self, name: &'a str, ne: &[u64]) -> impl Iterator<Item = Option<&'a Squares>> {
        let (parts, count) = (name.split_once("_exps."), ne.get(2).copied().unwrap_or(0));
        parts.into_iter().flat_map(move |(stem, end)| {
            (0..count).map(move |expert| self.entries.get(&format!("{stem}.{expert}.{end}")))
        })
    }

    /// Puts the entries of the experts of a stack together.
    fn stack(&self, name: &str, ne: &[u64]) -> Option<Squares> {
        if !self.names(name, ne) {
            return None;
        }
        let unseen = vec![1.0; ne[0] as usize];
        let experts = self.experts(name, ne).map(|e| e.map_or(unseen.as_slice(), |e| e.values.as_slice()));
        Some(Squares { values: experts.collect::<Vec<_>>().concat(), counts: 1, unseen: 0 })
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let counts: HashMap<&str, &GgufTensor> =
            file.tensors.iter().filter_map(|t| Some((t.name.strip_suffix(".counts")?, t))).collect();
        let mut entries = HashMap::new();
        for sums in &file.tensors {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
            let counts = counts.get(name).ok_or_else(|| {
                let place = Place::file(path).tensor(&sums.name);
                Error::format(place, "has no counts beside it", NOT_IMATRIX)
            })?;
            let counts = read_f32(&file, counts)?;
            let values = means(&read_f32(&file, sums)?, &counts).ok_or_else(|| {
                let place = Place::file(path).tensor(&sums.name);
                Error::format(place, "has sums or counts that do not fit or are not finite", NOT_IMATRIX)
            })?;
            let unseen = counts.iter().filter(|count| count.round() == 0.0).count();
            // A matrix that saw no token has no statistics.
            if unseen < counts.len() {
                entries.insert(name.to_string(), Squares { values, counts: counts.len(), unseen });
            }
        }
        let datasets = match file.kv.get("imatrix.datasets") {
            Some(Value::Array(Array::String(names))) => names.iter().map(str::to_string).collect(),
            _ => Vec::new(),
        };
        let chunks = file.kv.get("imatrix.chunk_count").and_then(Value::as_u64).unwrap_or(0);
        Ok(Self { path: path.to_path_buf(), entries, datasets, chunks: chunks.try_into().unwrap_or(0) })
    }

    fn open_dat(path: &Path, file: &File, size: u64) -> Result<Self> {
        let mut bytes = vec![0; size as usize];
        read_at(file, Place::file(path), 0, &mut bytes)?;
        let mut dat = Dat { path, bytes: &bytes, at: 0 };
        let count = dat.count("entries")?;
        let mut entries = HashMap::new();
        for _ in 0..count {
            let name = dat.text()?;
            let calls = dat.count("calls")?;
            let sums = dat.floats()?;
            if !sums.iter().all(|s| s.is_finite() && *s >= 0.0) {
                let place = Place::file(path).tensor(name);
                return Err(Error::format(place, "has sums that are not finite", NOT_IMATRIX));
            }
            if calls > 0 {
                let values = sums.iter().map(|s| s / calls as f32).collect();
                entries.insert(name, Squares { values, counts: 1, unseen: 0 });
            }
        }
        // Files from before 2024 end here.
        let (mut chunks, mut datasets) = (0, Vec::new());
        if dat.at < bytes.len() {
            chunks = dat.count("chunks")? as u32;
            datasets.push(dat.text()?);
        }
        Ok(Self { path: path.to_path_buf(), entries, datasets, chunks })
    }
}

/// Writes the diagonals of a calibration as a GGUF imatrix, as llama-imatrix does. Each tensor gets `NAME.in_sum2`, the sums
/// of squares [n, experts], and `NAME.counts`. An expert that saw no token gets a count of one, because its statistics are
/// blended with those of its layer.
///
/// # Errors
/// [`Error::Usage`] when `path` exists and `overwrite` is not set; [`Error::Io`] or [`Error::Format`] from reading
/// and writing.
pub fn write_imatrix(calibration: &Arc<Calibration>, path: &Path, overwrite: bool) -> Result<()> {
    let tensors: Vec<_> =
        calibration.tensors().into_iter().map(|name| (name, moments_of(calibration, name))).collect();
    let infos: Vec<_> = tensors.iter().flat_map(|(name, moments)| imatrix_tensors(name, moments)).collect();
    let headers: Vec<_> =
        infos.iter().map(|(name, ne)| TensorHeader { name, ne, ty: GgmlType::F32 }).collect();
    let header = encode_header(&imatrix_keys(calibration), &headers)?;
    let source = os::file_id_of(calibration.path()).ok();
    check_not_input(path, source.as_slice())?;
    let sink = Sink::create(path, header.total_size, overwrite)?;
    sink.write_at(&header.bytes, 0)?;
    for ((_, moments), offsets) in tensors.iter().zip(header.tensor_offsets.chunks(2)) {
        let counts: Vec<f32> = (0..moments.experts()).map(|e| moments.tokens(e).max(1) as f32).collect();
        let mut sums = moments.diagonal()?;
        sums.chunks_mut(moments.n())
            .zip(&counts)
            .for_each(|(h, count)| h.iter_mut().for_each(|v| *v *= count));
        sink.write_at(bytemuck::cast_slice(&sums), offsets[0])?;
        sink.write_at(bytemuck::cast_slice(&counts), offsets[1])?;
    }
    sink.commit()
}

fn moments_of(calibration: &Arc<Calibration>, name: &str) -> Moments {
    calibration.get(name).expect("a tensor of this calibration")
}

/// Returns the names and dimensions of the sums and the counts of a tensor.
fn imatrix_tensors(name: &str, moments: &Moments) -> [(String, Vec<u64>); 2] {
    let (n, experts) = (moments.n() as u64, moments.experts() as u64);
    [(format!("{name}.in_sum2"), vec![n, experts]), (format!("{name}.counts"), vec![1, experts])]
}

fn imatrix_keys(calibration: &Calibration) -> KeyValues {
    let info = &calibration.info;
    let number = |n: u64| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    let mut datasets = Strings::default();
    datasets.push(&info.text);
    let mut kv = KeyValues::default();
    kv.set("general.type", Value::String("imatrix".into()));
    kv.set("imatrix.datasets", Value::Array(Array::String(datasets)));
    kv.set("imatrix.chunk_count", number(info.chunks()));
    kv.set("imatrix.chunk_size", number(info.ctx));
    kv
}

const NOT_IMATRIX: &str = "Name an imatrix file (GGUF or .dat) that llama-imatrix wrote";

fn bad(path: &Path, what: &str, fix: &str) -> Error {
    Error::format(Place::file(path), what, fix)
}

/// Opens a file that may be an imatrix, and returns its size.
fn open_file(path: &Path) -> Result<(File, u64)> {
    let (file, size) = open_regular(path)?;
    match size {
        0..4 => Err(bad(path, "is too short for an imatrix", NOT_IMATRIX)),
        4..=MAX_FILE => Ok((file, size)),
        _ => Err(bad(path, "is too large for an imatrix", NOT_IMATRIX)),
    }
}

fn read_f32(file: &GgufFile, tensor: &GgufTensor) -> Result<Vec<f32>> {
    if tensor.ty != crate::dtype::GgmlType::F32 {
        let what = format!("is {}, not F32", tensor.ty.name());
        return Err(Error::format(file.place(tensor), what, NOT_IMATRIX));
    }
    let mut bytes = vec![0; tensor.bytes as usize];
    file.read_at(tensor, 0, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Divides sums of squares by counts, one count for each expert. An expert that saw nothing counts every input the same.
fn means(sums: &[f32], counts: &[f32]) -> Option<Vec<f32>> {
    let fine = |v: &[f32]| v.iter().all(|x| x.is_finite() && *x >= 0.0);
    if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) || !fine(sums) || !fine(counts) {
        return None;
    }
    let columns = sums.len() / counts.len();
    let mean = |i: usize| {
        let count = counts[i / columns].round();
        if count > 0.0 { sums[i] / count } else { 1.0 }
    };
    Some((0..sums.len()).map(mean).collect())
}

/// Reads the older format: counts, names and floats one after another, little endian.
struct Dat<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Dat<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len()).ok_or_else(|| {
            let place = Place::file(self.path).at(self.at as u64);
            Error::format(place, format!("ends before the {n} bytes that it announces"), NOT_IMATRIX)
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn count(&mut self, of: &str) -> Result<usize> {
        let at = self.at as u64;
        let b = self.take(4)?;
        usize::try_from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])).map_err(|_| {
            let place = Place::file(self.path).at(at);
            Error::format(place, format!("has a negative number of {of}"), NOT_IMATRIX)
        })
    }

    fn text(&mut self) -> Result<String> {
        let (at, n) = (self.at as u64, self.count("bytes in a name")?);
        String::from_utf8(self.take(n)?.to_vec()).map_err(|_| {
            Error::format(Place::file(self.path).at(at), "has a name that is not UTF-8", NOT_IMATRIX)
        })
    }

    fn floats(&mut self) -> Result<Vec<f32>> {
        let n = self.count("values")?;
        let bytes = self.take(n.saturating_mul(4))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dat(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
        let mut out = (entries.len() as i32).to_le_bytes().to_vec();
        for (name, calls, sums) in entries {
            out.extend((name.len() as i32).to_le_bytes());
            out.extend(name.as_bytes());
            out.extend(calls.to_le_bytes());
            out.extend((sums.len() as i32).to_le_bytes());
            sums.iter().for_each(|s| out.extend(s.to_le_bytes()));
        }
        out.extend(7i32.to_le_bytes());
        out.extend(4i32.to_le_bytes());
        out.extend(b"wiki");
        out
    }

    fn open(bytes: &[u8]) -> Result<Importance> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imatrix");
        std::fs::write(&path, bytes).unwrap();
        Importance::open(&path)
    }

    #[test]
    fn dat_holds_means_times_calls() {
        let read = open(&dat(&[("blk.0.ffn_up.weight", 2, &[2.0, 4.0])])).unwrap();
        assert_eq!(read.of("blk.0.ffn_up.weight", &[2, 8]).unwrap(), Some(vec![1.0, 2.0]));
        assert_eq!(read.of("output.weight", &[2, 8]).unwrap(), None);
        assert_eq!((read.chunks, read.datasets.as_slice()), (7, &["wiki".to_string()][..]));
    }

    #[test]
    fn another_models_file_is_refused() {
        let read = open(&dat(&[("a.weight", 1, &[1.0; 4]), ("token_embd.weight", 1, &[1.0; 4])])).unwrap();
        assert!(matches!(read.of("a.weight", &[8, 8]), Err(Error::Model { .. })));
        assert_eq!(read.of("a.weight", &[2, 8, 2]).unwrap().map(|v| v.len()), Some(4));
        assert_eq!(read.of("token_embd.weight", &[8, 8]).unwrap(), None);
    }

    #[test]
    fn older_files_name_each_expert() {
        let entries: [(&str, i32, &[f32]); 4] = [
            ("blk.0.ffn_up.0.weight", 1, &[1.0, 2.0]),
            ("blk.0.ffn_up.2.weight", 1, &[5.0, 6.0]),
            ("blk.0.ffn_up.x.weight", 1, &[7.0, 7.0]),
            ("blk.0.ffn_up.weight", 1, &[8.0, 8.0]),
        ];
        let read = open(&dat(&entries)).unwrap();
        let found = read.of("blk.0.ffn_up_exps.weight", &[2, 8, 3]).unwrap();
        assert_eq!(found, Some(vec![1.0, 2.0, 1.0, 1.0, 5.0, 6.0]));
        assert!(
            read.names("blk.0.ffn_up_exps.weight", &[2, 8, 3])
                && !read.names("blk.1.ffn_up_exps.weight", &[2, 8, 3])
        );
        assert!(read.of("blk.0.ffn_up_exps.weight", &[4, 8, 3]).is_err());
    }

    #[test]
    fn what_saw_no_token_has_no_statistics() {
        let read = open(&dat(&[("a.weight", 1, &[1.0; 4]), ("b.weight", 0, &[0.0; 4])])).unwrap();
        assert!(read.names("a.weight", &[4, 8]) && !read.names("b.weight", &[4, 8]));
        assert!(open(&dat(&[("b.weight", 0, &[0.0; 4])])).unwrap_err().to_string().contains("no statistics"));
        let read = open(&dat(&[("blk.0.ffn_up.1.weight", 1, &[1.0; 4])])).unwrap();
        assert_eq!(read.unseen_experts("blk.0.ffn_up_exps.weight", &[4, 8, 3]), 2);
        assert_eq!(read.unseen_experts("blk.1.ffn_up_exps.weight", &[4, 8, 3]), 0);
    }

    #[test]
    fn experts_have_their_own_counts() {
        assert_eq!(means(&[2.0, 4.0, 6.0, 8.0], &[2.0, 0.0]), Some(vec![1.0, 2.0, 1.0, 1.0]));
        assert_eq!(means(&[1.0, f32::NAN], &[1.0]), None);
        assert_eq!(means(&[1.0, 2.0, 3.0], &[1.0, 1.0]), None);
    }

    proptest! {
        #[test]
        fn damaged_files_give_errors(cut in 0usize..60, at in 0usize..60, byte: u8) {
            let mut bytes = dat(&[("blk.0.ffn_up.weight", 2, &[2.0, 4.0])]);
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            bytes.truncate(cut.max(1));
            let _ = open(&bytes);
        }
    }
}
