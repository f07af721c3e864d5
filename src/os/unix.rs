//! What Linux, macOS and the other Unix systems do alike.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

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
