//! The promises of [`crate::os`] on Linux.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, Advice, AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Readers, Usage};

/// What tells files apart: device and inode.
pub type FileId = (u64, u64);

/// See [`crate::os`].
pub fn create_unnamed(folder: &Path, readers: Readers) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    // Without a procfs such a file could never be given a name.
    if !Path::new("/proc/self/fd").exists() {
        return None;
    }
    let mode = match readers {
        Readers::All => 0o666,
        Readers::Owner => 0o600,
    };
    rustix::fs::open(folder, flags, Mode::from_raw_mode(mode)).ok().map(File::from)
}

/// See [`crate::os`].
pub fn link_unnamed(file: &File, name: &Path) -> io::Result<()> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, from, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// See [`crate::os`].
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // The file system cannot rename so; a hard link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(e) => Err(e.into()),
    }
}

/// See [`crate::os`].
pub fn sync_file(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// See [`crate::os`].
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network and user-space file systems cannot sync a folder.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// See [`crate::os`].
pub fn start_writeback(file: &File, range: Range<u64>) {
    let (Ok(offset), Ok(bytes)) = (i64::try_from(range.start), i64::try_from(range.end - range.start)) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as `file` lives, and the call takes no pointer.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

/// See [`crate::os`].
pub fn reserve(file: &File, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size.max(1)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(size),
        Err(e) => Err(e.into()),
    }
}

/// See [`crate::os`].
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// See [`crate::os`].
pub fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buf, offset)
}

/// See [`crate::os`].
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// See [`crate::os`].
pub fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// See [`crate::os`].
pub fn open_without_waiting(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// See [`crate::os`].
pub fn advise(file: &File, range: Range<u64>, usage: Usage) {
    let advice = match usage {
        Usage::Random => Advice::Random,
        Usage::Soon => Advice::WillNeed,
        Usage::NotSoon => Advice::DontNeed,
    };
    if let Some(len) = NonZeroU64::new(range.end - range.start) {
        let _ = rustix::fs::fadvise(file, range.start, Some(len), advice);
    }
}

/// See [`crate::os`]. Linux tells the truth to a process that owns the file or may write it; to other processes it says
/// that all pages are in memory.
pub fn residency_is_reliable(path: &Path, file: &File) -> bool {
    let owner = file.metadata().is_ok_and(|m| m.uid() == rustix::process::geteuid().as_raw());
    owner || rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// See [`crate::os`].
pub fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// See [`crate::os`]. This is `VmHWM`, which counts mapped pages of files as well.
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_link_nor_rename_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, "old").unwrap();
        std::fs::write(&new, "new").unwrap();
        assert_eq!(rename_new(&new, &old).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let file = create_unnamed(dir.path(), Readers::All).unwrap();
        assert_eq!(link_unnamed(&file, &old).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        rename_new(&new, &dir.path().join("other")).unwrap();
        assert!(!new.exists());
    }

    #[test]
    fn a_reserved_file_has_its_size_and_takes_bytes_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = create_unnamed(dir.path(), Readers::All).unwrap();
        reserve(&file, 100).unwrap();
        write_all_at(&file, b"abc", 50).unwrap();
        start_writeback(&file, 0..100);
        sync_file(&file).unwrap();
        let mut buf = [0; 4];
        read_exact_at(&file, &mut buf, 49).unwrap();
        assert_eq!((&buf, file.metadata().unwrap().len()), (b"\0abc", 100));
    }

    #[test]
    fn a_hard_link_has_the_same_id_and_a_copy_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a"), "a").unwrap();
        std::fs::hard_link(path("a"), path("b")).unwrap();
        std::fs::copy(path("a"), path("c")).unwrap();
        let id = |name: &str| file_id(&std::fs::metadata(path(name)).unwrap());
        assert_eq!(id("a"), id("b"));
        assert_ne!(id("a"), id("c"));
    }
}
