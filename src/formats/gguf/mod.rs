//! GGUF v3: values, reader, writer.
//!
//! A file is: magic, version, tensor count, key/value count, the key/values, the tensor infos
//! (name, dimensions, type, offset in the data section), padding to the alignment, and the tensors,
//! each padded to the alignment. Everything is little endian.

pub mod reader;
pub mod values;
pub mod writer;

pub use reader::{GgufFile, GgufTensor};
pub use values::{Array, KeyValues, Strings, Value, ValueType};
pub use writer::{EncodedHeader, TensorHeader, encode_header};

/// First bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written. Version 2 has the same layout and is read as well.
pub const VERSION: u32 = 3;

/// Alignment where `general.alignment` does not set another.
pub const DEFAULT_ALIGNMENT: u32 = 32;

/// Key that sets the alignment of the data section.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Keys that belong to one file of a split GGUF rather than to the model.
pub const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// Longest tensor name in bytes: ggml keeps 64 with the terminating NUL.
pub const MAX_NAME: usize = 63;

/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 4;

/// Bytes of a tensor of dimensions `ne` (innermost first), or what is wrong with them: the rules are
/// the same for reading and writing.
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

/// What is wrong with a tensor name, if anything.
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

/// `n` rounded up to a multiple of `alignment`, a power of two.
pub(super) fn align_up(n: u64, alignment: u64) -> Option<u64> {
    Some(n.checked_add(alignment - 1)? & !(alignment - 1))
}
