//! safetensors checkpoints: one file, or a folder of them.
//!
//! A file is the length of the header in 8 bytes (little endian), a JSON header (name, type, shape and byte range of each
//! tensor) and the data section, which the ranges must cover exactly. Only headers are read here; weights are read by
//! `model::source::Source`.
//!
//! ```no_run
//! use srd_rs::formats::safetensors::Checkpoint;
//!
//! let checkpoint = Checkpoint::open("Llama-3.2-1B")?;
//! for tensor in checkpoint.tensors() {
//!     println!("{} {:?} {}", tensor.name, tensor.shape, tensor.dtype.name());
//! }
//! # Ok::<(), srd_rs::Error>(())
//! ```

mod folder;
mod header;

pub use folder::{MAX_INDEX, VARIANTS};
pub use header::read_header;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dtype::SourceType;
use crate::error::{Error, Place, Result};
use crate::formats::{most_tensors, source};
use crate::input::Input;
use crate::input::remote::Remote;

/// Largest header in bytes that the format allows.
pub const MAX_HEADER: u64 = 100_000_000;

/// Most dimensions of a GGUF tensor, and so of a weight that becomes one.
const MAX_WEIGHT_DIMS: usize = 4;

/// Element type as the header names it. Every type of the format is known by name and size, but only types with a
/// [`SourceType`] can be decoded to weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtype {
    name: &'static str,
    bits: u32,
}

/// The name in the header and the bits of an element, for every type of the format.
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
    /// F32.
    pub const F32: Self = Self { name: "F32", bits: 32 };

    /// Returns the type with this name in a header, such as `BF16` or `I64`.
    pub fn from_name(name: &str) -> Option<Self> {
        DTYPES.iter().find(|d| d.0 == name).map(|&(name, bits)| Self { name, bits })
    }

    /// Returns the name of the type in a header.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Returns the type to decode weights from. `None` for integers, complex numbers and floats that hold no weights.
    pub fn source_type(self) -> Option<SourceType> {
        SourceType::from_safetensors(self.name)
    }

    /// Returns the bytes of a tensor of this shape. `None` on overflow, and where the bytes are not whole.
    fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        let bits = elements.checked_mul(u64::from(self.bits))?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

/// A tensor of the checkpoint: what its bytes are and where the bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name of the tensor.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Row-major shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Index into [`Checkpoint::shards`].
    pub shard: usize,
    /// Offset of the first byte from the start of the file.
    pub offset: u64,
    /// Size in bytes. All bytes lie inside the file.
    pub bytes: u64,
}

impl TensorInfo {
    /// Returns the number of elements. The product cannot overflow: the header was checked when it was read.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A tensor whose place is known: its name, the name of its type in a safetensors header, its shape, the name of its
/// file, and the offset of its first byte.
pub type Listed = (String, String, Vec<u64>, String, u64);

/// A safetensors checkpoint, whose headers have been read and checked. No weight has been read.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Input>,
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
        Self::open_found(path.as_ref(), None)
    }

    /// Opens a checkpoint whose weight files are remote. The folder `path` holds its small files, among them
    /// `model.safetensors.index.json` where the checkpoint has one. Headers are fetched, and no weight.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_remote(path: impl AsRef<Path>, remote: &Arc<Remote>) -> Result<Self> {
        Self::open_found(path.as_ref(), Some(remote))
    }

    fn open_found(path: &Path, remote: Option<&Arc<Remote>>) -> Result<Self> {
        let found = folder::find(path, remote)?;
        let mut checkpoint =
            Self { path: path.to_path_buf(), shards: Vec::new(), tensors: Vec::new(), by_name: Vec::new() };
        let mut bytes = 0u64;
        for input in found.open(remote)? {
            bytes = bytes.saturating_add(input.size);
            checkpoint.add_shard(input)?;
            let (count, most) = (checkpoint.tensors.len() as u64, most_tensors(bytes));
            if count > most {
                let what = format!("holds {count} tensors in {bytes} bytes; at most {most} are read");
                return Err(Error::format(Place::file(path), what, "Download the model again"));
            }
        }
        checkpoint.index_names()?;
        if let Some(index) = &found.index {
            index.check(&checkpoint)?;
        }
        Ok(checkpoint)
    }

    /// Makes a checkpoint of tensors whose places are known already, in files of the folder `path` that are not
    /// safetensors: PyTorch's archives, which have each tensor in one run of bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be opened, [`Error::Format`] if a tensor does not lie inside its file.
    pub fn from_listed(path: impl AsRef<Path>, listed: Vec<Listed>) -> Result<Self> {
        let path = path.as_ref();
        let mut checkpoint =
            Self { path: path.to_path_buf(), shards: Vec::new(), tensors: Vec::new(), by_name: Vec::new() };
        for (name, dtype, shape, file, offset) in listed {
            let file = path.join(file);
            let shard = match checkpoint.shards.iter().position(|s| s.path == file) {
                Some(shard) => shard,
                None => {
                    checkpoint.shards.push(source::open_input(&file)?);
                    checkpoint.shards.len() - 1
                }
            };
            let at = &checkpoint.shards[shard];
            let place = || Place::file(&at.path).tensor(&name);
            let Some(dtype) = Dtype::from_name(&dtype) else {
                return Err(Error::format(place(), format!("has the type {dtype}"), "Download it again"));
            };
            let bytes = dtype.tensor_bytes(&shape);
            let inside = bytes.and_then(|n| offset.checked_add(n)).is_some_and(|end| end <= at.size);
            let Some(bytes) = bytes.filter(|_| inside) else {
                return Err(Error::format(place(), "does not lie inside the file", "Download it again"));
            };
            checkpoint.tensors.push(TensorInfo { name, dtype, shape, shard, offset, bytes });
        }
        checkpoint.index_names()?;
        Ok(checkpoint)
    }

    /// Returns what was passed to [`Checkpoint::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the tensors, shard by shard in the order of [`Checkpoint::shards`], and by name within a shard. The safetensors
    /// library and llama.cpp's converter list a file in this order, too.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns the files in order.
    pub fn shards(&self) -> &[Input] {
        &self.shards
    }

    /// Returns the tensor with this name.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.by_name.binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at] as usize])
    }

    /// Returns the place of a tensor, for messages.
    pub fn place(&self, tensor: &TensorInfo) -> Place {
        Place::file(&self.shards[tensor.shard].path).tensor(&tensor.name)
    }

    /// Returns the type to decode the weights of a tensor from.
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
                format!("holds {}, which are not weights that can be quantized", tensor.dtype.name),
                "Use the unquantized checkpoint, in F32, F16, BF16 or F8",
            ),
        }
    }

    /// Reads bytes of a tensor, beginning at its byte `offset`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the range is not inside the tensor, [`Error::Io`] if reading fails,
    /// [`Error::Format`] if the file has become shorter since it was opened.
    pub fn read_at(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = &self.shards[tensor.shard];
        source::read_tensor_at(file, self.place(tensor), (tensor.offset, tensor.bytes), offset, buf)
    }

    fn add_shard(&mut self, input: Input) -> Result<()> {
        let mut tensors = read_header(&input, input.size, &input.path)?;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        for tensor in &mut tensors {
            tensor.shard = self.shards.len();
        }
        self.tensors.append(&mut tensors);
        self.shards.push(input);
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
