//! Writes a calibration file input by input: moments go out as they are complete, the header, which needs to
//! know all of them, last, into room that was left for it.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::header::{self, Info, Input};
use super::reader::Calibration;
use crate::error::{Error, Place, Result};
use crate::formats::sink::Sink;
use crate::sign::{Sha256, to_hex};

/// Header bytes beside those of the inputs.
const HEADER_BASE: u64 = 8 << 10;
/// Header bytes of a tensor: its name twice (moments, input), shape, offsets, and JSON around them.
const HEADER_TENSOR: u64 = 512;
/// Header bytes of an expert: its count.
const HEADER_EXPERT: u64 = 24;
/// Floats that are turned into bytes at a time.
const PIECE: usize = 64 << 10;

/// Where the file goes.
#[derive(Debug, Clone)]
pub enum Output {
    /// Named when it is complete.
    File { path: PathBuf, overwrite: bool },
    /// Never named: it lives in the folder of this path for as long as it is open.
    Unnamed { beside: PathBuf },
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

/// A calibration file in the making. Dropped before [`Writer::finish`], it vanishes.
pub struct Writer {
    sink: Sink,
    path: PathBuf,
    named: bool,
    info: Info,
    /// Bytes of the header's JSON, padding included.
    room: u64,
    /// Bytes of data so far.
    at: u64,
    hash: Sha256,
    inputs: Vec<Input>,
    entries: Map<String, Value>,
}

impl Writer {
    /// `tensors` and `experts`: at most so many tensors will be named, and so many experts in all of them.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn create(output: &Output, info: Info, tensors: usize, experts: usize) -> Result<Self> {
        let path = output.path();
        let overwrite = matches!(output, Output::File { overwrite: true, .. });
        let room = HEADER_BASE + tensors as u64 * HEADER_TENSOR + experts as u64 * HEADER_EXPERT;
        let sink = Sink::create(&path, 0, overwrite)?;
        Ok(Self {
            sink,
            path,
            named: matches!(output, Output::File { .. }),
            info,
            room: room.next_multiple_of(8),
            at: 0,
            hash: Sha256::default(),
            inputs: Vec::new(),
            entries: Map::new(),
        })
    }

    /// Adds an input; [`Writer::append`] of its moments, expert by expert, has to follow. `tokens` has one count, or
    /// for a stack of experts (`stacked`) one each.
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

    /// # Errors
    /// [`Error::Io`] when the disk is full.
    pub fn append(&mut self, values: &[f32]) -> Result<()> {
        let mut bytes = Vec::with_capacity(values.len().min(PIECE) * 4);
        for piece in values.chunks(PIECE) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes()));
            self.hash.update(&bytes);
            self.sink.write_at(&bytes, 8 + self.room + self.at)?;
            self.at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Writes the header, gives the file its name where it is to have one, and reads it back.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk; [`Error::Model`] when nothing was added.
    pub fn finish(mut self) -> Result<Calibration> {
        if self.inputs.is_empty() {
            let fix = "Report this: the forward pass reached no matrix";
            return Err(Error::model(Place::file(&self.path), "would hold no statistics", fix));
        }
        let data_sha256 = to_hex(&self.hash.clone().finish());
        let metadata = header::encode(&self.info, &self.inputs, &data_sha256);
        let mut json = Map::new();
        json.insert("__metadata__".into(), Value::Object(metadata));
        json.append(&mut self.entries);
        let mut bytes = self.room.to_le_bytes().to_vec();
        bytes.extend(Value::Object(json).to_string().into_bytes());
        if bytes.len() as u64 > 8 + self.room {
            let what = format!("the header needs {} bytes, {} were kept for it", bytes.len(), self.room);
            return Err(Error::model(Place::file(&self.path), what, "Report this"));
        }
        bytes.resize(8 + self.room as usize, b' ');
        self.sink.write_at(&bytes, 0)?;
        if !self.named {
            let path = self.path;
            return Calibration::from_file(self.sink.into_unnamed()?, &path);
        }
        self.sink.commit()?;
        Calibration::open(&self.path)
    }
}
