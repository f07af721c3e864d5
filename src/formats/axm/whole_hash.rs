//! The SHA-256 of a whole container or GGUF, for an attestation. The same pass that computes the hash checks every
//! byte, so that a file which changes after its verification cannot get a statement.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::layout::Plane;
use super::reader::{Container, DAMAGED, as_verification, check_metadata};
use crate::error::{Error, Place, Result};
use crate::formats::source::{self, open_regular};
use crate::progress::Progress;
use crate::sign::{Hash, Sha256, sha256, to_hex};

/// The number of bytes that are read at a time.
const WINDOW: usize = 1 << 20;

/// What a run of bytes of the file must be.
enum Run {
    /// The bytes are collected, and the caller checks them.
    Collected,
    /// The bytes are those of the shard with this number.
    Shard(usize),
    /// The bytes are zeros.
    Zeros,
}

impl Container {
    /// Returns the SHA-256 of the container or of the manifest file that is open, after checking every byte that went
    /// into the hash.
    ///
    /// # Errors
    /// [`Error::Verification`] when the file is no longer the one that was opened.
    pub fn whole_hash(&self, progress: &Progress) -> Result<Hash> {
        let layout = &self.layout;
        let mut runs = vec![(layout.data_offset, Run::Collected)];
        if !self.detached {
            for (number, shard) in layout.shards.iter().enumerate() {
                let end = layout.shards.get(number + 1).map_or(layout.manifest_offset, |next| next.offset);
                runs.push((shard.length, Run::Shard(number)));
                runs.push((end - shard.offset - shard.length, Run::Zeros));
            }
        }
        runs.push((layout.file_bytes - layout.manifest_offset, Run::Collected));
        let (hash, collected) = self.hash_runs(&self.file, &self.path, &runs, progress)?;
        // What was collected is the manifest file.
        self.check_detached(&collected)?;
        Ok(hash)
    }

    /// Checks that `bytes` are the manifest file of this container: everything but the shards. The seal is outside the
    /// fingerprint, and so the seals are compared as well.
    pub(super) fn check_detached(&self, bytes: &[u8]) -> Result<()> {
        let same = check_metadata(bytes, bytes.len() as u64, &self.path)? == self.fingerprint;
        if same && self.has_seal(bytes) {
            return Ok(());
        }
        let what = "was replaced or changed while it was verified";
        Err(Error::verification(Place::file(&self.path), what, DAMAGED))
    }

    /// Returns the SHA-256 of each part of the GGUF, after checking every byte that went into the hashes.
    ///
    /// # Errors
    /// [`Error::Verification`] when a part is not the one that this container signs.
    ///
    /// # Panics
    /// If there are more or fewer paths than parts: [`Container::verify_gguf`] comes first.
    pub fn whole_hash_of_gguf(&self, paths: &[PathBuf], progress: &Progress) -> Result<Vec<Hash>> {
        assert_eq!(paths.len(), self.header.files.len(), "one path for each part");
        paths.iter().enumerate().map(|(index, path)| self.part_hash(index, path, progress)).collect()
    }

    fn part_hash(&self, index: usize, path: &Path, progress: &Progress) -> Result<Hash> {
        let part = &self.header.files[index];
        let refuse = |what: &str| Err(Error::verification(Place::file(path), what, DAMAGED));
        let (file, size) = open_regular(path)?;
        if size != part.bytes {
            return refuse("has another length than the signed GGUF");
        }
        let mut tensors: Vec<_> =
            self.header.tensors.iter().enumerate().filter(|(_, t)| t.file as usize == index).collect();
        tensors.sort_by_key(|(_, t)| t.offset);
        let mut runs = vec![(part.header_bytes, Run::Collected)];
        let mut at = part.header_bytes;
        for (number, tensor) in tensors {
            // The GGUF header has been checked, so that tensors do not overlap.
            runs.push((tensor.offset - at, Run::Zeros));
            let first = self.layout.first[number];
            let base = &self.layout.shards[first..first + tensor.base.shards as usize];
            debug_assert!(base.iter().all(|shard| shard.plane == Plane::Base));
            runs.extend(base.iter().enumerate().map(|(i, shard)| (shard.length, Run::Shard(first + i))));
            at = tensor.offset + tensor.base.bytes;
        }
        runs.push((part.bytes - at, Run::Zeros));
        let (hash, header) = self.hash_runs(&file, path, &runs, progress)?;
        if to_hex(&sha256(&[&header])) != part.header_sha256 {
            return refuse("has another header than the signed GGUF");
        }
        Ok(hash)
    }

    /// Reads the runs one after another from the start of `file`. Returns the SHA-256 of everything and the collected
    /// bytes.
    fn hash_runs(
        &self,
        file: &File,
        path: &Path,
        runs: &[(u64, Run)],
        progress: &Progress,
    ) -> Result<(Hash, Vec<u8>)> {
        let (mut whole, mut collected, mut buffer, mut at) = (Sha256::default(), Vec::new(), Vec::new(), 0);
        for (length, run) in runs {
            let (end, mut own) = (at + length, Sha256::default());
            while at < end {
                progress.check()?;
                buffer.resize((end - at).min(WINDOW as u64) as usize, 0);
                source::read_at(file, Place::file(path), at, &mut buffer).map_err(as_verification)?;
                whole.update(&buffer);
                match run {
                    Run::Collected => collected.extend_from_slice(&buffer),
                    Run::Shard(_) => own.update(&buffer),
                    Run::Zeros if buffer.iter().all(|&b| b == 0) => {}
                    Run::Zeros => {
                        let what = "has bytes that are not zero where the format has zeros";
                        return Err(Error::verification(Place::file(path).at(at), what, DAMAGED));
                    }
                }
                at += buffer.len() as u64;
                progress.add(buffer.len() as u64);
            }
            if let Run::Shard(number) = run
                && own.finish() != *self.shard_hash(*number)
            {
                return Err(self.not_signed(*number));
            }
        }
        Ok((whole.finish(), collected))
    }
}
