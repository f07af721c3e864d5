//! srd-rs turns a Hugging Face checkpoint into a GGUF in one streaming pass.
//!
//! Rooms: [`formats`] is what lies on disk, [`dtype`] the element types, [`quant`] the block
//! formats and the mixes, [`srd`] what is known of a matrix's inputs, residuals and their noise, [`sign`] keys
//! and tags, [`convert`] the walk from checkpoint to file, [`met`] which bytes are whose and bringing them into
//! memory, [`forward`] the forward pass for calibration, on [`linalg`]. `py` translates for Python.

pub mod calibrate;
pub mod convert;
pub mod dtype;
pub mod error;
pub mod feedback;
pub mod formats;
pub mod forward;
pub mod linalg;
pub mod met;
pub mod model;
pub mod noise;
mod os;
pub mod progress;
#[cfg(feature = "python")]
mod py;
pub mod quant;
pub mod sign;
pub mod simd;
pub mod work;

pub use error::{Error, Result};
