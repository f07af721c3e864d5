//! What is on disk: safetensors checkpoints and GGUF files. Nothing read here is trusted.

pub mod gguf;
pub mod safetensors;
