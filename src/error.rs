//! The one error type of the crate. An error says where something is wrong (file, tensor, offset), what is wrong, and what
//! to do.
//!
//! ```
//! use srd_rs::error::{Error, Place};
//!
//! let place = Place::file("m.gguf").tensor("output.weight").at(4096);
//! let error = Error::format(place, "ends beyond the file", "Download the file again");
//! assert_eq!(
//!     error.to_string(),
//!     "m.gguf: tensor 'output.weight', at byte 4096: ends beyond the file. Download the file again"
//! );
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

/// A result whose error is an [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Where in an input or output something is wrong. Every part that is known is printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Path of the file.
    pub file: Option<PathBuf>,
    /// Name of the tensor.
    pub tensor: Option<String>,
    /// Offset in bytes from the start of the file.
    pub offset: Option<u64>,
}

impl Place {
    /// A place in the file `path`.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self { file: Some(path.as_ref().to_path_buf()), ..Self::default() }
    }

    /// A tensor whose file is not known.
    pub fn named_tensor(name: impl Into<String>) -> Self {
        Self { tensor: Some(name.into()), ..Self::default() }
    }

    /// Adds the tensor.
    pub fn tensor(mut self, name: impl Into<String>) -> Self {
        self.tensor = Some(name.into());
        self
    }

    /// Adds the offset in bytes from the start of the file.
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

/// Everything that can go wrong. The message is `place: what. fix`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused: the file is missing, the permission is missing, or the disk is full.
    #[error("{place}: cannot {action}: {source}. {fix}")]
    Io {
        /// Where it happened.
        place: Place,
        /// What was tried, as a verb with its object left out: "open", "write".
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
        /// What to do.
        fix: &'static str,
    },

    /// A file breaks its own format: it is cut short, its parts overlap, a size overflows, or a type is unknown.
    #[error("{place}: {what}. {fix}")]
    Format {
        /// Where it is.
        place: Place,
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },

    /// The files are well formed, but are not a model this tool can convert as asked.
    #[error("{place}: {what}. {fix}")]
    Model {
        /// Where it is.
        place: Place,
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },

    /// A weight is NaN, infinite, or too large for the scales of the chosen type.
    #[error("{place}: {what}. {fix}")]
    NonFinite {
        /// Where it happened.
        place: Place,
        /// Flat index of the first such weight within the tensor.
        index: u64,
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },

    /// The caller asked for something that makes no sense, for example an unknown type.
    #[error("{what}. {fix}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },

    /// A file is not what was signed or what its origin gives: it is damaged, altered, or signed with another key.
    #[error("{place}: {what}. {fix}")]
    Verification {
        /// Where it is.
        place: Place,
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },

    /// The user interrupted the run. Nothing was left under the final name.
    #[error("interrupted; nothing was written under the final name")]
    Interrupted,
}

/// Why the bytes of a remote file could not be fetched. An [`std::io::Error`] carries it to where the place is known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The server does not send the bytes, or sends other ones.
    #[error("{what}")]
    Failed {
        /// What is wrong.
        what: String,
        /// What to do.
        fix: &'static str,
    },
    /// The run was asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl FetchError {
    /// A [`FetchError::Failed`].
    pub fn failed(what: impl Into<String>, fix: &'static str) -> Self {
        Self::Failed { what: what.into(), fix }
    }
}

impl From<FetchError> for std::io::Error {
    fn from(error: FetchError) -> Self {
        Self::other(error)
    }
}

impl Error {
    /// An [`Error::Io`] for a read that failed at a place. A [`FetchError`] brings its own remedy; `fix` is the remedy for all
    /// other failures.
    pub fn read(place: Place, action: &'static str, source: std::io::Error, fix: &'static str) -> Self {
        match source.get_ref().and_then(|e| e.downcast_ref()) {
            Some(FetchError::Cancelled) => Self::Interrupted,
            Some(FetchError::Failed { fix, .. }) => Self::Io { place, action, fix, source },
            None => Self::Io { place, action, source, fix },
        }
    }

    /// An [`Error::Io`] for a file. The remedy follows from the kind of the error.
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: std::io::Error) -> Self {
        let fix = match source.kind() {
            std::io::ErrorKind::NotFound => "Check the path",
            std::io::ErrorKind::PermissionDenied => "Check the permissions",
            std::io::ErrorKind::StorageFull => "Free some disk space or choose another output folder",
            _ => "Check the disk and try again",
        };
        Self::Io { place: Place::file(path), action, source, fix }
    }

    /// An [`Error::Format`].
    pub fn format(place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Format { place, what: what.into(), fix: fix.into() }
    }

    /// An [`Error::Model`].
    pub fn model(place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Model { place, what: what.into(), fix: fix.into() }
    }

    /// An [`Error::Verification`].
    pub fn verification(place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Verification { place, what: what.into(), fix: fix.into() }
    }

    /// An [`Error::Usage`].
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
