//! Opens what a sidecar is measured from: a GGUF, or the header of the GGUF that a signed container holds.
//!
//! ```no_run
//! use std::path::Path;
//!
//! let (gguf, fingerprint) = srd_rs::met::open::open(Path::new("model.axm"))?;
//! println!("{} tensors, from the container {fingerprint:?}", gguf.tensors().count());
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::io::{Read, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::formats::axm::layout::{GgufPart, MAGIC};
use crate::formats::axm::reader::{Container, parse_gguf_header};
use crate::formats::gguf::{Gguf, GgufFile};
use crate::formats::source::open_regular;
use crate::sign::to_hex;

/// Opens a GGUF with all of its parts, or a container. For a container, the result is the GGUF that `extract` gives, of which only the header
/// can be read, and the fingerprint of the container.
///
/// # Errors
/// [`Error::Io`], [`Error::Format`] or [`Error::Verification`] when the file cannot be read or is not sound;
/// [`Error::Model`] when a part of a split GGUF is missing.
pub fn open(path: &Path) -> Result<(Gguf, Option<String>)> {
    let mut magic = Vec::with_capacity(MAGIC.len());
    let (file, _) = open_regular(path)?;
    file.take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(|e| Error::io(path, "read", e))?;
    if magic == MAGIC { within(path) } else { Ok((Gguf::open(path)?, None)) }
}

/// Opens the GGUF that a container holds.
fn within(path: &Path) -> Result<(Gguf, Option<String>)> {
    let container = Container::open(path)?;
    let part = |(index, part): (usize, &GgufPart)| {
        let bytes = container.gguf_header(index)?;
        let header = parse_gguf_header(&bytes, part.bytes, path)?;
        let mut file = tempfile::tempfile().map_err(|e| Error::io(std::env::temp_dir(), "write to", e))?;
        file.write_all(&bytes).map_err(|e| Error::io(std::env::temp_dir(), "write to", e))?;
        Ok(GgufFile { path: path.with_file_name(&part.name), file, header })
    };
    let parts = container.header.files.iter().enumerate().map(part).collect::<Result<Vec<_>>>()?;
    Ok((Gguf::from_parts(path, parts)?, Some(to_hex(&container.fingerprint))))
}
