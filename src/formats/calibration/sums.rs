//! The digests of the parts of a calibration, in a file beside it: a part is verified when it is used, without reading the others.
//!
//! The header of a calibration has one digest of all data. So whoever uses a part of them, as a conversion that goes on does, would
//! have to read all of them. The file `.NAME.sums` is made once, when all data were read and found to be those of the header.
//!
//! ```text
//! sha256:DIGEST OF THE CALIBRATION
//! SHA-256 of the first part
//! ...
//! SHA-256 of the lines before
//! ```

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::formats::sink;
use crate::formats::source::open_regular;
use crate::input::ReadAt;
use crate::sign::{Hash, from_hex, sha256, to_hex};

/// Characters of a digest, with the end of the line.
const LINE: usize = 65;

fn path_of(calibration: &Path) -> PathBuf {
    sink::hidden(calibration, "sums")
}

/// Reads the digests of the parts of a calibration, of which there are `count`. `None` if the file is not there, damaged or that of
/// another calibration.
pub fn read(calibration: &Path, digest: &str, count: usize) -> Option<Vec<Hash>> {
    let (file, size) = open_regular(&path_of(calibration)).ok()?;
    let first = format!("{digest}\n");
    if size != (first.len() + (count + 1) * LINE) as u64 {
        return None;
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_from(0, &mut bytes).ok()?;
    let (lines, check) = bytes.split_at(bytes.len() - LINE);
    if check != format!("{}\n", to_hex(&sha256(&[lines]))).as_bytes() {
        return None;
    }
    let text = std::str::from_utf8(lines).ok()?.strip_prefix(&first)?;
    text.lines().map(from_hex).collect()
}

/// Writes the digests of the parts of a calibration.
///
/// # Errors
/// As [`sink::write_file`].
pub fn write(calibration: &Path, digest: &str, parts: &[Hash]) -> Result<()> {
    let mut text = format!("{digest}\n");
    parts.iter().for_each(|part| text.extend([&*to_hex(part), "\n"]));
    let check = to_hex(&sha256(&[text.as_bytes()]));
    text.extend([&*check, "\n"]);
    sink::write_file(&path_of(calibration), text.as_bytes(), true)
}
