//! The source digest: one SHA-256 that changes when any config file, tokenizer file or shard header of a checkpoint
//! changes. The weights are not read for it, because a container's shards sign the converted weights.

use std::path::Path;

use crate::error::Result;
use crate::formats::axm::layout::SourceFile;
use crate::formats::gguf::{Gguf, GgufFile};
use crate::formats::safetensors::Checkpoint;
use crate::formats::source::open_input;
use crate::input::Input;
use crate::progress::Progress;
use crate::sign::file::hash_range;
use crate::sign::{sha256, to_hex};

/// A file that goes into the digest, or its header.
pub struct Part {
    /// The open file.
    pub input: Input,
    /// The number of bytes that are hashed, for a weight file its header; `None` for the whole file.
    pub header_bytes: Option<u64>,
}

/// The headers of a checkpoint's shards. The tensor data begins where the header ends, without a hole.
pub fn checkpoint_headers(checkpoint: &Checkpoint) -> Vec<Part> {
    let mut ends: Vec<u64> = checkpoint.shards().iter().map(|s| s.size).collect();
    for tensor in checkpoint.tensors() {
        ends[tensor.shard] = ends[tensor.shard].min(tensor.offset);
    }
    let shards = checkpoint.shards().iter().zip(ends);
    shards.map(|(s, end)| Part { input: s.clone(), header_bytes: Some(end) }).collect()
}

/// The headers of the parts of a GGUF.
///
/// # Errors
/// [`crate::Error::Io`] when no more files can be opened.
pub fn gguf_headers(gguf: &Gguf) -> Result<Vec<Part>> {
    let part = |p: &GgufFile| Ok(Part { input: p.input()?, header_bytes: Some(p.data_offset) });
    gguf.parts().iter().map(part).collect()
}

/// The whole of a small file.
///
/// # Errors
/// [`crate::Error::Io`] when the file cannot be opened.
pub fn whole(path: &Path) -> Result<Part> {
    Ok(Part { input: open_input(path)?, header_bytes: None })
}

/// Hashes the parts and returns them sorted by name.
///
/// # Errors
/// [`crate::Error::Io`] when a file cannot be read.
pub fn describe(parts: &[Part]) -> Result<Vec<SourceFile>> {
    let mut files = parts.iter().map(describe_part).collect::<Result<Vec<_>>>()?;
    files.sort_by_cached_key(line);
    Ok(files)
}

/// Returns `sha256:` and the SHA-256, in hexadecimal digits, of one line for each part. The lines are sorted and have
/// the form
/// `name TAB file size TAB sha256 of the hashed bytes LF`.
pub fn source_digest(files: &[SourceFile]) -> String {
    let mut lines: Vec<_> = files.iter().map(line).collect();
    lines.sort();
    format!("sha256:{}", to_hex(&sha256(&[lines.concat().as_bytes()])))
}

/// Returns the digest of the model whose channels are scaled, from that of its source: its inputs are others.
pub fn with_scaled_channels(source_digest: &str) -> String {
    format!("sha256:{}", to_hex(&sha256(&[source_digest.as_bytes(), b" with scaled channels"])))
}

fn line(file: &SourceFile) -> String {
    format!("{}\t{}\t{}\n", file.name, file.bytes, file.sha256)
}

fn describe_part(part: &Part) -> Result<SourceFile> {
    let input = &part.input;
    let hashed_bytes = part.header_bytes.unwrap_or(input.size);
    let sha256 = to_hex(&hash_range(input, &input.path, 0..hashed_bytes, &Progress::default())?);
    Ok(SourceFile { bytes: input.size, file_sha256: None, hashed_bytes, name: input.name(), sha256 })
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
        let digest = || source_digest(&describe(&[whole(&path).unwrap()]).unwrap());
        assert_eq!(digest(), expected);
        std::fs::write(&path, "abd").unwrap();
        assert_ne!(digest(), expected);
    }
}
