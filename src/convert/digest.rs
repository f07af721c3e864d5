//! The source digest of the provenance keys: one SHA-256 that changes when any config, tokenizer or
//! shard header changes. It does not read the weights: a container's shards sign those.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::axm::layout::SourceFile;
use crate::formats::safetensors::Checkpoint;
use crate::sign::{Hash, Sha256, sha256, to_hex};

/// A part of a file that goes into the digest.
pub struct Part {
    pub path: PathBuf,
    /// How much of the file is hashed: its header; `None` for all of it.
    pub header_bytes: Option<u64>,
}

/// The headers of a checkpoint's shards. Tensor data begins where the header ends, without a hole.
pub fn checkpoint_headers(checkpoint: &Checkpoint) -> Vec<Part> {
    let mut ends: Vec<u64> = checkpoint.shards().iter().map(|s| s.size).collect();
    for tensor in checkpoint.tensors() {
        ends[tensor.shard] = ends[tensor.shard].min(tensor.offset);
    }
    let shards = checkpoint.shards().iter().zip(ends);
    shards.map(|(s, end)| Part { path: s.path.clone(), header_bytes: Some(end) }).collect()
}

/// The parts with their SHA-256, sorted by name.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read.
pub fn describe(parts: &[Part]) -> Result<Vec<SourceFile>> {
    let mut files = parts.iter().map(describe_part).collect::<Result<Vec<_>>>()?;
    files.sort_by_cached_key(line);
    Ok(files)
}

/// `sha256:` and the SHA-256, in hex, of one line per part, sorted:
/// `name TAB file size TAB sha256 of the hashed bytes LF`.
pub fn source_digest(files: &[SourceFile]) -> String {
    let mut lines: Vec<_> = files.iter().map(line).collect();
    lines.sort();
    format!("sha256:{}", to_hex(&sha256(&[lines.concat().as_bytes()])))
}

fn line(file: &SourceFile) -> String {
    format!("{}\t{}\t{}\n", file.name, file.bytes, file.sha256)
}

fn describe_part(part: &Part) -> Result<SourceFile> {
    let name = part.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut file = File::open(&part.path).map_err(|e| Error::io(&part.path, "open", e))?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(|e| Error::io(&part.path, "read", e))?;
    file.rewind().map_err(|e| Error::io(&part.path, "read", e))?;
    let hashed_bytes = part.header_bytes.unwrap_or(bytes);
    let sha256 = to_hex(&hash_reader(file.take(hashed_bytes), &part.path)?);
    Ok(SourceFile { bytes, hashed_bytes, name, sha256 })
}

/// SHA-256 of a whole file.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn hash_file(path: &Path) -> Result<Hash> {
    hash_reader(File::open(path).map_err(|e| Error::io(path, "open", e))?, path)
}

fn hash_reader(mut reader: impl Read, path: &Path) -> Result<Hash> {
    let mut hasher = Sha256::default();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer).map_err(|e| Error::io(path, "read", e))? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_follows_the_documented_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let expected =
            format!("sha256:{}", to_hex(&sha256(&[format!("config.json\t3\t{abc}\n").as_bytes()])));
        let digest = || source_digest(&describe(&[Part { path: path.clone(), header_bytes: None }]).unwrap());
        assert_eq!(digest(), expected);
        std::fs::write(&path, "abd").unwrap();
        assert_ne!(digest(), expected);
    }
}
