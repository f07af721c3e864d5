//! Files that hold a header and tensors at planned offsets: a GGUF, the parts of a split GGUF, or a safetensors file.

use crate::convert::destination::{Destination, Finished, UnitWriter};
use crate::convert::planned::{Plan, PlannedFile};
use crate::convert::source_hashes::SourceHash;
use crate::convert::units::Unit;
use crate::error::Result;
use crate::formats::sink::{Left, Sink};
use crate::progress::Progress;
use crate::sign::{Hash, Sha256};

/// The planned files, while they are written.
pub struct Files {
    sinks: Vec<Sink>,
    /// Whether the units are hashed, so that a later run can prove them.
    hashed: bool,
}

impl Files {
    /// Creates the files of `plan` and writes their headers. `left` says what an earlier run has left; without it the files are
    /// not kept when the run is interrupted.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn create(plan: &Plan, overwrite: bool, left: Option<Left>) -> Result<Self> {
        let create = |(i, f): (usize, &PlannedFile)| {
            let sink = match left {
                Some(left) => Sink::resume(&f.path, f.bytes, overwrite, left)?,
                None => Sink::create(&f.path, f.bytes, overwrite)?,
            };
            if left.is_some_and(|left| left != Left::Nothing) {
                let tensors = plan.tensors.iter().filter(|t| t.file == i);
                let tensors = tensors.map(|t| t.offset..t.offset + t.bytes);
                let header = 0..f.header.len() as u64;
                sink.clear_except(tensors.chain([header]).collect(), f.bytes)?;
            }
            sink.write_at(&f.header, 0)?;
            Ok(sink)
        };
        let sinks = plan.files.iter().enumerate().map(create).collect::<Result<_>>()?;
        Ok(Self { sinks, hashed: left.is_some() })
    }

    /// The offset of weight `at` of the tensor of a unit.
    pub fn offset(unit: &Unit, at: u64) -> u64 {
        unit.tensor.offset + unit.tensor.ty.row_bytes(at).expect("units are cut at block boundaries")
    }
}

impl Destination for Files {
    fn begin<'u>(&'u self, unit: &Unit<'u>) -> Box<dyn UnitWriter + 'u> {
        let start = Self::offset(unit, unit.start);
        let hasher = self.hashed.then(Sha256::default);
        Box::new(Run { sink: &self.sinks[unit.tensor.file], start, offset: start, hasher })
    }

    fn resume<'u>(
        &'u self,
        unit: &Unit<'u>,
        done: u64,
        hashes: &mut dyn Iterator<Item = Hash>,
        progress: &Progress,
    ) -> Result<Option<Box<dyn UnitWriter + 'u>>> {
        let sink = &self.sinks[unit.tensor.file];
        let (start, offset) = (Self::offset(unit, unit.start), Self::offset(unit, unit.start + done));
        let hasher = sink.hasher_of(start..offset, progress)?;
        let is_same = hashes.next() == Some(hasher.clone().finish());
        Ok(is_same
            .then(|| -> Box<dyn UnitWriter> { Box::new(Run { sink, start, offset, hasher: Some(hasher) }) }))
    }

    fn finish(self: Box<Self>, _: &[SourceHash]) -> Result<Finished> {
        Ok(Finished { sinks: self.sinks, sealed: None })
    }
}

/// A unit in its file.
struct Run<'u> {
    sink: &'u Sink,
    /// Offset of the unit in the file.
    start: u64,
    /// Offset of the next byte in the file.
    offset: u64,
    hasher: Option<Sha256>,
}

impl UnitWriter for Run<'_> {
    fn write(&mut self, blocks: &[u8]) -> Result<()> {
        self.sink.write_at(blocks, self.offset)?;
        self.offset += blocks.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(blocks);
        }
        Ok(())
    }

    fn hashes(&mut self) -> Result<Vec<Hash>> {
        Ok(self.hasher.iter().cloned().map(Sha256::finish).collect())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Hash>> {
        self.sink.start_writeback(self.start..self.offset);
        self.hashes()
    }
}
