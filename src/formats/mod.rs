//! Files: safetensors checkpoints, GGUFs, .axm containers, calibrations and imatrices. Nothing that is read is trusted: every
//! count is checked against the size of the file before memory is allocated.
//!
//! ```no_run
//! use srd_rs::formats::gguf::Gguf;
//! use srd_rs::formats::safetensors::Checkpoint;
//!
//! println!("{} tensors", Checkpoint::open("Llama-3.2-1B")?.tensors().len());
//! println!("{} tensors", Gguf::open("model.gguf")?.tensors().count());
//! # Ok::<(), srd_rs::Error>(())
//! ```

pub mod axm;
pub mod calibration;
pub mod decode;
pub mod gguf;
pub mod imatrix;
pub mod safetensors;
pub mod sink;
pub mod source;
