//! Where weights come from: the shards of a checkpoint, or a GGUF, seen as one table of tensors whose
//! elements can be read, decoded to f32, in any run.
//!
//! Plain positioned reads, not a memory map: `docs/decisions/0002-reading.md` has the measurement. A file that is
//! truncated while it is read gives an error rather than a signal, and no page of it counts as ours.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::dtype::{GgmlType, SourceType};
use crate::error::{Error, Place, Result};
use crate::formats::decode;
use crate::formats::gguf::GgufFile;
use crate::formats::safetensors::Checkpoint;
use crate::quant;

/// How a source tensor's bytes are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoding {
    Element(SourceType),
    Block(GgmlType),
    /// A type that holds no weights (integers, booleans): named, never decoded.
    Other(String),
}

impl Encoding {
    fn of_ggml(ty: GgmlType) -> Self {
        match ty {
            GgmlType::F32 => Self::Element(SourceType::F32),
            GgmlType::F16 => Self::Element(SourceType::F16),
            GgmlType::BF16 => Self::Element(SourceType::BF16),
            ty if quant::can_dequantize(ty) => Self::Block(ty),
            ty => Self::Other(ty.name().into()),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Element(SourceType::F32) => "F32",
            Self::Element(SourceType::F16) => "F16",
            Self::Element(SourceType::BF16) => "BF16",
            Self::Element(SourceType::F8E4M3) => "F8_E4M3",
            Self::Element(SourceType::F8E5M2) => "F8_E5M2",
            Self::Block(ty) => ty.name(),
            Self::Other(name) => name,
        }
    }

    /// The GGUF type that holds exactly these bytes.
    pub fn as_ggml(&self) -> Option<GgmlType> {
        match self {
            Self::Element(SourceType::F32) => Some(GgmlType::F32),
            Self::Element(SourceType::F16) => Some(GgmlType::F16),
            Self::Element(SourceType::BF16) => Some(GgmlType::BF16),
            Self::Block(ty) => Some(*ty),
            _ => None,
        }
    }
}

/// A handle of our own on a file the reader has open, so that the very file that was checked is read.
fn handle(path: &Path, file: &File) -> Result<(PathBuf, File)> {
    let file = file.try_clone().map_err(|e| Error::io(path, "open", e))?;
    Ok((path.to_path_buf(), file))
}

#[derive(Debug)]
struct Entry {
    name: String,
    /// Row-major, outermost first.
    shape: Vec<u64>,
    encoding: Encoding,
    file: usize,
    offset: u64,
    bytes: u64,
}

#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    files: Vec<(PathBuf, File)>,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

impl Source {
    /// # Errors
    /// [`Error::Io`] when no more files can be opened.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let files =
            checkpoint.shards().iter().map(|s| handle(&s.path, &s.file)).collect::<Result<Vec<_>>>()?;
        let entries = checkpoint
            .tensors()
            .iter()
            .map(|t| Entry {
                name: t.name.clone(),
                shape: t.shape.clone(),
                encoding: match t.dtype.source_type() {
                    Some(ty) => Encoding::Element(ty),
                    None => Encoding::Other(t.dtype.name().to_string()),
                },
                file: t.shard,
                offset: t.offset,
                bytes: t.bytes,
            })
            .collect();
        Ok(Self::new(checkpoint.path(), files, entries))
    }

    /// # Errors
    /// [`Error::Io`] when no more files can be opened.
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self> {
        let entries = gguf
            .header
            .tensors
            .iter()
            .map(|t| Entry {
                name: t.name.clone(),
                shape: t.ne.iter().rev().copied().collect(),
                encoding: Encoding::of_ggml(t.ty),
                file: 0,
                offset: t.offset,
                bytes: t.bytes,
            })
            .collect();
        Ok(Self::new(&gguf.path, vec![handle(&gguf.path, &gguf.file)?], entries))
    }

    fn new(path: &Path, files: Vec<(PathBuf, File)>, entries: Vec<Entry>) -> Self {
        let by_name = entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
        Self { path: path.to_path_buf(), files, entries, by_name }
    }

    /// What the user named: the folder or the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn name(&self, index: usize) -> &str {
        &self.entries[index].name
    }

    pub fn shape(&self, index: usize) -> &[u64] {
        &self.entries[index].shape
    }

    pub fn encoding(&self, index: usize) -> &Encoding {
        &self.entries[index].encoding
    }

    pub fn bytes(&self, index: usize) -> u64 {
        self.entries[index].bytes
    }

    /// File and absolute byte offset of element 0.
    pub fn position(&self, index: usize) -> (&Path, u64) {
        let e = &self.entries[index];
        (&self.files[e.file].0, e.offset)
    }

    /// # Errors
    /// [`Error::Model`] when the tensor holds integers or another type without weights.
    pub fn check_decodable(&self, index: usize) -> Result<()> {
        let e = &self.entries[index];
        match &e.encoding {
            Encoding::Other(dtype) => Err(Error::model(
                Place::file(&self.files[e.file].0).tensor(&e.name).at(e.offset),
                format!("has the type {dtype}, which cannot be decoded to weights"),
                "Convert from the original F32, F16, BF16 or F8 checkpoint",
            )),
            _ => Ok(()),
        }
    }

    /// Decodes the elements `start .. start + out.len()`. For a block type the run must begin and end at
    /// block boundaries.
    pub fn read_f32(&self, index: usize, start: u64, out: &mut [f32], raw: &mut Vec<u8>) -> Result<()> {
        let e = &self.entries[index];
        match &e.encoding {
            // F32 lands in place on a little-endian machine; the decoder handles the others.
            Encoding::Element(ty) => {
                raw.resize(out.len() * ty.bytes(), 0);
                self.read_raw(index, start * ty.bytes() as u64, raw)?;
                decode::decode_row(*ty, raw, out);
            }
            Encoding::Block(ty) => {
                let first = ty.row_bytes(start).expect("runs are cut at block boundaries");
                let bytes = ty.row_bytes(out.len() as u64).expect("runs are cut at block boundaries");
                raw.resize(bytes as usize, 0);
                self.read_raw(index, first, raw)?;
                quant::dequantize(*ty, raw, out);
            }
            Encoding::Other(_) => self.check_decodable(index)?,
        }
        Ok(())
    }

    /// Reads the bytes `first ..` of a tensor.
    pub fn read_raw(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let e = &self.entries[index];
        debug_assert!(first + out.len() as u64 <= e.bytes);
        let (path, file) = &self.files[e.file];
        file.read_exact_at(out, e.offset + first).map_err(|source| Error::Io {
            place: Place::file(path).tensor(&e.name).at(e.offset + first),
            action: "read weights",
            source,
            fix: "The file changed or the disk failed while it was read: check it and run again",
        })
    }
}
