//! Reads bytes at an offset of a file. The errors name the file and the offset.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::input::{Input, ReadAt};
use crate::os;

/// Reads bytes that were inside the source when the source was opened. Messages name `place`.
pub(super) fn read_at<S: ReadAt + ?Sized>(source: &S, place: Place, at: u64, buf: &mut [u8]) -> Result<()> {
    source.read_exact_from(at, buf).map_err(|e| read_error(place.at(at), e))
}

/// Reads bytes of a tensor that has `bytes` bytes and begins at `start` of the file. `offset` counts from there.
pub(super) fn read_tensor_at<S: ReadAt + ?Sized>(
    file: &S,
    place: Place,
    (start, bytes): (u64, u64),
    offset: u64,
    buf: &mut [u8],
) -> Result<()> {
    let inside = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= bytes);
    if !inside {
        let what = format!("{place}: {} bytes at {offset} were asked for, it has {bytes}", buf.len());
        return Err(Error::usage(what, "Read within the tensor"));
    }
    // Cannot overflow: the tensor is inside its file.
    read_at(file, place, start + offset, buf)
}

fn read_error(place: Place, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        let what = "the file has become shorter while it was read";
        return Error::format(place, what, "Wait until it is complete and try again");
    }
    Error::read(place, "read", source, "Check the disk and try again")
}

/// Opens a regular file for reading and returns its size in bytes. Anything else is refused without waiting: opening a
/// pipe would wait for the program that writes to it, and a device may never end.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let failed = |e| Error::io(path, "open", e);
    let refuse = || Err(Error::model(Place::file(path), "is not a regular file", "Give a model file"));
    // Some devices react to being opened, so the path is asked first.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return refuse();
    }
    let file = os::open_without_waiting(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if found.is_file() { Ok((file, found.len())) } else { refuse() }
}

/// Returns a text that names a file and the state that it is in, without reading the file: while the text is the same, so
/// are the bytes. None where the system cannot promise so, where the file was changed a moment ago, and where it cannot be
/// opened.
pub fn file_identity(path: &Path) -> Option<String> {
    open_regular(path).ok().and_then(|(file, _)| os::identity(&file).ok()?)
}

/// Opens a regular file as an input, as [`open_regular`] does.
pub(crate) fn open_input(path: &Path) -> Result<Input> {
    let (file, size) = open_regular(path)?;
    Ok(Input::local(path, file, size))
}
