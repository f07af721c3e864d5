//! Files that hold a header and tensors at planned offsets: a GGUF, the parts of a split GGUF, or a safetensors file.

use crate::convert::destination::{Destination, Finished, UnitWriter};
use crate::convert::planned::PlannedFile;
use crate::convert::source_hashes::SourceHash;
use crate::convert::units::Unit;
use crate::error::Result;
use crate::formats::sink::Sink;

/// The planned files, while they are written.
pub struct Files {
    sinks: Vec<Sink>,
}

impl Files {
    /// Creates the files and writes their headers.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn create(files: &[PlannedFile], overwrite: bool) -> Result<Self> {
        let create = |f: &PlannedFile| {
            let sink = Sink::create(&f.path, f.bytes, overwrite)?;
            sink.write_at(&f.header, 0)?;
            Ok(sink)
        };
        Ok(Self { sinks: files.iter().map(create).collect::<Result<_>>()? })
    }
}

impl Destination for Files {
    fn begin<'u>(&'u self, unit: &Unit<'u>) -> Box<dyn UnitWriter + 'u> {
        let before = unit.tensor.ty.row_bytes(unit.start).expect("units are cut at block boundaries");
        let start = unit.tensor.offset + before;
        Box::new(Run { sink: &self.sinks[unit.tensor.file], start, offset: start })
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
}

impl UnitWriter for Run<'_> {
    fn write(&mut self, blocks: &[u8]) -> Result<()> {
        self.sink.write_at(blocks, self.offset)?;
        self.offset += blocks.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.sink.start_writeback(self.start..self.offset);
        Ok(())
    }
}
