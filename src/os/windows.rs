//! The promises of [`crate::os`] on Windows.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::iter::once;
use std::ops::Range;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use memmap2::Mmap;
use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    GetDiskFreeSpaceExW, GetFileInformationByHandle, MOVEFILE_WRITE_THROUGH, MoveFileExW,
};
use windows_sys::Win32::System::Memory::VirtualLock;
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, SYSTEM_INFO};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};

use super::{Readers, Secrecy, Usage};

/// What tells files apart: number of the volume and of the file.
pub type FileId = (u64, u64);

/// See [`crate::os`]. A program can set every time of its files.
pub fn identity(_: &File) -> io::Result<Option<String>> {
    Ok(None)
}

/// See [`crate::os`]. Windows has no call that takes the pages of a file out of memory.
pub const CAN_EVICT: bool = false;

/// See [`crate::os`]. Windows has no files without a name.
pub fn create_unnamed(_: &Path, _: Readers) -> Option<File> {
    None
}

/// See [`crate::os`].
pub fn link_unnamed(_: &File, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// See [`crate::os`].
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (wide(from), wide(to));
    // SAFETY: both are strings of 16-bit units that end with a zero and live for the call.
    checked(unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), MOVEFILE_WRITE_THROUGH) })
}

/// See [`crate::os`].
pub fn sync_file(file: &File) -> io::Result<()> {
    match file.sync_data() {
        // The file was opened for reading alone, and has nothing to write.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// See [`crate::os`]. Windows cannot sync a folder. NTFS keeps a journal of names.
pub fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// See [`crate::os`]. Windows has no such hint.
pub fn start_writeback(_: &File, _: Range<u64>) {}

/// See [`crate::os`].
pub fn reserve(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size)
}

/// See [`crate::os`].
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let (folder, mut free) = (wide(folder), 0u64);
    // SAFETY: the string ends with a zero, and the pointers are to values that live for the call, or null.
    let done =
        unsafe { GetDiskFreeSpaceExW(folder.as_ptr(), &raw mut free, ptr::null_mut(), ptr::null_mut()) };
    checked(done).ok().map(|()| free)
}

/// See [`crate::os`].
pub fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// See [`crate::os`].
pub fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// See [`crate::os`].
pub fn file_id(file: &File) -> io::Result<FileId> {
    // SAFETY: zeros are a valid value of this type, which holds numbers alone.
    let mut facts: BY_HANDLE_FILE_INFORMATION = unsafe { std::mem::zeroed() };
    // SAFETY: the handle is open for as long as `file` lives, and the pointer is to a value that lives for the call.
    checked(unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut facts) })?;
    let index = u64::from(facts.nFileIndexHigh) << 32 | u64::from(facts.nFileIndexLow);
    Ok((u64::from(facts.dwVolumeSerialNumber), index))
}

/// See [`crate::os`].
pub fn file_id_of(path: &Path) -> io::Result<FileId> {
    // Nothing is read, so no right to read is asked for; folders are opened as well.
    file_id(&OpenOptions::new().access_mode(0).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)?)
}

/// Makes an open take a link at the end of the path for a file of its own, which is no regular one.
pub fn not_through_links(options: &mut OpenOptions) {
    options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
}

/// See [`crate::os`].
pub fn open_without_waiting(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// See [`crate::os`]. A new file has the rights of its folder. The folder of a user is closed to other users.
pub fn set_readers(_: &File, _: Readers) -> io::Result<()> {
    Ok(())
}

/// See [`crate::os`]. Who may read a file is in its access list, which is not looked at.
pub fn secrecy(_: &File) -> io::Result<Secrecy> {
    Ok(Secrecy::Kept)
}

/// See [`crate::os`]. The folder has the rights of its parent.
pub fn create_private_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)
}

/// See [`crate::os`]. Windows has hints for maps and for files that are being opened, not for files that are open.
pub fn advise(_: &File, _: Range<u64>, _: Usage) {}

/// See [`crate::os`]. Windows tells a process only of the pages in its own working set.
pub fn residency_is_reliable(_: &Path, _: &File) -> bool {
    false
}

/// See [`crate::os`].
pub fn resident_pages(_: &Mmap, _: u64, _: u64, _: &mut [u8]) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// See [`crate::os`].
pub fn page_out(_: &Path, _: &File, _: &[Range<u64>]) -> u64 {
    0
}

/// See [`crate::os`].
pub fn page_size() -> u64 {
    // SAFETY: zeros are a valid value of this type, which holds numbers and addresses alone.
    let mut system: SYSTEM_INFO = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a value that lives for the call.
    unsafe { GetSystemInfo(&raw mut system) };
    u64::from(system.dwPageSize.max(1))
}

/// See [`crate::os`].
pub fn lock_map(map: &Mmap) -> io::Result<()> {
    // SAFETY: the range is the map, which is not changed by the call.
    checked(unsafe { VirtualLock(map.as_ptr().cast(), map.len()) })
}

/// See [`crate::os`].
pub fn cpu_time() -> Duration {
    let zero = FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 };
    let [mut made, mut ended, mut kernel, mut user] = [zero; 4];
    // SAFETY: the handle stands for this process and is always valid, and the pointers are to values that live for the call.
    let done = unsafe {
        GetProcessTimes(GetCurrentProcess(), &raw mut made, &raw mut ended, &raw mut kernel, &raw mut user)
    };
    let ticks = |t: FILETIME| u64::from(t.dwHighDateTime) << 32 | u64::from(t.dwLowDateTime);
    match checked(done) {
        // A tick is 100 ns.
        Ok(()) => Duration::from_nanos((ticks(kernel) + ticks(user)).saturating_mul(100)),
        Err(_) => Duration::ZERO,
    }
}

/// See [`crate::os`]. This is the largest working set.
pub fn peak_rss_bytes() -> u64 {
    let size = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    // SAFETY: zeros are a valid value of this type, which holds numbers alone.
    let mut counters: PROCESS_MEMORY_COUNTERS = unsafe { std::mem::zeroed() };
    counters.cb = size;
    // SAFETY: the handle stands for this process, and the pointer is to a value of `size` bytes that lives for the call.
    let done = unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, size) };
    checked(done).map_or(0, |()| counters.PeakWorkingSetSize as u64)
}

/// The path as Windows takes it: 16-bit units, with a zero at the end.
fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain(once(0)).collect()
}

/// The error of a call that returned zero.
fn checked(done: i32) -> io::Result<()> {
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_does_not_replace() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, "old").unwrap();
        std::fs::write(&new, "new").unwrap();
        assert_eq!(rename_new(&new, &old).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        rename_new(&new, &dir.path().join("other")).unwrap();
        assert!(!new.exists());
    }

    #[test]
    fn a_file_has_its_size_and_takes_bytes_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        reserve(&file, 100).unwrap();
        write_all_at(&file, b"abc", 50).unwrap();
        sync_file(&file).unwrap();
        let mut buf = [0; 4];
        read_exact_at(&file, &mut buf, 49).unwrap();
        assert_eq!((&buf, file.metadata().unwrap().len()), (b"\0abc", 100));
        assert!(read_exact_at(&file, &mut buf, 98).is_err());
        std::fs::copy(&path, dir.path().join("b")).unwrap();
        assert_eq!(file_id(&file).unwrap(), file_id_of(&path).unwrap());
        assert_ne!(file_id(&file).unwrap(), file_id_of(&dir.path().join("b")).unwrap());
    }

    #[test]
    fn the_system_tells_what_it_knows() {
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
        assert!(page_size() >= 4096 && peak_rss_bytes() > 0);
        let begin = cpu_time();
        while cpu_time() == begin {}
    }
}
