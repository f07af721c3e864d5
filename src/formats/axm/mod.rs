//! The .axm container, version 1: [`layout`] (what lies where), [`writer`] (front and manifest),
//! [`reader`] (opens, verifies). `docs/axm-format.md` is the format, byte by byte.

pub mod layout;
pub mod reader;
pub mod writer;

pub use layout::{Header, Layout, Plane, Preamble, Shard};
pub use reader::Container;
