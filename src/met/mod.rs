//! The MET sidecar and hydration. The sidecar says which bytes of a GGUF belong to which slot of depth. Hydration reads
//! the bytes of the slots that an intent needs into memory.
//!
//! [`open`] opens a GGUF or a container, [`slots`] splits the layers into slots, [`policy`] says which slots an intent
//! needs,
//! [`sidecar`] measures a GGUF and writes the JSON, [`hydrate`] reads the slots, and [`map`] is the memory map that
//! asks the kernel which pages are in memory.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use srd_rs::met::hydrate::{HydrateOptions, Hydrator};
//! use srd_rs::met::policy::Intent;
//! use srd_rs::progress::Progress;
//!
//! let mut hydrator = Hydrator::open(Path::new("model.gguf"), None)?;
//! let outcome = hydrator.hydrate(Intent::Inform, &HydrateOptions::default(), &Progress::default())?;
//! println!("{} bytes are in memory", outcome.hydrated_bytes);
//! # Ok::<(), srd_rs::Error>(())
//! ```

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
