//! Writes a calibration file. The moments of an input are written when they are complete. The header names all inputs and is
//! written last, into space that was left for it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::header::{self, Info, Input, Quantized};
use super::reader::Calibration;
use super::state::{State, States};
use crate::error::{Error, Place, Result};
use crate::formats::safetensors::{Dtype, TensorInfo};
use crate::formats::sink::Sink;
use crate::progress::Progress;
use crate::sign::{Sha256, to_hex};

/// Bytes of the header without its inputs.
const HEADER_BASE: u64 = 8 << 10;
/// Bytes of the header for a tensor: its name twice (moments, input), shape, offsets, and the JSON around them.
const HEADER_TENSOR: u64 = 512;
/// Bytes of the header for a quantized tensor: its name twice, type, costs, offsets, and the JSON around them.
const HEADER_QUANTIZED: u64 = 768;
/// Bytes of the header for an expert: its count.
const HEADER_EXPERT: u64 = 24;
/// Floats that are turned into bytes at a time.
const PIECE: usize = 64 << 10;

/// Where the file is written.
#[derive(Debug, Clone)]
pub enum Output {
    /// The file gets its name when it is complete.
    File {
        /// Path of the complete file.
        path: PathBuf,
        /// Replaces an existing file.
        overwrite: bool,
    },
    /// The file gets its name when it is complete, and replaces an existing file. Until then what is complete is kept beside it, so that
    /// a pass that is killed can go on. The name of the file has to say what the file holds: see [`Writer::resume`].
    Kept {
        /// Path of the complete file.
        path: PathBuf,
    },
    /// The file never gets a name. It exists for as long as it is open.
    Unnamed {
        /// A path in the folder of the file.
        beside: PathBuf,
    },
}

impl Output {
    fn path(&self) -> PathBuf {
        match self {
            Self::File { path, .. } | Self::Kept { path } => path.clone(),
            Self::Unnamed { beside } => {
                let name = beside.file_name().unwrap_or_default().to_string_lossy();
                beside.with_file_name(format!(".{name}.{}.calibration", std::process::id()))
            }
        }
    }
}

/// A calibration file that is not complete. The file vanishes when the writer is dropped before [`Writer::finish`].
pub struct Writer {
    sink: Sink,
    path: PathBuf,
    named: bool,
    /// Whether what is complete is kept.
    keeps: bool,
    states: States,
    info: Info,
    /// Bytes of the JSON of the header, with padding.
    reserved: u64,
    /// Bytes of data that are written.
    at: u64,
    hash: Sha256,
    inputs: Vec<Input>,
    /// Number of the inputs that [`Writer::written`] has returned.
    returned: usize,
    /// Where the moments of the others are.
    places: Vec<TensorInfo>,
    quantized: Vec<Quantized>,
    entries: Map<String, Value>,
}

impl Writer {
    /// Creates the file. At most `tensors` tensors will be named, with at most `experts` experts in all of them, and at most
    /// `quantized` quantized tensors.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn create(
        output: &Output,
        info: Info,
        tensors: usize,
        experts: usize,
        quantized: usize,
    ) -> Result<Self> {
        let path = output.path();
        let reserved = HEADER_BASE + tensors as u64 * HEADER_TENSOR + experts as u64 * HEADER_EXPERT;
        let reserved = reserved + quantized as u64 * HEADER_QUANTIZED;
        let (sink, keeps) = match output {
            Output::File { overwrite, .. } => (Sink::create(&path, 0, *overwrite)?, false),
            Output::Unnamed { beside } => (Sink::create_unnamed(beside)?, false),
            // Where another process makes the same file, this one makes it as well, and keeps nothing.
            Output::Kept { .. } => match Sink::keep(&path)? {
                Some(sink) => (sink, true),
                None => (Sink::create(&path, 0, true)?, false),
            },
        };
        Ok(Self {
            sink,
            states: States::beside(&path),
            path,
            named: !matches!(output, Output::Unnamed { .. }),
            keeps,
            info,
            reserved: reserved.next_multiple_of(8),
            at: 0,
            hash: Sha256::default(),
            inputs: Vec::new(),
            returned: 0,
            places: Vec::new(),
            quantized: Vec::new(),
            entries: Map::new(),
        })
    }

    /// Adds an input. Its moments have to follow with [`Writer::append`], expert by expert. `tokens` has one count, or for a
    /// stack of experts (`stacked`) one count for each expert.
    pub fn start(&mut self, input: Input, n: usize, block: usize, stacked: bool) {
        let experts = input.tokens.len() as u64;
        let bytes = experts * n as u64 * block as u64 * 4;
        let matrix = [n as u64, block as u64];
        let shape = if stacked { [&[experts], &matrix[..]].concat() } else { matrix.to_vec() };
        let (name, dtype) = (input.moments_name(), Dtype::F32);
        self.entries.insert(
            name.clone(),
            json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [self.at, self.at + bytes]}),
        );
        let offset = 8 + self.reserved + self.at;
        self.places.push(TensorInfo { name, dtype, shape, shard: 0, offset, bytes });
        self.inputs.push(input);
    }

    /// Appends moments.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full.
    pub fn append(&mut self, values: &[f32]) -> Result<()> {
        let mut bytes = Vec::with_capacity(values.len().min(PIECE) * 4);
        for piece in values.chunks(PIECE) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes()));
            self.write(&bytes)?;
        }
        Ok(())
    }

    /// Returns the moments that were added since the last call, as a calibration without a digest. Its file is the one that is being
    /// written.
    ///
    /// # Errors
    /// [`Error::Io`] when the process has too many files open.
    pub fn written(&mut self) -> Result<Calibration> {
        let inputs = self.inputs[self.returned..].iter().cloned();
        let added = inputs.zip(self.places.drain(..)).collect();
        self.returned = self.inputs.len();
        Calibration::of_inputs(self.sink.reader()?, &self.path, self.info.clone(), added)
    }

    /// Adds a quantized tensor.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full.
    pub fn add_quantized(&mut self, quantized: Quantized, blocks: &[u8]) -> Result<()> {
        let end = self.at + blocks.len() as u64;
        self.entries.insert(
            quantized.blocks_name(),
            json!({"dtype": "U8", "shape": [blocks.len()], "data_offsets": [self.at, end]}),
        );
        self.quantized.push(quantized);
        self.write(blocks)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.sink.write_at(bytes, 8 + self.reserved + self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Returns whether what is complete is kept.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// Keeps how far the pass is, with the `values` that the pass needs to go on and `note`, which says what they are. All of it has
    /// to follow from what the name of the file stands for.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk.
    pub fn keep(&mut self, note: Value, values: &[&[f32]]) -> Result<()> {
        let state = State {
            info: self.info.clone(),
            reserved: self.reserved,
            written: self.at,
            written_sha256: to_hex(&self.hash.clone().finish()),
            inputs: self.inputs.clone(),
            errors: self.quantized.iter().map(|q| [q.error.to_bits(), q.energy.to_bits()]).collect(),
            quantized: self.quantized.clone(),
            entries: self.entries.clone(),
            note,
        };
        self.states.keep(state, values)
    }

    /// Takes what a pass that was killed has kept: the note and the values of the last [`Writer::keep`]. Returns `None` if there is
    /// nothing that is whole. The caller knows by the name of the file that the pass was the same.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after [`Progress::cancel`].
    pub fn resume(&mut self, progress: &Progress) -> Result<Option<(Value, Vec<Vec<f32>>)>> {
        if !self.keeps {
            return Ok(None);
        }
        let start = 8 + self.reserved;
        for (state, values) in self.states.read() {
            let is_same = state.info == self.info
                && state.reserved == self.reserved
                && state.errors.len() == state.quantized.len();
            // A pass that has written nothing has a file of no bytes.
            if !is_same || state.written > 0 && self.sink.len()? < start + state.written {
                continue;
            }
            let hash = self.sink.hasher_of(start..start + state.written, progress)?;
            if to_hex(&hash.clone().finish()) != state.written_sha256 {
                continue;
            }
            (self.at, self.hash, self.inputs, self.entries) =
                (state.written, hash, state.inputs, state.entries);
            self.quantized = state.quantized;
            (self.returned, self.places) = (self.inputs.len(), Vec::new());
            for (of, &[error, energy]) in self.quantized.iter_mut().zip(&state.errors) {
                (of.error, of.energy) = (f64::from_bits(error), f64::from_bits(energy));
            }
            return Ok(Some((state.note, values)));
        }
        self.states.forget();
        Ok(None)
    }

    /// Returns the file that keeps the gradients of the tokens, where what is complete is kept.
    pub fn gradients_file(&self) -> Option<&Path> {
        self.keeps.then_some(self.states.gradients.as_path())
    }

    /// Returns which tokens the statistics come from.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Ends a pass that failed. The file is kept if the pass can go on from it.
    pub fn failed(self) {
        if self.keeps && !self.states.exist() {
            self.sink.discard();
        }
    }

    /// Writes the header, gives the file its name (if it is to have one), and reads the header back.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk; [`Error::Model`] when nothing was added.
    pub fn finish(mut self) -> Result<Calibration> {
        if self.inputs.is_empty() && self.quantized.is_empty() {
            let fix = "Report this: the forward pass reached no matrix";
            return Err(Error::model(Place::file(&self.path), "would hold no statistics", fix));
        }
        let data_sha256 = to_hex(&self.hash.clone().finish());
        let metadata = header::encode(&self.info, &self.inputs, &self.quantized, &data_sha256);
        let mut json = Map::new();
        json.insert("__metadata__".into(), Value::Object(metadata));
        json.append(&mut self.entries);
        let mut bytes = self.reserved.to_le_bytes().to_vec();
        bytes.extend(Value::Object(json).to_string().into_bytes());
        if bytes.len() as u64 > 8 + self.reserved {
            let what = format!("the header needs {} bytes, {} were kept for it", bytes.len(), self.reserved);
            return Err(Error::model(Place::file(&self.path), what, "Report this"));
        }
        bytes.resize(8 + self.reserved as usize, b' ');
        self.sink.write_at(&bytes, 0)?;
        self.sink.cut(8 + self.reserved + self.at)?;
        if !self.named {
            let path = self.path;
            return Calibration::from_file(self.sink.into_unnamed()?, &path);
        }
        self.sink.commit()?;
        if !self.keeps {
            return Calibration::open(&self.path);
        }
        self.states.remove();
        Calibration::open_kept(&self.path)
    }
}
