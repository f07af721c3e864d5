//! What Linux, macOS and the other Unix systems do alike.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
#[cfg(target_os = "linux")]
use std::time::{SystemTime, UNIX_EPOCH};

use memmap2::Mmap;

use super::{Readers, Secrecy};

/// What tells files apart: device and inode.
pub type FileId = (u64, u64);

/// See [`crate::os`].
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network and user-space file systems cannot sync a folder.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
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
pub fn file_id(file: &File) -> io::Result<FileId> {
    file.metadata().map(|m| (m.dev(), m.ino()))
}

/// See [`crate::os`].
pub fn file_id_of(path: &Path) -> io::Result<FileId> {
    path.metadata().map(|m| (m.dev(), m.ino()))
}

/// A file has an identity when it was not changed for this long: the clocks of file systems are coarse, and a second change could
/// have the time of the first one.
#[cfg(target_os = "linux")]
pub const SETTLED: Duration = Duration::from_secs(2);

/// Returns the identity of a file on a file system that notes each change of a file with a time (ctime) that no program can set:
/// device, inode, size, time of writing and time of change. `None` for a file that was changed less than `settled` ago, and for one
/// whose time is in the future.
#[cfg(target_os = "linux")]
pub fn identity(file: &File, settled: Duration) -> io::Result<Option<String>> {
    let m = file.metadata()?;
    let changed = u64::try_from(m.ctime()).ok().zip(u32::try_from(m.ctime_nsec()).ok());
    let changed = changed.and_then(|(s, ns)| UNIX_EPOCH.checked_add(Duration::new(s, ns)));
    let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
    let (written, changed) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
    let text = || {
        let (device, inode, size) = (m.dev(), m.ino(), m.size());
        format!("{device}:{inode} {size} {}.{:09} {}.{:09}", written.0, written.1, changed.0, changed.1)
    };
    Ok(age.filter(|age| *age >= settled).map(|_| text()))
}

/// Makes an open fail at a link at the end of the path, and not wait for the other end of a pipe.
pub fn not_through_links(options: &mut OpenOptions) {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
}

/// See [`crate::os`].
pub fn open_without_waiting(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// See [`crate::os`].
pub fn set_readers(file: &File, readers: Readers) -> io::Result<()> {
    let mode = match readers {
        Readers::All => 0o644,
        Readers::Owner => 0o600,
    };
    file.set_permissions(Permissions::from_mode(mode))
}

/// See [`crate::os`].
pub fn secrecy(file: &File) -> io::Result<Secrecy> {
    let facts = file.metadata()?;
    let (owner, user, mode) = (facts.uid(), rustix::process::geteuid().as_raw(), facts.mode() & 0o777);
    Ok(match () {
        () if owner != user => Secrecy::OtherOwner { owner, user },
        () if mode & 0o077 != 0 => Secrecy::OthersMay(mode),
        () => Secrecy::Kept,
    })
}

/// See [`crate::os`].
pub fn create_private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// See [`crate::os`].
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// See [`crate::os`].
pub fn lock_map(map: &Mmap) -> io::Result<()> {
    map.lock()
}

/// See [`crate::os`].
pub fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}
