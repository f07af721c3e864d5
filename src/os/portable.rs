//! The promises of [`crate::os`] on a Unix system that has no file of its own here, with what POSIX offers.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

pub use super::unix::{
    FileId, cpu_time, create_private_folder, file_id, file_id_of, free_bytes, lock_map, not_through_links,
    open_without_waiting, page_size, read_exact_at, secrecy, set_readers, sync_folder, write_all_at,
};
use super::{Readers, Usage};

/// See [`crate::os`]. What other systems promise of their times is not known.
pub fn identity(_: &File) -> io::Result<Option<String>> {
    Ok(None)
}

/// See [`crate::os`].
pub const CAN_EVICT: bool = false;

/// See [`crate::os`].
pub fn create_unnamed(_: &Path, _: Readers) -> Option<File> {
    None
}

/// See [`crate::os`].
pub fn link_unnamed(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// See [`crate::os`]. A hard link does not replace. For a moment the file has both names.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from)
}

/// See [`crate::os`].
pub fn sync_file(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// See [`crate::os`].
pub fn start_writeback(_: &File, _: Range<u64>) {}

/// See [`crate::os`].
pub fn reserve(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size)
}

/// See [`crate::os`].
pub fn advise(_: &File, _: Range<u64>, _: Usage) {}

/// See [`crate::os`].
pub fn residency_is_reliable(_: &Path, _: &File) -> bool {
    false
}

/// See [`crate::os`].
pub fn resident_pages(_: &Mmap, _: u64, _: u64, _: &mut [u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// See [`crate::os`].
pub fn page_out(_: &Path, _: &File, _: &[Range<u64>]) -> u64 {
    0
}

/// See [`crate::os`].
pub fn peak_rss_bytes() -> u64 {
    0
}
