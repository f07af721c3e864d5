//! What is on disk: safetensors checkpoints, GGUF files and .axm containers. Nothing read here is trusted.

pub mod axm;
pub mod calibration;
pub mod decode;
pub mod gguf;
pub mod imatrix;
pub mod safetensors;
pub mod sink;
pub mod source;
