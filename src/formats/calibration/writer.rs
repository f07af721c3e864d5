//! Writes a calibration file. The moments of an input are written when they are complete. The header names all inputs and is
//! written last, into space that was left for it.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::header::{self, Info, Input, Quantized};
use super::reader::Calibration;
use crate::error::{Error, Place, Result};
use crate::formats::sink::Sink;
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
    /// The file never gets a name. It exists for as long as it is open.
    Unnamed {
        /// A path in the folder of the file.
        beside: PathBuf,
    },
}

impl Output {
    fn path(&self) -> PathBuf {
        match self {
            Self::File { path, .. } => path.clone(),
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
    info: Info,
    /// Bytes of the JSON of the header, with padding.
    reserved: u64,
    /// Bytes of data that are written.
    at: u64,
    hash: Sha256,
    inputs: Vec<Input>,
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
        let overwrite = matches!(output, Output::File { overwrite: true, .. });
        let reserved = HEADER_BASE + tensors as u64 * HEADER_TENSOR + experts as u64 * HEADER_EXPERT;
        let reserved = reserved + quantized as u64 * HEADER_QUANTIZED;
        let sink = Sink::create(&path, 0, overwrite)?;
        Ok(Self {
            sink,
            path,
            named: matches!(output, Output::File { .. }),
            info,
            reserved: reserved.next_multiple_of(8),
            at: 0,
            hash: Sha256::default(),
            inputs: Vec::new(),
            quantized: Vec::new(),
            entries: Map::new(),
        })
    }

    /// Adds an input. Its moments have to follow with [`Writer::append`], expert by expert. `tokens` has one count, or for a
    /// stack of experts (`stacked`) one count for each expert.
    pub fn start(&mut self, input: Input, n: usize, block: usize, stacked: bool) {
        let floats = input.tokens.len() as u64 * n as u64 * block as u64;
        let shape = match stacked {
            true => json!([input.tokens.len(), n, block]),
            false => json!([n, block]),
        };
        let end = self.at + floats * 4;
        self.entries.insert(
            input.moments_name(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [self.at, end]}),
        );
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
        if !self.named {
            let path = self.path;
            return Calibration::from_file(self.sink.into_unnamed()?, &path);
        }
        self.sink.commit()?;
        Calibration::open(&self.path)
    }
}
