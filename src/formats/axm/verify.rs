//! Verifies the shards of a container, or a GGUF that was made with it, on all cores.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::layout::{Plane, Shard};
use super::reader::{Container, DAMAGED, Expected, as_verification};
use crate::error::{Error, Place, Result};
use crate::formats::source;
use crate::progress::Progress;
use crate::sign::{Sha256, sha256, to_hex};
use crate::work;

/// The number of bytes that are read at a time.
const WINDOW: usize = 1 << 20;

impl Container {
    /// Returns the number of bytes that [`Container::verify`] reads.
    pub fn shard_bytes(&self) -> u64 {
        self.layout.shards.iter().map(|s| s.length).sum()
    }

    /// Fills `buf` with the bytes of a shard from byte `at` of the shard.
    ///
    /// # Errors
    /// [`Error::Verification`] when the file has become shorter, [`Error::Io`] when the file cannot be read.
    pub(crate) fn read_shard(&self, shard: &Shard, at: u64, buf: &mut [u8]) -> Result<()> {
        source::read_at(&self.file, self.place(shard), shard.offset + at, buf).map_err(as_verification)
    }

    /// Checks who sealed the container, every shard, and that only zeros lie between the shards, on `threads` threads.
    ///
    /// # Errors
    /// [`Error::Verification`] for the first shard in file order that is not the signed one;
    /// [`Error::Usage`] for a manifest file, which has no shards.
    pub fn verify(&self, expected: &Expected, threads: usize, progress: &Progress) -> Result<()> {
        self.authenticate(expected)?;
        if self.detached {
            let what = format!("{} is a manifest without shards", self.path.display());
            return Err(Error::usage(what, "Name the GGUF that the manifest belongs to as well"));
        }
        self.for_each_shard(threads, progress, |number, shard, buffer| {
            let read = |at: u64, buf: &mut [u8]| self.read_shard(shard, at, buf);
            self.check_shard(number, &read, buffer, progress)?;
            self.check_padding(number, buffer)
        })
    }

    /// Checks a GGUF, or its parts, against this container or manifest file: who sealed it, the GGUF's header, every
    /// tensor, and that only zeros lie between the tensors.
    ///
    /// # Errors
    /// [`Error::Verification`] for the first thing that is not the signed one; [`Error::Usage`] when there
    /// are more or fewer files than parts.
    pub fn verify_gguf(
        &self,
        paths: &[PathBuf],
        expected: &Expected,
        threads: usize,
        progress: &Progress,
    ) -> Result<()> {
        self.authenticate(expected)?;
        let parts = self.header.files.len();
        if paths.len() != parts {
            let what = format!("the container is of {parts} GGUF files, {} were named", paths.len());
            return Err(Error::usage(what, "Name each part of the GGUF, in order"));
        }
        let files = (0..parts).map(|i| self.open_part(i, &paths[i])).collect::<Result<Vec<_>>>()?;
        self.for_each_shard(threads, progress, |number, shard, buffer| {
            let tensor = &self.header.tensors[shard.tensor as usize];
            if shard.plane != Plane::Base {
                return Ok(());
            }
            let (path, file) = (&paths[tensor.file as usize], &files[tensor.file as usize]);
            let step = tensor.ggml_type().row_bytes(tensor.shard_weights.min(tensor.n_weights()));
            let start = tensor.offset + step.expect("the header is checked") * u64::from(shard.index);
            let place = || Place::file(path).tensor(&tensor.name);
            let read = |at: u64, buf: &mut [u8]| {
                source::read_at(file, place(), start + at, buf).map_err(as_verification)
            };
            self.check_shard(number, &read, buffer, progress).map_err(|e| match e {
                Error::Verification { what, fix, .. } => {
                    Error::Verification { place: place().at(start), what, fix }
                }
                other => other,
            })
        })?;
        files.iter().zip(paths).enumerate().try_for_each(|(i, (file, path))| self.check_gaps(i, file, path))
    }

    /// Opens a part of the GGUF and checks that its size and its header are the signed ones.
    fn open_part(&self, index: usize, path: &Path) -> Result<File> {
        let part = &self.header.files[index];
        let (file, size) = source::open_regular(path)?;
        let refuse = |what: String| Err(Error::verification(Place::file(path), what, DAMAGED));
        if size != part.bytes {
            return refuse(format!("has {size} bytes, the signed GGUF has {}", part.bytes));
        }
        let mut header = vec![0; part.header_bytes as usize];
        source::read_at(&file, Place::file(path), 0, &mut header)?;
        if to_hex(&sha256(&[&header])) != part.header_sha256 {
            return refuse(format!(
                "has another header than the signed GGUF (its first {} bytes)",
                header.len()
            ));
        }
        Ok(file)
    }

    /// Checks that only zeros lie between the tensors of a part.
    fn check_gaps(&self, index: usize, file: &File, path: &Path) -> Result<()> {
        let part = &self.header.files[index];
        let mut spans: Vec<(u64, u64)> = self
            .header
            .tensors
            .iter()
            .filter(|t| t.file as usize == index)
            .map(|t| (t.offset, t.offset + t.base.bytes))
            .collect();
        spans.sort_unstable();
        spans.push((part.bytes, part.bytes));
        let (mut at, mut buffer) = (part.header_bytes, Vec::new());
        for (start, end) in spans {
            let place = Place::file(path).at(at);
            if !zeros(file, &place, at..start.max(at), &mut buffer)? {
                return Err(Error::verification(
                    place,
                    "has bytes between tensors that are not zero",
                    DAMAGED,
                ));
            }
            at = end;
        }
        Ok(())
    }

    /// Calls `f(number, shard, buffer)` for all shards on `threads` threads. If several calls fail, the error of the
    /// first shard in file order is returned.
    pub(crate) fn for_each_shard(
        &self,
        threads: usize,
        progress: &Progress,
        f: impl Fn(usize, &Shard, &mut Vec<u8>) -> Result<()> + Sync,
    ) -> Result<()> {
        work::run(self.layout.shards.len(), threads, progress, |number, buffer, _| {
            f(number, &self.layout.shards[number], buffer)
        })
    }

    /// Checks that the SHA-256 of a shard is the one in the manifest.
    fn check_shard(
        &self,
        number: usize,
        read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
        buffer: &mut Vec<u8>,
        progress: &Progress,
    ) -> Result<()> {
        let shard = &self.layout.shards[number];
        let mut hasher = Sha256::default();
        let mut at = 0;
        while at < shard.length {
            progress.check()?;
            buffer.resize((shard.length - at).min(WINDOW as u64) as usize, 0);
            read(at, buffer)?;
            hasher.update(buffer);
            at += buffer.len() as u64;
            progress.add(buffer.len() as u64);
        }
        if hasher.finish() == *self.shard_hash(number) { Ok(()) } else { Err(self.not_signed(number)) }
    }

    /// Checks that only zeros lie between a shard and the next one. `buffer` is used for reading.
    ///
    /// # Errors
    /// [`Error::Verification`] for other bytes, [`Error::Io`] when the file cannot be read.
    pub(crate) fn check_padding(&self, number: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let shard = &self.layout.shards[number];
        let end = self.layout.shards.get(number + 1).map_or(self.layout.manifest_offset, |next| next.offset);
        let place = Place::file(&self.path).at(shard.offset + shard.length);
        if !zeros(&self.file, &place, shard.offset + shard.length..end, buffer)? {
            let tensor = &self.header.tensors[shard.tensor as usize].name;
            let what = format!(
                "has bytes behind shard {} of {} of the {} plane that are not zero",
                shard.index + 1,
                shard.count,
                shard.plane.name()
            );
            return Err(Error::verification(place.tensor(tensor), what, DAMAGED));
        }
        Ok(())
    }
}

/// Returns whether a range of a file holds zeros alone.
fn zeros(file: &File, place: &Place, range: std::ops::Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
    let mut at = range.start;
    while at < range.end {
        buffer.resize((range.end - at).min(WINDOW as u64) as usize, 0);
        source::read_at(file, place.clone(), at, buffer).map_err(as_verification)?;
        if buffer.iter().any(|&b| b != 0) {
            return Ok(false);
        }
        at += buffer.len() as u64;
    }
    Ok(true)
}
