//! What is on disk: safetensors checkpoints and GGUF files. Nothing read here is trusted.

pub mod decode;
pub mod gguf;
pub mod safetensors;
mod simd;
pub mod source;
