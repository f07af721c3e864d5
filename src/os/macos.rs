//! The promises of [`crate::os`] on macOS.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use rustix::fs::{CWD, FallocateFlags, RenameFlags};
use rustix::io::Errno;

pub use super::unix::{
    FileId, cpu_time, create_private_folder, file_id, file_id_of, free_bytes, lock_map, not_through_links,
    open_without_waiting, page_size, read_exact_at, secrecy, set_readers, sync_folder, write_all_at,
};
use super::{Readers, Usage};

/// See [`crate::os`]. Whether a program can set the time of change (`setattrlist`) has not been tried.
pub fn identity(_: &File) -> io::Result<Option<String>> {
    Ok(None)
}

/// See [`crate::os`]. macOS has no call that takes the pages of a file out of memory.
pub const CAN_EVICT: bool = false;

/// See [`crate::os`]. macOS has no files without a name.
pub fn create_unnamed(_: &Path, _: Readers) -> Option<File> {
    None
}

/// See [`crate::os`].
pub fn link_unnamed(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// See [`crate::os`].
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // The file system cannot rename so; a hard link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTSUP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(e) => Err(e.into()),
    }
}

/// See [`crate::os`]. The library calls `F_FULLFSYNC`: a plain fsync leaves the bytes in the cache of the disk.
pub fn sync_file(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// See [`crate::os`]. macOS has no such hint.
pub fn start_writeback(_: &File, _: Range<u64>) {}

/// See [`crate::os`].
pub fn reserve(file: &File, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size.max(1)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => file.set_len(size),
        Err(e) => Err(e.into()),
    }
}

/// See [`crate::os`].
pub fn advise(file: &File, range: Range<u64>, usage: Usage) {
    if usage == Usage::Soon {
        let _ = rustix::fs::fcntl_rdadvise(file, range.start, range.end - range.start);
    }
}

/// See [`crate::os`]. Since macOS 10.15 the answers of mincore are about the maps of the process alone.
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
    // SAFETY: zeros are a valid `rusage`, and the call fills the one that it gets.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a value that lives for the call.
    match unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } {
        // macOS counts bytes, unlike other systems.
        0 => usage.ru_maxrss as u64,
        _ => 0,
    }
}
