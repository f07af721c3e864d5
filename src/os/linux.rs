//! The promises of [`crate::os`] on Linux.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use memmap2::Mmap;
use rustix::fs::{Access, Advice, AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::mm::Advice as MapAdvice;

pub use super::unix::{
    FileId, cpu_time, create_private_folder, file_id, file_id_of, free_bytes, lock_map, not_through_links,
    open_without_waiting, page_size, read_exact_at, secrecy, set_readers, sync_folder, write_all_at,
};
use super::{Readers, Usage, unix};

/// See [`crate::os`].
pub const CAN_EVICT: bool = true;

/// The file systems of a local disk or of memory that note each change with a time that no program can set, by their numbers in
/// `linux/magic.h`: ext2 to ext4, XFS, Btrfs, F2FS, bcachefs, ZFS, tmpfs, and overlays of these. Network and user-space file systems
/// may tell times that are old or made up.
const WITH_TIMES: [u64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x0102_1994, 0x794c_7630];

/// See [`crate::os`].
pub fn identity(file: &File) -> io::Result<Option<String>> {
    let number = rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff;
    if WITH_TIMES.contains(&number) { unix::identity(file, unix::SETTLED) } else { Ok(None) }
}

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

/// See [`crate::os`]. This is `VmHWM`, which counts mapped pages of files as well.
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kb| kb * 1024)
}

/// See [`crate::os`].
pub fn resident_pages(map: &Mmap, at: u64, bytes: u64, answers: &mut [u8]) -> io::Result<()> {
    let end = at.checked_add(bytes).filter(|&end| end <= map.len() as u64);
    let pages = bytes.div_ceil(page_size());
    if end.is_none() || !at.is_multiple_of(page_size()) || (answers.len() as u64) < pages {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let start = map[at as usize..].as_ptr().cast_mut().cast();
    // SAFETY: `start` is page aligned and `bytes` from there are inside the map; `answers` has a byte for every page of
    // them. mincore only looks at page tables.
    match unsafe { libc::mincore(start, bytes as usize, answers.as_mut_ptr().cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// See [`crate::os`]. Returns the number of bytes that the kernel was asked about.
pub fn page_out(path: &Path, file: &File, ranges: &[Range<u64>]) -> u64 {
    let (Ok(path), Ok(facts)) = (path.canonicalize(), file.metadata()) else { return 0 };
    let inode = facts.ino();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut asked = 0;
    for line in maps.lines().filter_map(MapLine::parse) {
        if line.inode != inode || Path::new(line.path) != path {
            continue;
        }
        for range in ranges {
            let start = range.start.max(line.offset);
            let end = range.end.min(line.offset + (line.addresses.end - line.addresses.start));
            if start < end {
                let address = line.addresses.start + (start - line.offset);
                let pointer = std::ptr::with_exposed_provenance_mut(address as usize);
                // SAFETY: MADV_PAGEOUT changes no contents, whatever lies at the address by now: pages are
                // read again from their file (or from swap) when they are next touched.
                let done =
                    unsafe { rustix::mm::madvise(pointer, (end - start) as usize, MapAdvice::LinuxPageOut) };
                asked += if done.is_ok() { end - start } else { 0 };
            }
        }
    }
    asked
}

/// A line of /proc/self/maps: `7f00-7f10 r--s 0000 08:01 1234   /path`. All numbers except the inode are hexadecimal.
struct MapLine<'a> {
    addresses: Range<u64>,
    offset: u64,
    inode: u64,
    path: &'a str,
}

impl<'a> MapLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |s: &str| u64::from_str_radix(s, 16).ok();
        let addresses = hex(start)?..hex(end)?;
        let offset = hex(fields.nth(1)?)?;
        let inode = fields.nth(1)?.parse().ok()?;
        let path = fields.next()?.trim_start();
        (!addresses.is_empty()).then_some(Self { addresses, offset, inode, path })
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

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
        let id = |name: &str| file_id_of(&path(name)).unwrap();
        assert_eq!(id("a"), id("b"));
        assert_eq!(id("a"), file_id(&File::open(path("a")).unwrap()).unwrap());
        assert_ne!(id("a"), id("c"));
    }

    #[test]
    fn lines_of_the_maps() {
        let line = "7f0a1000-7f0a3000 r--s 00002000 fe:00 131 \t   /models/a b.gguf";
        let parsed = MapLine::parse(line).unwrap();
        assert_eq!((parsed.addresses, parsed.offset), (0x7f0a_1000..0x7f0a_3000, 0x2000));
        assert_eq!((parsed.inode, parsed.path), (131, "\t   /models/a b.gguf".trim_start()));
        assert!(MapLine::parse("7f0a1000-7f0a3000 rw-p 00000000 00:00 0").is_none());
        assert!(MapLine::parse("").is_none());
    }
}
