//! Writes a file that gets its name when it is complete.
//!
//! A [`Sink`] is a file without a name, which is filled at planned offsets. A killed run leaves nothing behind, not even a
//! temporary file, where the file system has files without names; on other file systems a killed run leaves
//! `.NAME.PROCESS.partial`.
//!
//! A sink that [`Sink::resume`] makes is kept as `.NAME.partial` instead, also when the run is killed, so that a later run can go
//! on from it.
//!
//! The name means that the file is complete, also after a power cut: the bytes are on the disk before the file is named,
//! and the name is on the disk before [`Sink::commit`] returns.
//!
//! ```
//! use srd_rs::formats::sink::Sink;
//!
//! let dir = tempfile::tempdir()?;
//! let target = dir.path().join("model.gguf");
//! let sink = Sink::create(&target, 8, false)?;
//! sink.write_at(b"data", 4)?;
//! sink.write_at(b"GGUF", 0)?;
//! assert!(!target.exists());
//! sink.commit()?;
//! assert_eq!(std::fs::read(&target)?, b"GGUFdata");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Place, Result};
use crate::os::{self, Opening};
use crate::progress::Progress;
use crate::sign::Sha256;
use crate::sign::file::hasher_of_range;

/// An output file that has no name yet. The file vanishes when the sink is dropped before [`Sink::commit`].
#[derive(Debug)]
pub struct Sink {
    target: PathBuf,
    file: File,
    /// The temporary name, on file systems that have no files without a name, and of files that are kept.
    temporary: Option<PathBuf>,
    overwrite: bool,
    /// Whether the file outlives a sink that is dropped.
    keep: bool,
    /// Whether the file has got its name in an earlier run.
    named: bool,
}

const ZEROS: [u8; 4096] = [0; 4096];

/// What an earlier run has left of an output, as its journal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing that can be used.
    Nothing,
    /// A file that is not complete.
    Partial,
    /// Complete files, some of which may have their names.
    Complete,
}

impl Sink {
    /// Creates the file with `size` bytes, which are reserved on the disk.
    ///
    /// # Errors
    /// As [`check_target`]; [`Error::Io`] when the folder cannot be written or the disk is too small.
    pub fn create(target: &Path, size: u64, overwrite: bool) -> Result<Self> {
        check_target(target, overwrite)?;
        check_space(target, size)?;
        let (file, temporary) = open_unnamed(target)?;
        let target = target.to_path_buf();
        let sink = Self { target, file, temporary, overwrite, keep: false, named: false };
        sink.reserve(size)?;
        Ok(sink)
    }

    /// Creates an empty file that never gets a name, in the folder of `beside`. The system removes the file when the file is closed,
    /// also when the process is killed.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be written.
    pub fn create_unnamed(beside: &Path) -> Result<Self> {
        let folder = folder_of(beside);
        let file =
            tempfile::tempfile_in(folder).map_err(|e| Error::io(folder, "make a temporary file in", e))?;
        let target = beside.to_path_buf();
        Ok(Self { target, file, temporary: None, overwrite: false, keep: false, named: false })
    }

    /// Opens the file `.NAME.partial` with what is in it, or makes it. The file is kept when the sink is dropped; under its name it
    /// replaces an existing file. Returns `None` while another process has the file open so, and where another user has made it.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn keep(target: &Path) -> Result<Option<Self>> {
        check_target(target, true)?;
        let partial = partial_path(target);
        let file = os::open_own(&partial, Opening::Either).map_err(|e| Error::io(&partial, "open", e))?;
        if check_owner(&file, &partial).is_err() || matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Ok(None);
        }
        // Another process may have named or removed the file before it was locked.
        let is_still_there =
            matches!((os::file_id(&file), os::file_id_of(&partial)), (Ok(a), Ok(b)) if a == b);
        let (target, temporary) = (target.to_path_buf(), Some(partial));
        let sink = || Self { target, file, temporary, overwrite: true, keep: true, named: false };
        Ok(is_still_there.then(sink))
    }

    /// Returns the length of the file, which can grow by writing.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk.
    pub fn len(&self) -> Result<u64> {
        self.file.metadata().map(|m| m.len()).map_err(|e| Error::io(&self.target, "read", e))
    }

    /// Returns whether the file has no bytes.
    ///
    /// # Errors
    /// As [`Sink::len`].
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Cuts off what an earlier run may have left behind the first `size` bytes.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk.
    pub fn cut(&self, size: u64) -> Result<()> {
        match self.len()? > size {
            true => self.file.set_len(size).map_err(|e| Error::io(&self.target, "cut", e)),
            false => Ok(()),
        }
    }

    /// Removes the file, also one that is kept.
    pub fn discard(mut self) {
        self.keep = false;
    }

    /// Opens the file `.NAME.partial` of `size` bytes, which is kept when the sink is dropped. With [`Left::Nothing`] its bytes are
    /// zero, else they are those of an earlier run. With [`Left::Complete`] the file may have its name already: it is then
    /// opened to be compared with what is written, and stays as it is.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn resume(target: &Path, size: u64, overwrite: bool, left: Left) -> Result<Self> {
        let partial = partial_path(target);
        let has_bytes = |path: &Path| path.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == size);
        let sink = |file: File, named: bool| {
            let temporary = (!named).then(|| partial.clone());
            Self { target: target.to_path_buf(), file, temporary, overwrite, keep: true, named }
        };
        if left == Left::Complete && !partial.exists() && has_bytes(target) {
            let file = File::open(target).map_err(|e| Error::io(target, "open", e))?;
            return Ok(sink(file, true));
        }
        check_target(target, overwrite)?;
        let found = left != Left::Nothing && has_bytes(&partial);
        if !found {
            check_space(target, size)?;
            discard_partial(target)?;
        }
        let opening = if found { Opening::Existing } else { Opening::New };
        let file = os::open_own(&partial, opening).map_err(|e| Error::io(&partial, "create", e))?;
        check_owner(&file, &partial)?;
        let sink = sink(file, false);
        sink.reserve(size)?;
        Ok(sink)
    }

    fn reserve(&self, size: u64) -> Result<()> {
        os::reserve(&self.file, size).map_err(|e| Error::io(&self.target, "reserve disk space for", e))
    }

    /// Returns the SHA-256 of a range of the file. It can take the bytes behind the range.
    ///
    /// # Errors
    /// As [`hash_range`](crate::sign::file::hash_range).
    pub fn hasher_of(&self, range: Range<u64>, progress: &Progress) -> Result<Sha256> {
        hasher_of_range(&self.file, &self.target, range, progress)
    }

    /// Writes zeros to every byte of the file that is in none of `ranges`, which must not overlap. A new file has zeros there; of a
    /// file that an earlier run has left, nobody knows.
    ///
    /// # Errors
    /// As [`Sink::write_at`].
    pub fn clear_except(&self, mut ranges: Vec<Range<u64>>, size: u64) -> Result<()> {
        ranges.sort_by_key(|r| r.start);
        ranges.push(size..size);
        let mut at = 0;
        for range in ranges {
            while at < range.start {
                let zeros = &ZEROS[..(range.start - at).min(ZEROS.len() as u64) as usize];
                self.write_at(zeros, at)?;
                at += zeros.len() as u64;
            }
            at = range.end;
        }
        Ok(())
    }

    /// Compares `bytes` with a file that has its name already.
    fn compare(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut found = vec![0; bytes.len()];
        os::read_exact_at(&self.file, &mut found, offset).map_err(|e| Error::io(&self.target, "read", e))?;
        if found == bytes {
            return Ok(());
        }
        let what = "is not the file that the interrupted run wrote under this name";
        let what = format!("{} {what}", self.target.display());
        Err(Error::usage(what, "Choose another name, or replace the file with --overwrite"))
    }

    /// Writes `bytes` at `offset`. Threads may write different places at the same time.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or fails.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        if self.named {
            return self.compare(bytes, offset);
        }
        os::write_all_at(&self.file, bytes, offset).map_err(|source| Error::Io {
            place: Place::file(&self.target).at(offset),
            action: "write",
            source,
            fix: "Check the free space and the health of the disk; nothing was left under the final name",
        })
    }

    /// Lets the system begin to write a range to the disk, so that [`Sink::commit`] has less to wait for.
    pub fn start_writeback(&self, range: Range<u64>) {
        os::start_writeback(&self.file, range);
    }

    /// Returns the file without ever naming it. The file is gone when it is closed.
    ///
    /// # Errors
    /// [`Error::Io`] when the process has too many files open.
    pub fn into_unnamed(self) -> Result<File> {
        self.reader()
    }

    /// Returns the file to read what was written so far.
    ///
    /// # Errors
    /// As [`Sink::into_unnamed`].
    pub fn reader(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(&self.target, "keep open", e))
    }

    /// Gives the file its name when its bytes are on the disk. Replaces an existing file in one step if `overwrite` was
    /// set: at any moment the name stands for the whole old file or the whole new one.
    ///
    /// # Errors
    /// [`Error::Usage`] when the name exists meanwhile and may not be replaced; [`Error::Io`] when the file cannot be
    /// synced or named. The old file then has its name still, unless it was only the folder that could not be synced.
    pub fn commit(self) -> Result<()> {
        commit_all(vec![self])
    }

    fn sync(&self) -> Result<()> {
        os::sync_file(&self.file).map_err(|e| Error::io(&self.target, "write to the disk", e))
    }

    /// Names the file. With `keep_old`, an old file of this name stays under another name.
    fn name(mut self, keep_old: bool) -> Result<Named> {
        let failed = |e: io::Error, target: &Path, overwrite| match e.kind() {
            // Another process made the file meanwhile.
            ErrorKind::AlreadyExists => {
                check_target(target, overwrite).err().unwrap_or(Error::io(target, "name", e))
            }
            _ => Error::io(target, "name", e),
        };
        let partial = self.keep.then(|| partial_path(&self.target));
        let named = Named { target: self.target.clone(), old: None, partial };
        if self.named {
            return Ok(named);
        }
        if !self.overwrite || self.target.symlink_metadata().is_err() {
            let result = match &self.temporary {
                Some(temporary) => os::rename_new(temporary, &self.target),
                None => os::link_unnamed(&self.file, &self.target),
            };
            match result {
                Ok(()) => {
                    self.temporary = None;
                    return Ok(named);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists && self.overwrite => {}
                Err(e) => return Err(failed(e, &self.target, self.overwrite)),
            }
        }
        check_target(&self.target, true)?;
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => {
                let temporary = beside(&self.target, "partial");
                os::link_unnamed(&self.file, &temporary).map_err(|e| Error::io(&temporary, "name", e))?;
                temporary
            }
        };
        // The sink removes this file if the rest fails.
        self.temporary = Some(temporary.clone());
        let old = if keep_old { Some(set_aside(&self.target)?) } else { None };
        let named = Named { old, ..named };
        if let Err(e) = std::fs::rename(&temporary, &self.target) {
            named.undo_old();
            return Err(Error::io(&self.target, "rename to", e));
        }
        self.temporary = None;
        Ok(named)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(path) = self.temporary.as_ref().filter(|_| !self.keep) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A file that has got its name.
struct Named {
    target: PathBuf,
    /// Where the old file of this name lies.
    old: Option<PathBuf>,
    /// The name that the file goes back to, for a file that is kept.
    partial: Option<PathBuf>,
}

impl Named {
    /// Takes the name away again and gives it back to the old file.
    fn undo(&self) {
        if let Some(partial) = &self.partial {
            let _ = os::rename_new(&self.target, partial);
        }
        match self.old {
            Some(_) => self.undo_old(),
            None if self.partial.is_none() => drop(std::fs::remove_file(&self.target)),
            None => {}
        }
    }

    fn undo_old(&self) {
        if let Some(old) = &self.old {
            let _ = std::fs::rename(old, &self.target);
        }
    }

    fn forget_old(&self) {
        if let Some(old) = &self.old {
            let _ = std::fs::remove_file(old);
        }
    }
}

/// Gives several files their names: all of them or, if one fails, none of them. Old files that are replaced keep a second
/// name, `.NAME.PROCESS.old`, until all new files are named.
///
/// No system can name several files in one step. A process that is killed within this call can leave some names on new
/// files and some on old ones; every name stands for a whole file nevertheless, and what was replaced lies under
/// `.NAME.PROCESS.old`.
///
/// # Errors
/// As [`Sink::commit`], for the first file that fails. All old files then have their names back.
pub fn commit_all(sinks: Vec<Sink>) -> Result<()> {
    sinks.iter().filter(|sink| !sink.named).try_for_each(Sink::sync)?;
    let keep_old = sinks.len() > 1;
    let mut named = Vec::new();
    let name_all = |named: &mut Vec<Named>| {
        sinks.into_iter().try_for_each(|sink| {
            named.push(sink.name(keep_old)?);
            Ok(())
        })?;
        let folders: BTreeSet<_> = named.iter().map(|n| folder_of(&n.target)).collect();
        folders.into_iter().try_for_each(|folder| {
            os::sync_folder(folder)
                .map_err(|e| Error::io(folder, "write the names of files to the disk in", e))
        })
    };
    let result = name_all(&mut named);
    match &result {
        Ok(()) => named.iter().for_each(Named::forget_old),
        // A single file that replaced another one has no old file to go back to, and is complete.
        Err(_) if keep_old => named.iter().rev().for_each(Named::undo),
        Err(_) => {}
    }
    result
}

/// Writes a small file, whole or not at all.
///
/// # Errors
/// As [`Sink::create`] and [`Sink::commit`].
pub fn write_file(target: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    let sink = Sink::create(target, bytes.len() as u64, overwrite)?;
    sink.write_at(bytes, 0)?;
    sink.commit()
}

/// Checks that an output may be written to `target`. A symbolic link is refused, because the user may mean the link or
/// the file that the link names.
///
/// # Errors
/// [`Error::Usage`] when the target exists and `overwrite` is not set, or when the target is no regular file.
pub fn check_target(target: &Path, overwrite: bool) -> Result<()> {
    let Ok(found) = target.symlink_metadata() else { return Ok(()) };
    let refuse = |what: &str, fix: &str| Err(Error::usage(format!("{} {what}", target.display()), fix));
    if found.is_symlink() {
        let fix = "Name the file that the link points to, or remove the link";
        return refuse("is a symbolic link, and an output does not replace a link", fix);
    }
    if found.is_dir() {
        return refuse("is a folder", "Name a file for the output");
    }
    if !found.is_file() {
        return refuse(
            "is a device, a pipe or a socket, not a regular file",
            "Name another file for the output",
        );
    }
    match overwrite {
        true => Ok(()),
        false => refuse("exists already", "Choose another name, or replace the file with --overwrite"),
    }
}

/// Checks that `target` is none of the files with the ids `inputs`, through links as well.
///
/// # Errors
/// [`Error::Usage`] when the target is an input.
pub fn check_not_input(target: &Path, inputs: &[os::FileId]) -> Result<()> {
    let Ok(found) = os::file_id_of(target) else { return Ok(()) };
    if !inputs.contains(&found) {
        return Ok(());
    }
    let what = format!("{} is a file that this run reads", target.display());
    Err(Error::usage(what, "Choose another name for the output: an input is never replaced"))
}

fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The name of what is kept of an output that is not complete: `.NAME.partial`.
pub fn partial_path(target: &Path) -> PathBuf {
    hidden(target, "partial")
}

/// Returns whether the output of `size` bytes that [`Sink::resume`] makes is there and has no name yet.
pub fn has_partial(target: &Path, size: u64) -> bool {
    partial_path(target).symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == size)
}

/// A hidden name beside the target, the same in every run: `.NAME.SUFFIX`.
pub fn hidden(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{suffix}"))
}

/// Checks that what an earlier run has left belongs to this user. What others wrote there would become part of the output, and
/// would be signed with it.
///
/// # Errors
/// [`Error::Usage`] when the file belongs to another user.
pub fn check_owner(file: &File, path: &Path) -> Result<()> {
    match os::secrecy(file).map_err(|e| Error::io(path, "read", e))? {
        os::Secrecy::OtherOwner { .. } => {
            let what = format!(
                "{} belongs to another user, so it is not what an interrupted run has left",
                path.display()
            );
            Err(Error::usage(what, "Remove the file, or choose another name with -o"))
        }
        os::Secrecy::Kept | os::Secrecy::OthersMay(_) => Ok(()),
    }
}

/// Frees the disk space of a file behind its first `bytes` bytes. The size of the file stays: what was freed reads as zeros. Windows keeps
/// the space.
///
/// # Errors
/// [`Error::Io`] when the file cannot be cut.
pub fn keep_start(path: &Path, bytes: u64) -> Result<()> {
    let cut = || {
        let file = os::open_own(path, Opening::Existing)?;
        let size = file.metadata()?.len();
        file.set_len(bytes.min(size)).and_then(|()| file.set_len(size))
    };
    cut().map_err(|e| Error::io(path, "free the space of", e))
}

/// Removes what an earlier run has left of an output that is not complete.
///
/// # Errors
/// [`Error::Io`] when the file is there and cannot be removed.
pub fn discard_partial(target: &Path) -> Result<()> {
    let partial = partial_path(target);
    match std::fs::remove_file(&partial) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(&partial, "remove", e)),
        _ => Ok(()),
    }
}

/// A hidden name beside the target that says which process uses the file for what.
fn beside(target: &Path, purpose: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}.{purpose}", std::process::id()))
}

/// Gives an old file a second name. Where the file system has no hard links, the file is renamed.
fn set_aside(target: &Path) -> Result<PathBuf> {
    let old = beside(target, "old");
    std::fs::hard_link(target, &old)
        .or_else(|_| os::rename_new(target, &old))
        .map_err(|e| Error::io(target, "set aside", e))?;
    Ok(old)
}

fn check_space(target: &Path, size: u64) -> Result<()> {
    // A disk whose free space is not known tells the first write when it is full.
    let Some(free) = os::free_bytes(folder_of(target)) else { return Ok(()) };
    if free < size {
        let what = format!("the output needs {size} bytes, the disk has {free} free");
        let source = io::Error::new(ErrorKind::StorageFull, what);
        return Err(Error::io(target, "write", source));
    }
    Ok(())
}

fn open_unnamed(target: &Path) -> Result<(File, Option<PathBuf>)> {
    if let Some(file) = os::create_unnamed(folder_of(target), os::Readers::All) {
        return Ok((file, None));
    }
    let path = beside(target, "partial");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    Ok((file.map_err(|e| Error::io(&path, "create", e))?, Some(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_has_a_name_before_commit_and_only_the_target_after() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.gguf");
        let sink = Sink::create(&target, 4, false).unwrap();
        sink.write_at(b"GGUF", 0).unwrap();
        assert!(!target.exists());
        sink.commit().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"GGUF");
        assert_eq!(names(dir.path()), ["a.gguf"]);
    }

    #[test]
    fn a_dropped_sink_leaves_nothing_and_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.gguf");
        std::fs::write(&target, "old").unwrap();
        drop(Sink::create(&target, 4, true).unwrap());
        assert_eq!(names(dir.path()), ["a.gguf"]);
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
    }

    #[test]
    fn an_existing_target_is_replaced_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.gguf");
        std::fs::write(&target, "old").unwrap();
        assert!(matches!(Sink::create(&target, 4, false), Err(Error::Usage { .. })));
        let sink = Sink::create(&target, 3, true).unwrap();
        sink.write_at(b"new", 0).unwrap();
        sink.commit().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.gguf"]);
    }

    #[test]
    fn a_full_disk_is_reported_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let error = Sink::create(&dir.path().join("a.gguf"), 1 << 60, false).unwrap_err();
        assert!(error.to_string().contains("Free some disk space"), "{error}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_regular_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let dangling = dir.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        for target in [dir.path(), &link, &dangling, Path::new("/dev/null")] {
            let error = Sink::create(target, 0, true).unwrap_err();
            assert!(matches!(error, Error::Usage { .. }), "{}: {error}", target.display());
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"old");
    }

    #[test]
    #[cfg(unix)]
    fn an_input_is_recognized_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("in"), "").unwrap();
        std::fs::write(path("other"), "").unwrap();
        std::fs::hard_link(path("in"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("in"), path("soft")).unwrap();
        let inputs = [os::file_id_of(&path("in")).unwrap()];
        for (name, is_input) in
            [("in", true), ("hard", true), ("soft", true), ("other", false), ("new", false)]
        {
            assert_eq!(check_not_input(&path(name), &inputs).is_err(), is_input, "{name}");
        }
    }

    fn sinks(targets: &[&Path]) -> Vec<Sink> {
        let sink = |target: &&Path| {
            let sink = Sink::create(target, 3, true).unwrap();
            sink.write_at(b"new", 0).unwrap();
            sink
        };
        targets.iter().map(sink).collect()
    }

    #[test]
    fn several_files_get_their_names_or_keep_their_old_contents() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        std::fs::write(&a, "old").unwrap();
        std::fs::write(&c, "old").unwrap();
        let made = sinks(&[&a, &b, &c]);
        // A folder comes into the way of the last one.
        std::fs::remove_file(&c).unwrap();
        std::fs::create_dir(&c).unwrap();
        assert!(commit_all(made).is_err());
        assert_eq!(names(dir.path()), ["a", "c"]);
        assert_eq!(std::fs::read(&a).unwrap(), b"old");

        std::fs::remove_dir(&c).unwrap();
        commit_all(sinks(&[&a, &b, &c])).unwrap();
        assert_eq!(names(dir.path()), ["a", "b", "c"]);
        for path in [a, b, c] {
            assert_eq!(std::fs::read(path).unwrap(), b"new");
        }
    }

    #[test]
    fn a_kept_file_outlives_its_sink_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        let open = |left| Sink::resume(&target, 4, false, left).unwrap();
        open(Left::Nothing).write_at(b"abxx", 0).unwrap();
        assert_eq!(names(dir.path()), [".a.partial"]);
        let sink = open(Left::Partial);
        sink.clear_except(vec![1..2, 0..1], 4).unwrap();
        assert_eq!(std::fs::read(partial_path(&target)).unwrap(), b"ab\0\0");
        sink.write_at(b"cd", 2).unwrap();
        sink.commit().unwrap();
        assert_eq!(
            (names(dir.path()), std::fs::read(&target).unwrap()),
            (vec!["a".into()], b"abcd".to_vec())
        );
        // A file that has its name is compared with what is written again.
        let sink = open(Left::Complete);
        sink.write_at(b"bc", 1).unwrap();
        assert!(matches!(sink.write_at(b"xx", 1), Err(Error::Usage { .. })));
        sink.commit().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"abcd");
        // Without a journal that says so, the name stands for a file of somebody else.
        assert!(matches!(Sink::resume(&target, 4, false, Left::Partial), Err(Error::Usage { .. })));
    }

    #[test]
    fn a_kept_file_belongs_to_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        let keep = || Sink::keep(&target).unwrap();
        let sink = keep().unwrap();
        sink.write_at(b"abc", 0).unwrap();
        assert!(keep().is_none(), "another one uses the file");
        drop(sink);
        let sink = keep().unwrap();
        assert_eq!(sink.len().unwrap(), 3);
        sink.commit().unwrap();
        assert_eq!((names(dir.path()), std::fs::read(&target).unwrap()), (vec!["a".into()], b"abc".to_vec()));
        let sink = keep().unwrap();
        assert!(sink.is_empty().unwrap());
        sink.discard();
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_file_without_a_name_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let sink = Sink::create_unnamed(&dir.path().join("a")).unwrap();
        sink.write_at(b"abc", 0).unwrap();
        let file = sink.into_unnamed().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        drop(file);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    #[cfg(unix)]
    fn what_another_user_has_left_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        drop(Sink::resume(&target, 4, false, Left::Nothing).unwrap());
        if std::os::unix::fs::chown(partial_path(&target), Some(1), None).is_err() {
            return; // only root can give a file away
        }
        assert!(matches!(Sink::resume(&target, 4, false, Left::Partial), Err(Error::Usage { .. })));
    }

    #[test]
    fn a_temporary_name_serves_where_files_need_one() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        let named = |overwrite| {
            let path = beside(&target, "partial");
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
            let temporary = Some(path);
            Sink { target: target.clone(), file, temporary, overwrite, keep: false, named: false }
        };
        named(false).commit().unwrap();
        assert!(matches!(named(false).commit(), Err(Error::Usage { .. })));
        named(true).commit().unwrap();
        assert_eq!(names(dir.path()), ["a"]);
    }
}
