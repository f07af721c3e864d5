//! Where bytes go: a file without a name, filled at planned offsets, that gets its name when it is
//! complete. A killed run leaves nothing, not even the temporary file, where the file system allows.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};

use crate::error::{Error, Place, Result};

/// An output file in the making. Dropped before [`Sink::commit`], it vanishes.
#[derive(Debug)]
pub struct Sink {
    target: PathBuf,
    file: File,
    /// The temporary name, on file systems that cannot hold a file without one.
    temporary: Option<PathBuf>,
    overwrite: bool,
}

fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A name beside the target that says what it is and which process writes it.
fn temporary_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

impl Sink {
    /// Creates the file with `size` bytes allocated.
    ///
    /// # Errors
    /// [`Error::Usage`] when the target exists and `overwrite` is not set; [`Error::Io`] when the folder
    /// cannot be written or the disk is too small.
    pub fn create(target: &Path, size: u64, overwrite: bool) -> Result<Self> {
        check_target(target, overwrite)?;
        check_space(target, size)?;
        let (file, temporary) = open_unnamed(target)?;
        let sink = Self { target: target.to_path_buf(), file, temporary, overwrite };
        sink.preallocate(size)?;
        Ok(sink)
    }

    fn preallocate(&self, size: u64) -> Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, size.max(1)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(e) => return Err(Error::io(&self.target, "reserve disk space", e.into())),
        }
        self.file.set_len(size).map_err(|e| Error::io(&self.target, "set the size of", e))
    }

    /// Writes `bytes` at `offset`; threads may write different places at the same time.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|source| Error::Io {
            place: Place::file(&self.target).at(offset),
            action: "write",
            source,
            fix: "Check the free space and the health of the disk; nothing was left under the final name",
        })
    }

    /// The file without a name: it is gone when it is closed.
    pub fn into_unnamed(self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(&self.target, "keep open", e))
    }

    /// Gives the file its name.
    pub fn commit(mut self) -> Result<()> {
        let named = match self.temporary.clone() {
            Some(path) => path,
            None if !self.overwrite || !self.target.exists() => match self.link(&self.target) {
                Ok(()) => return Ok(()),
                // Someone made the target meanwhile: replace it only if that was asked for.
                Err(Error::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::AlreadyExists && self.overwrite =>
                {
                    self.link_temporary()?
                }
                Err(e) => return Err(e),
            },
            None => self.link_temporary()?,
        };
        if !self.overwrite {
            check_target(&self.target, false)?;
        }
        std::fs::rename(&named, &self.target).map_err(|e| Error::io(&self.target, "rename to", e))?;
        self.temporary = None;
        Ok(())
    }

    fn link_temporary(&mut self) -> Result<PathBuf> {
        let path = temporary_name(&self.target);
        self.link(&path)?;
        self.temporary = Some(path.clone());
        Ok(path)
    }

    fn link(&self, name: &Path) -> Result<()> {
        let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, from, rustix::fs::CWD, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(|e| Error::io(name, "give its name to", e.into()))
    }
}

/// Gives every file its name; if one cannot be named, those already named are taken away again.
///
/// # Errors
/// As [`Sink::commit`].
pub fn commit_all(sinks: Vec<Sink>) -> Result<()> {
    let mut named = Vec::new();
    for sink in sinks {
        let path = sink.target.clone();
        if let Err(error) = sink.commit() {
            named.iter().for_each(|path| drop(std::fs::remove_file(path)));
            return Err(error);
        }
        named.push(path);
    }
    Ok(())
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// # Errors
/// [`Error::Usage`] when the target exists without `overwrite`, or is a folder.
pub fn check_target(target: &Path, overwrite: bool) -> Result<()> {
    if target.is_dir() {
        return Err(Error::usage(format!("{} is a folder", target.display()), "Name a file for the output"));
    }
    if !overwrite && target.symlink_metadata().is_ok() {
        return Err(Error::usage(
            format!("{} exists already", target.display()),
            "Choose another name with -o, or replace it with --overwrite",
        ));
    }
    Ok(())
}

fn check_space(target: &Path, size: u64) -> Result<()> {
    // A file system that does not say how much room it has is found out when it is full.
    let Ok(stat) = rustix::fs::statvfs(folder_of(target)) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < size {
        let what = format!("the output needs {size} bytes, the disk has {free} free");
        let source = std::io::Error::new(std::io::ErrorKind::StorageFull, what);
        return Err(Error::io(target, "make room for", source));
    }
    Ok(())
}

fn open_unnamed(target: &Path) -> Result<(File, Option<PathBuf>)> {
    let folder = folder_of(target);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    // Without a procfs such a file could never be given a name.
    if Path::new("/proc/self/fd").exists()
        && let Ok(fd) = rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666))
    {
        return Ok((File::from(fd), None));
    }
    let path = temporary_name(target);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| Error::io(&path, "create", e))?;
    Ok((file, Some(path)))
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
}
