//! The memory map of a file whose bytes are never read through the map. The map serves to ask the kernel which pages
//! are in memory, to lock pages, and to tell the kernel that pages are not needed. All unsafe code of hydration is
//! here.
//!
//! ```no_run
//! use std::fs::File;
//!
//! use srd_rs::met::map::FileMap;
//!
//! let map = FileMap::new(&File::open("model.gguf")?)?;
//! println!("{} of {} bytes are in memory", map.resident(0..map.len())?, map.len());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};
use rustix::mm::Advice;

/// The number of pages that one call of mincore asks about. The kernel answers with one byte for each page.
const PAGES_AT_A_TIME: u64 = 1 << 16;

/// A map of a whole file. Nothing reads through the map, so the map keeps no page in memory.
#[derive(Debug)]
pub struct FileMap {
    map: Mmap,
    page: u64,
}

/// Pages that stay in memory until the value is dropped.
#[derive(Debug)]
pub struct Locked {
    _map: Mmap,
    /// The bytes of the file that are locked.
    pub range: Range<u64>,
}

impl FileMap {
    /// Maps a file.
    ///
    /// # Errors
    /// An error of mmap, for instance if the file is empty.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes of the map are never read, so that nobody can see them change; the kernel
        // answers questions about them whatever becomes of the file.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self { map, page: rustix::param::page_size() as u64 })
    }

    /// Returns the number of bytes in a page.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Returns the number of bytes in the file.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Returns whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Returns how many bytes of `range` lie in pages that are in memory.
    ///
    /// # Errors
    /// The errors of mincore.
    pub fn resident(&self, range: Range<u64>) -> io::Result<u64> {
        let end = range.end.min(self.len());
        let mut at = range.start / self.page * self.page;
        let mut answers = Vec::new();
        let mut resident = 0;
        while at < end {
            let pages = (end - at).div_ceil(self.page).min(PAGES_AT_A_TIME);
            self.ask(at, pages, &mut answers)?;
            for (i, _) in answers.iter().enumerate().filter(|(_, a)| **a & 1 == 1) {
                let start = at + i as u64 * self.page;
                resident += (start + self.page).min(end) - start.max(range.start);
            }
            at += pages * self.page;
        }
        Ok(resident)
    }

    /// Fills `answers` with one byte for each of the `pages` pages from `at`, which is a multiple of the page size. The
    /// pages lie within the map.
    fn ask(&self, at: u64, pages: u64, answers: &mut Vec<u8>) -> io::Result<()> {
        answers.clear();
        answers.resize(pages as usize, 0);
        let bytes = ((pages * self.page).min(self.len() - at)) as usize;
        let start = self.map[at as usize..].as_ptr().cast_mut().cast();
        // SAFETY: `start` is page aligned and `bytes` from there are inside the map; `answers` has a byte
        // for every page of them. mincore only looks at page tables.
        match unsafe { libc::mincore(start, bytes, answers.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Reads a range into memory and keeps it there (mlock).
///
/// # Errors
/// The errors of mmap and mlock. The usual one is that the limit of locked memory is too low.
pub fn lock(file: &File, range: Range<u64>) -> io::Result<Locked> {
    let bytes = (range.end - range.start) as usize;
    // SAFETY: the bytes of the map are never read, so that nobody can see them change.
    let map = unsafe { MmapOptions::new().offset(range.start).len(bytes).map(file) }?;
    map.lock()?;
    Ok(Locked { _map: map, range })
}

/// Asks the kernel to take the pages of `ranges` out of all maps that this process has of the file at `path`. An engine
/// that has the file mapped keeps working, and its next access reads the page again. If there is no such map, nothing
/// happens. Returns the number of bytes that the kernel was asked about.
pub fn page_out(path: &Path, inode: u64, ranges: &[Range<u64>]) -> u64 {
    let Ok(path) = path.canonicalize() else { return 0 };
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
                    unsafe { rustix::mm::madvise(pointer, (end - start) as usize, Advice::LinuxPageOut) };
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
    use super::*;

    #[test]
    fn lines_of_the_maps() {
        let line = "7f0a1000-7f0a3000 r--s 00002000 fe:00 131 \t   /models/a b.gguf";
        let parsed = MapLine::parse(line).unwrap();
        assert_eq!((parsed.addresses, parsed.offset), (0x7f0a_1000..0x7f0a_3000, 0x2000));
        assert_eq!((parsed.inode, parsed.path), (131, "\t   /models/a b.gguf".trim_start()));
        assert!(MapLine::parse("7f0a1000-7f0a3000 rw-p 00000000 00:00 0").is_none());
        assert!(MapLine::parse("").is_none());
    }

    #[test]
    fn resident_bytes_are_counted_within_the_range() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &vec![1; 3 * 65536 + 5]).unwrap();
        let map = FileMap::new(&file).unwrap();
        // Just written: all of it is in the page cache.
        assert_eq!(map.resident(0..map.len()).unwrap(), 3 * 65536 + 5);
        assert_eq!(map.resident(1000..70000).unwrap(), 69000);
        assert_eq!(map.resident(196600..1 << 40).unwrap(), 3 * 65536 + 5 - 196600);
        assert_eq!(map.resident(7..7).unwrap(), 0);
    }
}
