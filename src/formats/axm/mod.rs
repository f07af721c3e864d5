//! The .axm container, version 1. `docs/axm-format.md` is the format, byte by byte.
//!
//! [`layout`] says what lies where, [`writer`] makes the bytes before and behind the shards, [`reader`] opens a
//! container and checks who sealed it, `verify` checks the shards on all cores, [`shards`] reads weights and
//! checks them while it reads, `whole_hash` hashes a whole file for an attestation, and `detach` makes the manifest
//! file.
//!
//! ```no_run
//! use srd_rs::formats::axm::Container;
//! use srd_rs::formats::axm::reader::Expected;
//! use srd_rs::progress::Progress;
//!
//! let container = Container::open("model.axm")?;
//! // This checks integrity alone: nothing is damaged, but anybody may have made the file.
//! let expected = Expected { integrity_only: true, ..Expected::default() };
//! container.verify(&expected, 4, &Progress::default())?;
//! println!("{} tensors", container.header.tensors.len());
//! # Ok::<(), srd_rs::Error>(())
//! ```

mod detach;
pub mod layout;
pub mod reader;
pub mod shards;
mod verify;
mod whole_hash;
pub mod writer;

pub use layout::{Header, Layout, Plane, Preamble, Shard};
pub use reader::Container;
