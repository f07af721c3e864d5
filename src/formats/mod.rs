//! What is on disk: safetensors checkpoints, GGUF files and .axm containers. Nothing read here is trusted.

pub mod axm;
pub mod decode;
pub mod gguf;
pub mod safetensors;
mod simd;
pub mod source;
