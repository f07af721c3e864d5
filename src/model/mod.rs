//! The tensors of a checkpoint or of a GGUF under their GGUF names: [`source`] reads rows, [`spec`] declares what each
//! output tensor is made of, and [`transform`] maps Hugging Face's layout to GGUF's.

pub mod bound;
pub mod source;
pub mod spec;
pub mod transform;
