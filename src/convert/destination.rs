//! What a conversion writes to. A destination gets the blocks of every unit and ends as files that are ready to be named.
//!
//! A new destination is one type that implements [`Destination`], and one line in [`crate::convert::outputs`].

use crate::convert::report::Sealed;
use crate::convert::source_hashes::SourceHash;
use crate::convert::units::{Chunk, Unit};
use crate::error::Result;
use crate::formats::sink::Sink;
use crate::progress::Progress;
use crate::sign::Hash;

/// Takes the blocks of a conversion, unit by unit. Several threads write different units at the same time, in any order.
pub trait Destination: Sync {
    /// Begins a unit.
    fn begin<'u>(&'u self, unit: &Unit<'u>) -> Box<dyn UnitWriter + 'u>;

    /// Goes on with a unit of which an earlier run has written the first `done` weights, if their bytes have the hashes that
    /// [`UnitWriter::hashes`] or [`UnitWriter::finish`] returned in that run. The writer takes the weights behind them. Returns
    /// `None` if the bytes are other ones, as a destination does that leaves nothing to go on with.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from reading; [`Error::Interrupted`](crate::Error::Interrupted) when the run was
    /// cancelled.
    fn resume<'u>(
        &'u self,
        unit: &Unit<'u>,
        done: u64,
        hashes: &mut dyn Iterator<Item = Hash>,
        progress: &Progress,
    ) -> Result<Option<Box<dyn UnitWriter + 'u>>> {
        let _ = (unit, done, hashes, progress);
        Ok(None)
    }

    /// Completes the output after the last unit. `sources` has the hashes of the whole source files, if they were made.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from writing.
    fn finish(self: Box<Self>, sources: &[SourceHash]) -> Result<Finished>;
}

/// Writes one unit. A writer that is dropped before [`UnitWriter::finish`] leaves the unit incomplete; the output is then
/// never named.
pub trait UnitWriter {
    /// Sees a chunk just after its conversion, while the chunk is in a near cache. The bytes themselves come with
    /// [`UnitWriter::write`].
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from writing.
    fn see(&mut self, chunk: &Converted) -> Result<()> {
        let _ = chunk;
        Ok(())
    }

    /// Writes the next blocks of the unit: about a megabyte, because every system call costs time.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from writing.
    fn write(&mut self, blocks: &[u8]) -> Result<()>;

    /// Writes what is held back, and returns the SHA-256 of each run of bytes that was written for the unit so far. All chunks that
    /// were seen are written. A destination that is not kept when the run is interrupted may return none.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from writing.
    fn hashes(&mut self) -> Result<Vec<Hash>>;

    /// Completes the unit, and returns the same hashes, now of the whole unit.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from writing.
    fn finish(self: Box<Self>) -> Result<Vec<Hash>>;
}

/// A converted chunk.
pub struct Converted<'a> {
    /// Which weights the chunk holds.
    pub chunk: Chunk<'a>,
    /// The blocks of the chunk.
    pub blocks: &'a [u8],
    /// The weights that the blocks were made from. Empty where the blocks are a copy of the source.
    pub weights: &'a [f32],
}

/// A complete output.
pub struct Finished {
    /// The files, which have no names yet.
    pub sinks: Vec<Sink>,
    /// What the container is known by, if the output is one.
    pub sealed: Option<Sealed>,
}
