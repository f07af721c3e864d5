//! What differs between operating systems, one file for each system, all with the same promises.
//!
//! | function | promise |
//! | --- | --- |
//! | [`create_unnamed`] | A file without a name: it vanishes when it is closed, also when the process is killed. [`Readers`] may read the file once it is named. `None` where the file system or the system has no such files; the caller then uses a temporary name. |
//! | [`link_unnamed`] | Gives such a file its name in one step. Never replaces: an existing name is [`AlreadyExists`](std::io::ErrorKind::AlreadyExists). |
//! | [`rename_new`] | Renames in one step. Never replaces: an existing name is [`AlreadyExists`](std::io::ErrorKind::AlreadyExists). |
//! | [`sync_file`] | When the call returns, the bytes and the size of the file are on the disk. |
//! | [`sync_folder`] | When the call returns, the names in the folder are on the disk, where the file system can say so. |
//! | [`start_writeback`] | A hint: begins to write a range to the disk and returns. |
//! | [`reserve`] | The file has the given size, and where the file system can do so the disk space is reserved. |
//! | [`free_bytes`] | Bytes that the user may still write to the disk of a folder, `None` where the system does not say. |
//! | [`read_exact_at`], [`write_all_at`] | Read and write at an offset. Threads may use one file at the same time. |
//! | [`file_id`], [`file_id_of`] | Two files, or two paths, have the same id exactly if they are the same file. |
//! | [`identity`] | A text that names a file and the state that it is in. While the text is the same, so are the bytes. `None` where the system cannot promise so. |
//! | [`open_own`] | Opens a file that this program has left or makes, to read and write it. Never follows a link at the end of the path, and refuses all that is no regular file; the answer is about the very file that was opened. |
//! | [`open_without_waiting`] | Opens a file for reading. Never waits, not even for the writer of a pipe. |
//! | [`advise`] | A hint how a range of a file will be used. |
//! | [`set_readers`], [`secrecy`] | Sets who may read a file; tells whether a file is closed to all but this user. |
//! | [`create_private_folder`] | Makes a folder, with its parents, that is closed to other users. |
//! | [`FileMap`] | A map of a file that bytes are copied from. A file that shrinks, or a disk that fails, gives an error and never ends the process. [`Unsupported`](std::io::ErrorKind::Unsupported) where the system has no such maps. |
//! | [`residency_is_reliable`] | Whether the system tells the process which pages of a file are in memory. |
//! | [`resident_pages`] | One byte for each page of a part of a map, whose lowest bit says whether the page is in memory; [`Unsupported`](std::io::ErrorKind::Unsupported) where the system does not tell. |
//! | [`lock_map`] | The pages of a map stay in memory until the map is dropped. |
//! | [`page_out`], [`CAN_EVICT`] | Takes ranges of a file out of all maps that this process has of the file, and of memory. An engine that has the file mapped keeps working: its next access reads the page again. Nothing happens where the system cannot do so, which [`CAN_EVICT`] says. |
//! | [`page_size`] | Bytes of a page of memory. |
//! | [`cpu_time`], [`peak_rss_bytes`] | User and system time of the process; the most memory that it had, 0 where the system does not say. |
//!
//! `unix.rs` holds what all Unix systems do alike. Another system is another file beside `linux.rs` and one line here.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

#[cfg(unix)]
mod unix;

#[cfg_attr(unix, path = "map.rs")]
#[cfg_attr(not(unix), path = "no_map.rs")]
mod map;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
#[cfg_attr(windows, path = "windows.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "macos", windows)), path = "portable.rs")]
mod system;
pub use map::FileMap;
pub use system::{
    CAN_EVICT, FileId, advise, cpu_time, create_private_folder, create_unnamed, file_id, file_id_of,
    free_bytes, identity, link_unnamed, lock_map, open_without_waiting, page_out, page_size, peak_rss_bytes,
    read_exact_at, rename_new, reserve, residency_is_reliable, resident_pages, secrecy, set_readers,
    start_writeback, sync_file, sync_folder, write_all_at,
};

/// Whether a file is closed to all but this user.
#[cfg_attr(not(unix), expect(dead_code, reason = "only Unix has owners and modes"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// It is, as far as the system says.
    Kept,
    /// The file belongs to another user.
    OtherOwner {
        /// Number of the owner.
        owner: u32,
        /// Number of the user of this process.
        user: u32,
    },
    /// Others may read or write the file, which has this mode.
    OthersMay(u32),
}

/// Which files [`open_own`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// One that is not there yet.
    New,
    /// One that is there.
    Existing,
    /// One that is there, or else a new one.
    Either,
}

/// See [`crate::os`].
pub fn open_own(path: &Path, opening: Opening) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(opening == Opening::New).create(opening == Opening::Either);
    system::not_through_links(&mut options);
    let file = options.open(path);
    let is_link = || path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    match file {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(io::Error::other("it is not a regular file")),
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists && is_link() => {
            Err(io::Error::other("it is a symbolic link"))
        }
        Err(e) => Err(e),
    }
}

/// Who may read a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Everybody whom the settings of the system allow.
    All,
    /// The owner alone.
    Owner,
}

/// How a range of a file will be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Reads are in no order: the system need not read ahead.
    Random,
    /// The range will be read soon: the system reads it into memory now.
    Soon,
    /// The range will not be read soon: the system may forget it.
    NotSoon,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_are_opened_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(open_own(&path, Opening::Existing).unwrap_err().kind(), io::ErrorKind::NotFound);
        write_all_at(&open_own(&path, Opening::New).unwrap(), b"abc", 0).unwrap();
        assert_eq!(open_own(&path, Opening::New).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        for opening in [Opening::Existing, Opening::Either] {
            assert_eq!(open_own(&path, opening).unwrap().metadata().unwrap().len(), 3);
        }
        assert!(open_own(dir.path(), Opening::Existing).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_is_written_has_another_identity() {
        use std::time::Duration;

        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("a");
        let now = |settled| unix::identity(&File::open(&path).unwrap(), settled).unwrap();
        let at_once = || now(Duration::ZERO);
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(now(unix::SETTLED), None, "a second change may have the same time");
        let (before, written) = (at_once(), path.metadata().unwrap().modified().unwrap());
        assert!(before.is_some() && at_once() == before);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(at_once(), before);
        // The same length and the same time of writing, as after `cp -p` or `touch -r`.
        std::fs::write(&path, "xyz").unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_modified(written).unwrap();
        assert_eq!(path.metadata().unwrap().modified().unwrap(), written);
        assert_ne!(at_once(), before);
        // A copy in the place of the file.
        let before = at_once();
        std::fs::copy(&path, dir.path().join("b")).unwrap();
        std::fs::rename(dir.path().join("b"), &path).unwrap();
        assert_ne!(at_once(), before);
        // Of a file system that says nothing about its times, nothing is believed.
        assert_eq!(identity(&File::open("/proc/self/status").unwrap()).unwrap(), None);
    }

    #[test]
    #[cfg(unix)]
    fn what_a_link_names_is_neither_opened_nor_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("there"), "abc").unwrap();
        for target in ["there", "missing"] {
            let link = path(&format!("to {target}"));
            std::os::unix::fs::symlink(path(target), &link).unwrap();
            for opening in [Opening::New, Opening::Existing, Opening::Either] {
                assert!(open_own(&link, opening).is_err(), "{target} {opening:?}");
            }
        }
        assert!(!path("missing").exists());
        assert_eq!(std::fs::read(path("there")).unwrap(), b"abc");
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(open_own(&path, Opening::Either).unwrap_err().to_string().contains("not a regular file"));
    }
}
