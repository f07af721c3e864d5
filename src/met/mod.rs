//! The MET sidecar and hydration: which bytes of a GGUF belong to which slot of depth, and bringing
//! those bytes into memory for an intent.
//!
//! [`open`] takes a GGUF or a container, [`slots`] splits the depth, [`policy`] says which slots an intent needs, [`sidecar`] measures a file
//! and writes it all down, [`hydrate`] acts on it, [`map`] is the memory map beneath.

pub mod hydrate;
pub mod map;
pub mod open;
pub mod policy;
pub mod sidecar;
pub mod slots;
#[cfg(test)]
mod testing;

pub use hydrate::Hydrator;
pub use policy::{Intent, Policy};
pub use sidecar::Sidecar;
pub use slots::{Slot, Split};
