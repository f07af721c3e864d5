//! The one error type of the crate: what failed, in which file, tensor and at which offset, and
//! what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

/// Where in the input or output something is wrong. Every part that is known is printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub file: Option<PathBuf>,
    pub tensor: Option<String>,
    /// Byte offset from the start of the file.
    pub offset: Option<u64>,
}

impl Place {
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self { file: Some(path.as_ref().to_path_buf()), ..Self::default() }
    }

    pub fn named_tensor(name: impl Into<String>) -> Self {
        Self { tensor: Some(name.into()), ..Self::default() }
    }

    pub fn tensor(mut self, name: impl Into<String>) -> Self {
        self.tensor = Some(name.into());
        self
    }

    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            sep = ": ";
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "{sep}tensor '{}'", tensor.escape_debug())?;
            sep = ", ";
        }
        if let Some(offset) = self.offset {
            write!(f, "{sep}at byte {offset}")?;
            sep = ", ";
        }
        if sep.is_empty() { write!(f, "input") } else { Ok(()) }
    }
}

/// Everything that can go wrong. The message is `place: what. Do this.`
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused: missing file, no permission, full disk.
    #[error("{place}: cannot {action}: {source}. {fix}")]
    Io {
        place: Place,
        action: &'static str,
        #[source]
        source: std::io::Error,
        fix: &'static str,
    },

    /// A file breaks its own format: truncated, overlapping, overflowing, unknown type.
    #[error("{place}: {what}. {fix}")]
    Format { place: Place, what: String, fix: String },

    /// The files are well formed, but are not a model this tool can convert as asked.
    #[error("{place}: {what}. {fix}")]
    Model { place: Place, what: String, fix: String },

    /// A weight is NaN, infinite, or too large for the scales of the chosen type.
    #[error("{place}: {what}. {fix}")]
    NonFinite {
        place: Place,
        /// Flat index of the first offending weight within the tensor.
        index: u64,
        what: String,
        fix: String,
    },

    /// The caller asked for something that makes no sense: an unknown type, a bad option.
    #[error("{what}. {fix}")]
    Usage { what: String, fix: String },

    /// A signed file is not what was signed: damaged, altered, or signed with another key.
    #[error("{place}: {what}. {fix}")]
    Verification { place: Place, what: String, fix: String },

    /// The run was interrupted by the user; nothing was left under the final name.
    #[error("interrupted; nothing was written under the final name")]
    Interrupted,
}

impl Error {
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: std::io::Error) -> Self {
        let fix = match source.kind() {
            std::io::ErrorKind::NotFound => "Check the path",
            std::io::ErrorKind::PermissionDenied => "Check the permissions",
            std::io::ErrorKind::StorageFull => "Free some disk space or choose another output folder",
            _ => "Check the disk and try again",
        };
        Self::Io { place: Place::file(path), action, source, fix }
    }

    pub fn format(place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Format { place, what: what.into(), fix: fix.into() }
    }

    pub fn model(place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Model { place, what: what.into(), fix: fix.into() }
    }

    pub fn verification(place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Verification { place, what: what.into(), fix: fix.into() }
    }

    pub fn usage(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), fix: fix.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_file_tensor_offset_and_what_to_do() {
        let place = Place::file("m.safetensors").tensor("a.weight").at(64);
        let text = Error::format(place, "ends beyond the file", "Download the file again").to_string();
        assert_eq!(
            text,
            "m.safetensors: tensor 'a.weight', at byte 64: ends beyond the file. Download the file again"
        );
    }
}
