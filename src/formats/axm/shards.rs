//! Reads the weights of a container for a conversion. Every byte that is returned belongs to a shard whose SHA-256 was
//! compared with the manifest after the shard was read, so that a file which changes after its verification is refused.
//!
//! ```no_run
//! use srd_rs::formats::axm::Container;
//! use srd_rs::formats::axm::shards::ShardReader;
//!
//! let container = Container::open("model.axm")?;
//! let shards = ShardReader::new(&container)?;
//! let base = 0..container.header.tensors[0].base.shards as usize;
//! let mut first_bytes = [0; 144];
//! shards.read(base, 0, &mut first_bytes)?;
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::{Plane, Shard};
use super::reader::{Container, as_verification, not_signed};
use crate::error::{Error, Place, Result};
use crate::formats::source;
use crate::sign::{Hash, Sha256};

/// The number of bytes that are read and hashed at a time, so that the bytes are hashed while they are in a near cache.
const WINDOW: usize = 256 << 10;

/// The shards of a container with their signed hashes. A thread that reads keeps one whole shard of each plane in
/// memory, which are about 11 MiB for a container of this crate.
#[derive(Debug)]
pub struct ShardReader {
    /// Tells the shards of this reader from those of another reader.
    id: u64,
    path: PathBuf,
    file: File,
    shards: Vec<(Shard, Hash)>,
    tensors: Vec<String>,
}

/// A shard in memory.
#[derive(Default)]
struct Loaded {
    /// The reader and the number of the shard.
    shard: Option<(u64, usize)>,
    bytes: Vec<u8>,
}

thread_local! {
    /// The last shard of each plane that this thread has read.
    static LOADED: RefCell<[Loaded; 2]> = RefCell::default();
}

impl ShardReader {
    /// Makes a reader of the file that `container` has open.
    ///
    /// # Errors
    /// [`Error::Io`] when the process has too many open files.
    pub fn new(container: &Container) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let file = container.file.try_clone().map_err(|e| Error::io(&container.path, "open", e))?;
        let shards = container.layout.shards.iter().enumerate();
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            path: container.path.clone(),
            file,
            shards: shards.map(|(number, shard)| (*shard, *container.shard_hash(number))).collect(),
            tensors: container.header.tensors.iter().map(|t| t.name.clone()).collect(),
        })
    }

    /// Returns the offset in the file of shard `number`.
    pub fn offset(&self, number: usize) -> u64 {
        self.shards[number].0.offset
    }

    /// Fills `out` with the bytes of a plane from byte `first`. `plane` has the numbers of the plane's shards, all of
    /// which except the last have the same length.
    ///
    /// # Errors
    /// [`Error::Verification`] when a shard is not the signed one, [`Error::Io`] when the file cannot be read.
    pub fn read(&self, plane: Range<usize>, first: u64, out: &mut [u8]) -> Result<()> {
        let length = self.shards[plane.start].0.length.max(1);
        LOADED.with_borrow_mut(|loaded| {
            let mut done = 0;
            while done < out.len() {
                let at = first + done as u64;
                let number = plane.start + (at / length) as usize;
                let slot = &mut loaded[usize::from(self.shards[number].0.plane == Plane::Residual)];
                if slot.shard != Some((self.id, number)) {
                    slot.shard = None;
                    self.load(number, &mut slot.bytes)?;
                    slot.shard = Some((self.id, number));
                }
                let bytes = &slot.bytes[(at % length) as usize..];
                let n = bytes.len().min(out.len() - done);
                out[done..done + n].copy_from_slice(&bytes[..n]);
                done += n;
            }
            Ok(())
        })
    }

    /// Reads a whole shard and compares its SHA-256.
    fn load(&self, number: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let (shard, signed) = &self.shards[number];
        let place = Place::file(&self.path).tensor(&self.tensors[shard.tensor as usize]);
        bytes.resize(shard.length as usize, 0);
        let (mut hasher, mut at) = (Sha256::default(), shard.offset);
        for piece in bytes.chunks_mut(WINDOW) {
            source::read_at(&self.file, place.clone(), at, piece).map_err(as_verification)?;
            hasher.update(piece);
            at += piece.len() as u64;
        }
        match hasher.finish() == *signed {
            true => Ok(()),
            false => Err(not_signed(place, shard, number)),
        }
    }
}
