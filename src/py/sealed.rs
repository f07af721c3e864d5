//! The container that a run wrote.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::convert::report::Sealed;
use crate::py::records::record;
use crate::sign::keys::Origin;

record! {
    /// A written .axm. `signed` says whether an Ed25519 key signed the container; `key_made` is the default key file if
    /// this run made the key: keep a copy of the file.
    SealedContainer {
        path: PathBuf,
        bytes: u64,
        fingerprint: String,
        id: String,
        key_id: String,
        signed: bool,
        key_made: Option<PathBuf>,
    }
}

impl SealedContainer {
    pub fn new(sealed: Sealed, origin: Option<&Origin>) -> Self {
        let key_made = match origin {
            Some(Origin::Made(path)) => Some(path.clone()),
            _ => None,
        };
        Self {
            path: sealed.path,
            bytes: sealed.bytes,
            fingerprint: sealed.fingerprint,
            id: sealed.container,
            key_id: sealed.key_id,
            signed: sealed.signed,
            key_made,
        }
    }
}
