//! Where weights come from. The shards of a checkpoint, the parts of a GGUF, or a container are one table of tensors. Any
//! run of the elements of a tensor can be read, decoded to f32.
//!
//! Local files are read at offsets and not mapped into memory; `docs/decisions/0002-reading.md` has the measurement. A file that
//! is cut short while it is read gives an error instead of a signal, and the pages of the file do not count as memory of
//! the process.
//!
//! ```no_run
//! use srd_rs::formats::safetensors::Checkpoint;
//! use srd_rs::model::source::Source;
//!
//! let source = Source::from_checkpoint(&Checkpoint::open("Llama-3.2-1B")?);
//! let index = source.find("model.norm.weight").expect("the model has a norm");
//! let mut values = vec![0.0; source.shape(index)[0] as usize];
//! source.read_f32(index, 0, &mut values, &mut Vec::new())?;
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::dtype::{GgmlType, SourceType};
use crate::error::{Error, Place, Result};
use crate::formats::axm::Container;
use crate::formats::axm::shards::ShardReader;
use crate::formats::decode;
use crate::formats::gguf::Gguf;
use crate::formats::safetensors::Checkpoint;
use crate::input::ahead::Extent as RemoteExtent;
use crate::input::remote::Reading;
use crate::input::{Input, ReadAt};
use crate::noise::Noise;
use crate::os::{self, FileId};
use crate::quant;
use crate::quant::residual::{self, Bits, Run};

/// How the bytes of a source tensor are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoding {
    /// Values of a plain type.
    Element(SourceType),
    /// Blocks of a quantized type.
    Block(GgmlType),
    /// Blocks of a container whose residual plane is added to them.
    Restored(GgmlType),
    /// A type that holds no weights, for example integers. The type has a name and is never decoded.
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

    /// Returns the name of the type.
    pub fn name(&self) -> &str {
        match self {
            Self::Element(SourceType::F64) => "F64",
            Self::Element(SourceType::F32) => "F32",
            Self::Element(SourceType::F16) => "F16",
            Self::Element(SourceType::BF16) => "BF16",
            Self::Element(SourceType::F8E4M3) => "F8_E4M3",
            Self::Element(SourceType::F8E5M2) => "F8_E5M2",
            Self::Block(ty) | Self::Restored(ty) => ty.name(),
            Self::Other(name) => name,
        }
    }

    /// Returns the GGUF type that holds exactly these bytes.
    pub fn as_ggml(&self) -> Option<GgmlType> {
        match self {
            Self::Element(SourceType::F32) => Some(GgmlType::F32),
            Self::Element(SourceType::F16) => Some(GgmlType::F16),
            Self::Element(SourceType::BF16) => Some(GgmlType::BF16),
            Self::Block(ty) => Some(*ty),
            Self::Other(name) => GgmlType::COPIED.into_iter().find(|ty| ty.name() == name),
            _ => None,
        }
    }
}

/// What a pass over the weights will read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The bytes of the tensor with this index.
    Tensor(usize),
    /// Part `number` of `count` equal parts of a tensor: an expert of a stack.
    Part {
        /// Index of the tensor.
        tensor: usize,
        /// Number of the part, counted from 0.
        number: u64,
        /// Number of parts.
        count: u64,
    },
    /// The whole file with this index.
    File(usize),
}

#[derive(Debug)]
struct Entry {
    name: String,
    /// Row-major shape, outermost dimension first.
    shape: Vec<u64>,
    encoding: Encoding,
    file: usize,
    at: Extent,
    bytes: u64,
    residual: Option<ResidualPlane>,
}

/// Where the bytes of a tensor's plane are.
#[derive(Debug)]
enum Extent {
    /// In one run of the file, from this offset.
    Whole(u64),
    /// In the shards of a container with these numbers.
    Shards(Range<usize>),
}

/// The residual plane of a tensor, and how much of the residual is added.
#[derive(Debug)]
struct ResidualPlane {
    at: Extent,
    bits: Bits,
    noise: Noise,
    alpha: f32,
    /// Weights in a row.
    row: u64,
}

/// The tensors of a model under the names that their files give them.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    files: Vec<Input>,
    entries: Vec<Entry>,
    /// The shards, if the source is a container.
    shards: Option<ShardReader>,
    by_name: HashMap<String, usize>,
}

impl Source {
    /// Reads the shards of a checkpoint: the very files that were checked.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Self {
        let files = checkpoint.shards().to_vec();
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
                at: Extent::Whole(t.offset),
                bytes: t.bytes,
                residual: None,
            })
            .collect();
        Self::new(checkpoint.path(), files, entries)
    }

    /// Adds the tensors of an adapter, with `prefix` before their names.
    ///
    /// # Errors
    /// [`Error::Model`] when the source has a tensor of such a name.
    pub fn with_adapter(mut self, adapter: &Checkpoint, prefix: &str) -> Result<Self> {
        let other = Self::from_checkpoint(adapter);
        let files = self.files.len();
        self.files.extend(other.files);
        for mut entry in other.entries {
            entry.name.insert_str(0, prefix);
            entry.file += files;
            if self.by_name.insert(entry.name.clone(), self.entries.len()).is_some() {
                let place = Place::file(adapter.path()).tensor(&entry.name);
                let what = "has the name of a tensor of the model";
                return Err(Error::model(place, what, "Rename the tensor of the model"));
            }
            self.entries.push(entry);
        }
        Ok(self)
    }

    /// Reads the parts of a GGUF.
    ///
    /// # Errors
    /// [`Error::Io`] when no more files can be opened.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let files = gguf.parts().iter().map(|p| p.input()).collect::<Result<Vec<_>>>()?;
        let entries = gguf
            .tensors()
            .map(|(part, t)| Entry {
                name: t.name.clone(),
                shape: t.ne.iter().rev().copied().collect(),
                encoding: Encoding::of_ggml(t.ty),
                file: part,
                at: Extent::Whole(t.offset),
                bytes: t.bytes,
                residual: None,
            })
            .collect();
        Ok(Self::new(gguf.path(), files, entries))
    }

    /// The tensors of a container as base + `alpha` * residual. The caller has verified the container; every shard is
    /// compared with the manifest once more when it is read.
    ///
    /// # Errors
    /// [`Error::Io`] when no more files can be opened.
    pub fn from_container(container: &Container, alpha: f32) -> Result<Self> {
        let (seed, layout) = (container.header.seed, &container.layout);
        let entries = container.header.tensors.iter().zip(&layout.first).map(|(t, &first)| {
            let (ty, shards) = (t.ggml_type(), t.base.shards as usize);
            let residual_first = first + shards;
            let residual = t.bits().filter(|_| alpha != 0.0).map(|bits| ResidualPlane {
                at: Extent::Shards(residual_first..residual_first + shards),
                bits,
                noise: Noise::new(seed, &t.name),
                alpha,
                row: t.ne[0],
            });
            Entry {
                name: t.name.clone(),
                shape: t.ne.iter().rev().copied().collect(),
                encoding: if residual.is_some() { Encoding::Restored(ty) } else { Encoding::of_ggml(ty) },
                file: 0,
                at: Extent::Shards(first..residual_first),
                bytes: t.base.bytes,
                residual,
            }
        });
        let entries = entries.collect();
        let open = |e| Error::io(&container.path, "open", e);
        let file = container.file.try_clone().map_err(open)?;
        let size = file.metadata().map_err(open)?.len();
        let files = vec![Input::local(&container.path, file, size)];
        let mut source = Self::new(&container.path, files, entries);
        source.shards = Some(ShardReader::new(container)?);
        Ok(source)
    }

    fn new(path: &Path, files: Vec<Input>, entries: Vec<Entry>) -> Self {
        let by_name = entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
        Self { path: path.to_path_buf(), files, entries, shards: None, by_name }
    }

    /// Reads the local files through maps.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be mapped.
    pub fn mapped(mut self) -> Result<Self> {
        let map = |input: Input| {
            let path = input.path.clone();
            input.mapped().map_err(|e| Error::io(path, "map", e))
        };
        self.files = self.files.into_iter().map(map).collect::<Result<_>>()?;
        Ok(self)
    }

    /// Returns what the user named: the folder or the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the ids of the local files that are read, to tell whether an output is one of them.
    ///
    /// # Errors
    /// [`Error::Io`] when the system does not say.
    pub fn file_ids(&self) -> Result<Vec<FileId>> {
        let local = self.files.iter().filter_map(|f| Some((f, f.as_local()?)));
        local.map(|(f, file)| os::file_id(file).map_err(|e| Error::io(&f.path, "read", e))).collect()
    }

    /// Returns the files that are read.
    pub fn files(&self) -> &[Input] {
        &self.files
    }

    /// Begins to fetch remote tensors in the order in which they will be read. At most `memory` bytes wait to be read. What is
    /// read again later is kept in a temporary file in the folder `keep_in`. Returns `None` if no tensor is remote. Fetching ends when
    /// the [`Reading`] is dropped.
    pub fn read_ahead(
        &self,
        order: impl IntoIterator<Item = Wanted>,
        memory: u64,
        keep_in: Option<&Path>,
    ) -> Option<Reading> {
        let mut extents = Vec::new();
        let mut remote = None;
        for wanted in order {
            let (file, start, bytes) = match wanted {
                Wanted::Tensor(index) => {
                    let e = &self.entries[index];
                    (e.file, self.start(e), e.bytes)
                }
                Wanted::Part { tensor, number, count } => {
                    let e = &self.entries[tensor];
                    let cut = |number: u64| {
                        (u128::from(e.bytes) * u128::from(number) / u128::from(count.max(1))) as u64
                    };
                    let (from, to) = (cut(number.min(count)), cut((number + 1).min(count)));
                    (e.file, self.start(e) + from, to - from)
                }
                Wanted::File(file) => (file, 0, self.files[file].size),
            };
            // An adapter is a local file beside the remote ones.
            let Some(input) = self.files[file].as_remote() else { continue };
            extents.push(RemoteExtent { file: input.index(), start, bytes });
            remote.get_or_insert_with(|| input.remote());
        }
        remote.map(|remote| remote.read_ahead(&extents, memory, keep_in))
    }

    /// Returns whether a file is read over the network.
    pub fn is_remote(&self) -> bool {
        self.files.iter().any(|file| file.as_remote().is_some())
    }

    /// Ends all reads of remote files, also those that wait. They fail with [`Error::Interrupted`].
    pub fn cancel(&self) {
        self.files.iter().filter_map(Input::as_remote).for_each(|file| file.remote().cancel());
    }

    /// Returns the index in [`Source::files`] of the file of a tensor.
    pub fn file_of(&self, index: usize) -> usize {
        self.entries[index].file
    }

    /// Returns the index of the tensor with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Returns the number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the name of a tensor.
    pub fn name(&self, index: usize) -> &str {
        &self.entries[index].name
    }

    /// Returns the row-major shape of a tensor, outermost dimension first.
    pub fn shape(&self, index: usize) -> &[u64] {
        &self.entries[index].shape
    }

    /// Returns how the bytes of a tensor are read.
    pub fn encoding(&self, index: usize) -> &Encoding {
        &self.entries[index].encoding
    }

    /// Returns the size of a tensor in bytes. The residual plane is not counted.
    pub fn bytes(&self, index: usize) -> u64 {
        self.entries[index].bytes
    }

    /// Returns the file of a tensor, and the offset of its first byte in the file.
    pub fn position(&self, index: usize) -> (&Path, u64) {
        let e = &self.entries[index];
        (&self.files[e.file].path, self.start(e))
    }

    /// Checks that the tensor can be decoded.
    ///
    /// # Errors
    /// [`Error::Model`] when the tensor holds integers or another type without weights.
    pub fn check_decodable(&self, index: usize) -> Result<()> {
        let e = &self.entries[index];
        match &e.encoding {
            Encoding::Other(dtype) => Err(Error::model(
                Place::file(&self.files[e.file].path).tensor(&e.name).at(self.start(e)),
                format!("has the type {dtype}, which cannot be decoded to weights"),
                "Convert from the original F32, F16, BF16 or F8 checkpoint",
            )),
            _ => Ok(()),
        }
    }

    /// Decodes the elements `start .. start + out.len()` of a tensor. For a block type the run must begin and end at block
    /// boundaries. `raw` is a buffer that is kept between calls.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Model`] when the tensor cannot be decoded.
    ///
    /// # Panics
    /// If the run is not inside the tensor or does not end at block boundaries.
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
            Encoding::Restored(ty) => self.restore(index, *ty, start, out, raw)?,
            Encoding::Other(_) => self.check_decodable(index)?,
        }
        Ok(())
    }

    /// Reads bytes of a tensor, beginning at byte `first`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read.
    ///
    /// # Panics
    /// If the bytes are not inside the tensor.
    pub fn read_raw(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let e = &self.entries[index];
        assert!(
            first.checked_add(out.len() as u64).is_some_and(|end| end <= e.bytes),
            "a run lies in its tensor"
        );
        self.read_extent(e, &e.at, first, out)
    }

    /// The offset in its file of byte 0 of a tensor.
    fn start(&self, e: &Entry) -> u64 {
        match (&e.at, &self.shards) {
            (Extent::Whole(offset), _) => *offset,
            (Extent::Shards(numbers), shards) => shards.as_ref().map_or(0, |s| s.offset(numbers.start)),
        }
    }

    fn read_extent(&self, e: &Entry, extent: &Extent, first: u64, out: &mut [u8]) -> Result<()> {
        let offset = match (extent, &self.shards) {
            (Extent::Whole(offset), _) => offset + first,
            (Extent::Shards(numbers), Some(shards)) => return shards.read(numbers.clone(), first, out),
            (Extent::Shards(_), None) => unreachable!("only the tensors of a container are in shards"),
        };
        let input = &self.files[e.file];
        input.read_exact_from(offset, out).map_err(|source| {
            let place = Place::file(&input.path).tensor(&e.name).at(offset);
            let fix = "The file changed or the disk failed while it was read: check it and run again";
            Error::read(place, "read weights", source, fix)
        })
    }

    /// Decodes base + alpha * residual. The run begins and ends at block boundaries.
    fn restore(
        &self,
        index: usize,
        ty: GgmlType,
        start: u64,
        out: &mut [f32],
        raw: &mut Vec<u8>,
    ) -> Result<()> {
        let e = &self.entries[index];
        let r = e.residual.as_ref().expect("a restored tensor has a residual");
        let n = out.len() as u64;
        let bytes = ty.row_bytes(n).expect("runs are cut at block boundaries");
        raw.resize(bytes as usize, 0);
        self.read_raw(index, ty.row_bytes(start).expect("runs are cut at block boundaries"), raw)?;
        quant::dequantize(ty, raw, out);
        let mut steps = vec![0.0; out.len() / residual::SUB];
        residual::steps(ty, raw, &mut steps);
        let plane = |n: u64| r.bits.plane_bytes(n).expect("blocks are whole sub-blocks");
        raw.resize(plane(n) as usize, 0);
        self.read_extent(e, &r.at, plane(start), raw)?;
        let mut lost = vec![0.0; out.len()];
        let run = Run { noise: &r.noise, bits: r.bits, start, row: r.row, steps: &steps };
        residual::decode(run, raw, &mut lost);
        out.iter_mut().zip(&lost).for_each(|(v, lost)| *v += r.alpha * lost);
        Ok(())
    }
}
