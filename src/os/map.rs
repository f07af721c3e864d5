//! Maps of files that survive when the file shrinks, on Unix systems.
//!
//! A page of a map whose file has become shorter, or whose disk fails, raises the signal SIGBUS, which ends the process by
//! default. Here the signal puts an empty page into the place and notes that this was done; the copy that touched the page goes
//! on, and its result is thrown away. Everything that is not about a map of this module goes to the handler that was there before.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use memmap2::Mmap;

use super::unix::page_size;

/// Largest number of maps at the same time.
const MAPS: usize = 4096;

/// A part of the address space that belongs to a map. `end` is 0 where the entry is free.
struct Region {
    start: AtomicUsize,
    end: AtomicUsize,
    /// Whether a page was put into the place of one that could not be read.
    replaced: AtomicBool,
    taken: AtomicBool,
}

static REGIONS: [Region; MAPS] = [const {
    Region {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        replaced: AtomicBool::new(false),
        taken: AtomicBool::new(false),
    }
}; MAPS];

/// The size of a page, which a handler must not ask for.
static PAGE: AtomicUsize = AtomicUsize::new(0);
/// The action for the signal that was there before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A map of a whole file, which bytes are copied from.
pub struct FileMap {
    map: Mmap,
    region: &'static Region,
}

impl FileMap {
    /// Maps a file.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::OutOfMemory`] where there are too many maps.
    pub fn new(file: &File) -> io::Result<Self> {
        catch_signal()?;
        let is_free = |region: &&Region| !region.taken.swap(true, Ordering::AcqRel);
        let region = REGIONS.iter().find(is_free).ok_or(io::ErrorKind::OutOfMemory)?;
        let give_back = |e| {
            region.taken.store(false, Ordering::Release);
            e
        };
        // SAFETY: no reference to the bytes of the map is ever made: they are copied by `read_exact_at`, which expects that other
        // processes change them.
        let map = unsafe { Mmap::map(file) }.map_err(give_back)?;
        let start = map.as_ptr() as usize;
        region.replaced.store(false, Ordering::Relaxed);
        region.start.store(start, Ordering::Relaxed);
        region.end.store(start + map.len(), Ordering::Release);
        Ok(Self { map, region })
    }

    /// Copies the bytes from `offset` on. The error is [`io::ErrorKind::UnexpectedEof`] if the file has no such bytes (any more).
    pub fn read_exact_at(&self, file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).filter(|&end| end <= self.map.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        // SAFETY: the bytes are inside the map, which lives as long as `self`, and `buf` is no part of the map. A page that the file
        // no longer has is replaced by the handler of the signal.
        unsafe { ptr::copy_nonoverlapping(self.map.as_ptr().add(start), buf.as_mut_ptr(), buf.len()) };
        self.let_go(start, end);
        // The rest of the last page of a file reads as zeros, without a signal.
        if file.metadata()?.len() < end as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self.region.replaced.load(Ordering::Acquire) {
            true => Err(io::Error::other("the disk failed, or the file became shorter for a moment")),
            false => Ok(()),
        }
    }

    /// Takes pages that were copied out of the map, so that the memory of the process does not grow with the file. They stay in the
    /// cache of the system.
    fn let_go(&self, start: usize, end: usize) {
        let page = page_size() as usize;
        let (start, end) = (start.next_multiple_of(page), end / page * page);
        if start < end {
            // SAFETY: the pages are inside the map and read-only; they are read from the file again when they are touched.
            unsafe {
                libc::madvise(
                    self.map.as_ptr().add(start).cast_mut().cast(),
                    end - start,
                    libc::MADV_DONTNEED,
                )
            };
        }
    }
}

/// Makes `on_signal` the handler of SIGBUS, also where another part of the process has taken it away.
fn catch_signal() -> io::Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|p| p.into_inner());
    PAGE.store(page_size() as usize, Ordering::Relaxed);
    let handler = on_signal as *const () as libc::sighandler_t;
    // SAFETY: zeros are a valid `sigaction`.
    let mut found: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: the call writes the action to a value that lives for the call, and changes nothing.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if found.sa_sigaction == handler {
        return Ok(());
    }
    BEFORE.get_or_init(|| found);
    // SAFETY: zeros are a valid `sigaction`: no signal is blocked meanwhile.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the type that SA_SIGINFO asks for, and uses only atomics and system calls.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts an empty page into the place of a page of a map that cannot be read.
extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes a valid pointer, and the signal has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let page = PAGE.load(Ordering::Relaxed);
    for region in &REGIONS {
        if address >= region.end.load(Ordering::Acquire) || address < region.start.load(Ordering::Relaxed) {
            continue;
        }
        let (at, how) = (address / page * page, libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED);
        let at = ptr::with_exposed_provenance_mut(at);
        // SAFETY: the page belongs to a map of this module, which lives while it is read, and nothing refers to its bytes.
        let made = unsafe { libc::mmap(at, page, libc::PROT_READ, how, -1, 0) };
        if made != libc::MAP_FAILED {
            region.replaced.store(true, Ordering::Release);
            return;
        }
    }
    let Some(before) = BEFORE.get() else { return };
    let handler = ptr::with_exposed_provenance::<()>(before.sa_sigaction);
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The access is repeated, and the signal then does what it does by default.
            // SAFETY: zeros are the default action.
            let default: libc::sigaction = unsafe { mem::zeroed() };
            // SAFETY: the action is valid.
            unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
        }
        _ if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: a handler with this flag has this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { mem::transmute(handler) };
            handler(signal, info, context);
        }
        _ => {
            // SAFETY: a handler without the flag has this type.
            let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        self.region.end.store(0, Ordering::Release);
        self.region.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn a_file_that_shrinks_gives_an_error_and_no_signal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let page = page_size();
        let bytes: Vec<u8> = (0..8 * page).map(|i| (i / page) as u8 + 1).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let map = FileMap::new(&file).unwrap();
        let mut buf = vec![0; 3 * page as usize];
        map.read_exact_at(&file, &mut buf, 2 * page + 7).unwrap();
        assert_eq!(buf, bytes[2 * page as usize + 7..][..buf.len()]);
        let eof = |map: &FileMap, buf: &mut [u8], offset| {
            let error = map.read_exact_at(&file, buf, offset).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
        };
        eof(&map, &mut buf, 6 * page);
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.set_len(page / 2).unwrap();
        // The rest of the first page is zeros, and the other pages are gone.
        eof(&map, &mut buf[..page as usize], 0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| eof(&map, &mut vec![0; 3 * page as usize], 3 * page));
            }
        });
        // What was replaced is never taken for bytes of the file, also if the file grows again.
        writer.set_len(8 * page).unwrap();
        assert!(map.read_exact_at(&file, &mut buf, 3 * page).is_err());
        drop(map);
        std::fs::write(&path, &bytes).unwrap();
        let again = FileMap::new(&file).unwrap();
        again.read_exact_at(&file, &mut buf, 0).unwrap();
        assert_eq!(buf, bytes[..buf.len()]);
    }
}
