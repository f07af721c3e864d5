//! The source digest of the provenance keys: one SHA-256 that changes when any config, tokenizer or
//! shard header changes. It does not read the weights: a container's shards sign those.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use crate::error::{Error, Result};
use crate::formats::safetensors::Checkpoint;

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

/// `sha256:` and the SHA-256, in hex, of one line per part, sorted by file name:
/// `name TAB file size TAB sha256 of the hashed bytes LF`.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read.
pub fn source_digest(parts: &[Part]) -> Result<String> {
    let mut lines = parts.iter().map(line).collect::<Result<Vec<_>>>()?;
    lines.sort();
    Ok(format!("sha256:{}", hex(ring::digest::digest(&SHA256, lines.concat().as_bytes()).as_ref())))
}

fn line(part: &Part) -> Result<String> {
    let name = part.path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = File::open(&part.path).map_err(|e| Error::io(&part.path, "open", e))?;
    let size = file.seek(SeekFrom::End(0)).map_err(|e| Error::io(&part.path, "read", e))?;
    file.rewind().map_err(|e| Error::io(&part.path, "read", e))?;
    let hash = hash_reader(file.take(part.header_bytes.unwrap_or(size)), &part.path)?;
    Ok(format!("{name}\t{size}\t{hash}\n"))
}

fn hash_reader(mut reader: impl Read, path: &Path) -> Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer).map_err(|e| Error::io(path, "read", e))? {
            0 => return Ok(hex(context.finish().as_ref())),
            n => context.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
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
        let expected = ring::digest::digest(&SHA256, format!("config.json\t3\t{abc}\n").as_bytes());
        let part = || Part { path: path.clone(), header_bytes: None };
        assert_eq!(source_digest(&[part()]).unwrap(), format!("sha256:{}", hex(expected.as_ref())));
        std::fs::write(&path, "abd").unwrap();
        assert_ne!(source_digest(&[part()]).unwrap(), format!("sha256:{}", hex(expected.as_ref())));
    }
}
