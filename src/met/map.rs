//! The memory map of a file whose bytes are never read through the map. The map serves to ask the system which pages
//! are in memory, and to lock pages. What a system can tell and do is in [`crate::os`].
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

use memmap2::{Mmap, MmapOptions};

use crate::os;

/// The number of pages that one call asks about. The system answers with one byte for each page.
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
        Ok(Self { map, page: os::page_size() })
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
    /// What the system says; [`Unsupported`](io::ErrorKind::Unsupported) where it tells nothing.
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
        os::resident_pages(&self.map, at, (pages * self.page).min(self.len() - at), answers)
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
    os::lock_map(&map)?;
    Ok(Locked { _map: map, range })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
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
