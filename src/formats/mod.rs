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

/// Most tensors of a small file.
const MOST_TENSORS: u64 = 1 << 16;

/// Bytes that a file has for each further tensor. The tensors of published models have millions of bytes.
const BYTES_PER_TENSOR: u64 = 4096;

/// Returns the most tensors that a file of `size` bytes may have. A list of tensors takes many times the memory of its
/// text, so a small file with a long list is refused.
pub fn most_tensors(size: u64) -> u64 {
    MOST_TENSORS.max(size / BYTES_PER_TENSOR)
}
