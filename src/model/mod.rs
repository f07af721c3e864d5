//! The tensors of a checkpoint, a GGUF or a container under their GGUF names.
//!
//! [`source`] reads rows, [`spec`] declares what each output tensor is made of, [`transform`] maps Hugging Face's layout to
//! GGUF's, [`bound`] puts the tensors and the metadata of a model together, and [`check`] checks the metadata of a GGUF.
//!
//! ```no_run
//! use srd_rs::formats::gguf::Gguf;
//! use srd_rs::model::bound::BoundModel;
//!
//! let model = BoundModel::from_gguf(&Gguf::open("model.gguf")?)?;
//! println!("{}: {} tensors", model.arch, model.tensors.len());
//! # Ok::<(), srd_rs::Error>(())
//! ```

pub mod bound;
pub mod check;
pub mod dequantize;
pub mod kept;
mod lowrank;
pub mod source;
pub mod spec;
pub mod transform;
mod view;
