//! GGUF v3, the file format of llama.cpp: [`values`], [`reader`], [`writer`], and [`split`] for a GGUF of several files.
//!
//! A file is: magic, version, tensor count, key/value count, the key/values, the tensor infos
//! (name, dimensions, type, offset in the data section), padding to the alignment, and the tensors,
//! each padded to the alignment. Everything is little endian.
//!
//! ```no_run
//! use srd_rs::formats::gguf::Gguf;
//!
//! let gguf = Gguf::open("model-00001-of-00003.gguf")?;
//! let arch = gguf.metadata().get("general.architecture").and_then(|v| v.as_str());
//! println!("{arch:?}: {} tensors in {} files", gguf.tensors().count(), gguf.parts().len());
//! # Ok::<(), srd_rs::Error>(())
//! ```

pub mod reader;
pub mod split;
pub mod values;
pub mod writer;

pub use reader::{GgufFile, GgufTensor};
pub use split::Gguf;
pub use values::{Array, KeyValues, Strings, Value, ValueType};
pub use writer::{EncodedHeader, TensorHeader, encode_header};

/// First bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written. Version 2 has the same layout and is read, too.
pub const VERSION: u32 = 3;

/// Alignment in bytes where `general.alignment` does not set another one.
pub const DEFAULT_ALIGNMENT: u32 = 32;

/// Key that sets the alignment of the data section.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Key of the number of a part of a split GGUF, from 0.
pub const SPLIT_NO: &str = "split.no";

/// Key of the number of parts of a split GGUF.
pub const SPLIT_COUNT: &str = "split.count";

/// Key of the number of tensors in all parts of a split GGUF.
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// Keys that belong to one file rather than to the model.
pub const FILE_KEYS: [&str; 4] = [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS, ALIGNMENT_KEY];

/// Longest tensor name in bytes. ggml keeps 64 bytes with the NUL at the end.
pub const MAX_NAME: usize = 63;

/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 4;

/// Returns the bytes of a tensor of dimensions `ne` (innermost first), or what is wrong with the dimensions. Reader and
/// writer have the same rules.
pub(super) fn tensor_bytes(ne: &[u64], ty: crate::dtype::GgmlType) -> Result<u64, String> {
    if ne.is_empty() || ne.len() > MAX_DIMS {
        return Err(format!("has {} dimensions, not 1 to {MAX_DIMS}", ne.len()));
    }
    let elements = ne.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n <= i64::MAX as u64);
    match elements {
        None => return Err(format!("has dimensions {ne:?}, whose product overflows")),
        Some(0) => return Err(format!("has no elements: dimensions {ne:?}")),
        Some(_) => {}
    }
    let (name, block) = (ty.name(), ty.block_len());
    if !ne[0].is_multiple_of(block as u64) {
        return Err(format!("has rows of {} weights, no multiple of the {block} of a {name} block", ne[0]));
    }
    let rows: u64 = ne[1..].iter().product();
    ty.row_bytes(ne[0])
        .and_then(|row| row.checked_mul(rows))
        .ok_or_else(|| format!("has dimensions {ne:?}, whose size in {name} overflows"))
}

/// Returns what is wrong with a tensor name, if anything.
pub(super) fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        Some("has an empty name".into())
    } else if name.len() > MAX_NAME {
        Some(format!("has a name of {} bytes, more than {MAX_NAME}", name.len()))
    } else if name.contains('\0') {
        Some("has a NUL in its name".into())
    } else {
        None
    }
}

/// Rounds `n` up to a multiple of `alignment`, which is a power of two. `None` on overflow.
pub(super) fn align_up(n: u64, alignment: u64) -> Option<u64> {
    Some(n.checked_add(alignment - 1)? & !(alignment - 1))
}
