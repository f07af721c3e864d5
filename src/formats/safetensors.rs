//! safetensors checkpoints: one file, or a folder of them.
//!
//! A file is an 8-byte little-endian header length, a JSON header (name -> dtype, shape and byte
//! range in the data section) and the data section, which the ranges must cover exactly. Only
//! headers are read here; weights are read through [`Checkpoint::read_at`] or a map of the shard's
//! open file.

mod folder;
mod header;

pub use header::read_header;

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::dtype::SourceType;
use crate::error::{Error, Place, Result};
use crate::formats::source;

/// Largest header the format allows, in bytes.
pub const MAX_HEADER: u64 = 100_000_000;

/// Most dimensions a GGUF tensor can have, and so a weight that is to become one.
const MAX_WEIGHT_DIMS: usize = 4;

/// Element type as the header names it. Every type of the format is known by name and size; only
/// those with a [`SourceType`] can be decoded to weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtype {
    name: &'static str,
    bits: u32,
}

/// `(name in the header, bits per element)`: the whole list of the format.
const DTYPES: &[(&str, u32)] = &[
    ("BF16", 16),
    ("F32", 32),
    ("F16", 16),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("F64", 64),
    ("C64", 64),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F4", 4),
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("U16", 16),
    ("I16", 16),
    ("U32", 32),
    ("I32", 32),
    ("U64", 64),
    ("I64", 64),
];

impl Dtype {
    /// The type of that name in a header (`BF16`, `I64`, ...).
    pub fn from_name(name: &str) -> Option<Self> {
        DTYPES.iter().find(|d| d.0 == name).map(|&(name, bits)| Self { name, bits })
    }

    pub fn name(self) -> &'static str {
        self.name
    }

    /// The type as weights; `None` for integers, complex numbers and the floats nobody stores weights in.
    pub fn source_type(self) -> Option<SourceType> {
        SourceType::from_safetensors(self.name)
    }

    /// Bytes of a tensor of that shape; `None` on overflow or where they are not whole.
    fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        let bits = elements.checked_mul(u64::from(self.bits))?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

/// A tensor of the checkpoint: where its bytes lie and what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: Dtype,
    /// Row-major, outermost dimension first.
    pub shape: Vec<u64>,
    /// Index into [`Checkpoint::shards`].
    pub shard: usize,
    /// Of the first byte, from the start of the shard's file.
    pub offset: u64,
    /// Length in bytes; all of them lie inside the file.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements. Cannot overflow: it was checked when the header was read.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A file of the checkpoint, held open.
#[derive(Debug)]
pub struct Shard {
    pub path: PathBuf,
    pub file: File,
    /// Bytes in the file when it was opened.
    pub size: u64,
}

/// A safetensors checkpoint whose headers have been read and checked. No weight has been touched.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, ordered by name.
    by_name: Vec<u32>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, or a folder that holds `model.safetensors`, else
    /// `model.safetensors.index.json`, else one other model in safetensors files.
    ///
    /// # Errors
    /// [`Error::Io`] if something cannot be read, [`Error::Format`] if a header or the index is not
    /// sound or the two disagree, [`Error::Model`] if there is no safetensors model to be found.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let found = folder::find(path)?;
        let mut checkpoint =
            Self { path: path.to_path_buf(), shards: Vec::new(), tensors: Vec::new(), by_name: Vec::new() };
        for file in &found.shards {
            checkpoint.add_shard(file)?;
        }
        checkpoint.index_names()?;
        if let Some(index) = &found.index {
            index.check(&checkpoint)?;
        }
        Ok(checkpoint)
    }

    /// What was passed to [`Checkpoint::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shard by shard in the order of [`Checkpoint::shards`]; by name within a shard, the order in
    /// which the safetensors library lists a file and in which llama.cpp's converter walks it.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.by_name.binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at] as usize])
    }

    /// The place of a tensor, for messages.
    pub fn place(&self, tensor: &TensorInfo) -> Place {
        Place::file(&self.shards[tensor.shard].path).tensor(&tensor.name)
    }

    /// The type to decode a tensor's weights from.
    ///
    /// # Errors
    /// [`Error::Model`] if the tensor cannot be a weight: integer or other undecodable dtype, no
    /// elements, or more dimensions than a GGUF tensor has.
    pub fn weight_type(&self, tensor: &TensorInfo) -> Result<SourceType> {
        let refuse = |what: String, fix: &str| Err(Error::model(self.place(tensor), what, fix));
        if tensor.elements() == 0 {
            let what = format!("has no elements (shape {:?})", tensor.shape);
            return refuse(what, "Save the checkpoint again with its weights gathered");
        }
        if tensor.shape.len() > MAX_WEIGHT_DIMS {
            let what = format!("has {} dimensions, GGUF has at most {MAX_WEIGHT_DIMS}", tensor.shape.len());
            return refuse(what, "This tensor cannot be converted");
        }
        match tensor.dtype.source_type() {
            Some(ty) => Ok(ty),
            None => refuse(
                format!("holds {}, which are not weights that can be quantised", tensor.dtype.name),
                "Use the unquantised checkpoint, in F32, F16, BF16 or F8",
            ),
        }
    }

    /// Reads bytes of a tensor; `offset` counts from its first byte.
    ///
    /// # Errors
    /// [`Error::Usage`] if the range is not inside the tensor, [`Error::Io`] if reading fails,
    /// [`Error::Format`] if the file has become shorter since it was opened.
    pub fn read_at(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = &self.shards[tensor.shard].file;
        source::read_tensor_at(file, self.place(tensor), (tensor.offset, tensor.bytes), offset, buf)
    }

    fn add_shard(&mut self, path: &Path) -> Result<()> {
        let (file, size) = source::open_regular(path)?;
        let mut tensors = read_header(&file, size, path)?;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        for tensor in &mut tensors {
            tensor.shard = self.shards.len();
        }
        self.tensors.append(&mut tensors);
        self.shards.push(Shard { path: path.to_path_buf(), file, size });
        Ok(())
    }

    fn index_names(&mut self) -> Result<()> {
        // Headers are limited to 100 MB, an entry takes more than 40 bytes: far below 2^32 in any
        // number of shards that could be held open.
        let count = u32::try_from(self.tensors.len()).map_err(|_| {
            Error::model(Place::file(&self.path), "holds 2^32 or more tensors", "This is not a model")
        })?;
        let name = |i: u32| self.tensors[i as usize].name.as_str();
        let mut order: Vec<u32> = (0..count).collect();
        order.sort_by(|&a, &b| name(a).cmp(name(b)));
        if let Some(pair) = order.windows(2).find(|p| name(p[0]) == name(p[1])) {
            let (a, b) = (&self.tensors[pair[0] as usize], &self.tensors[pair[1] as usize]);
            let other = self.shards[a.shard.min(b.shard)].path.display();
            let place = Place::file(&self.shards[a.shard.max(b.shard)].path).tensor(&a.name);
            return Err(Error::format(place, format!("is also in {other}"), "Remove one of the two files"));
        }
        self.by_name = order;
        Ok(())
    }
}
