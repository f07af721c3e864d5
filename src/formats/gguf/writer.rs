//! Encodes everything of a GGUF before its tensor data, and says where the data of each tensor go.
//!
//! ```
//! use srd_rs::dtype::GgmlType;
//! use srd_rs::formats::gguf::{KeyValues, TensorHeader, encode_header};
//!
//! let tensors = [TensorHeader { name: "output.weight", ne: &[64, 2], ty: GgmlType::F32 }];
//! let header = encode_header(&KeyValues::new(), &tensors)?;
//! assert_eq!(header.tensor_offsets, [header.bytes.len() as u64]);
//! assert_eq!(header.total_size, header.tensor_offsets[0] + 64 * 2 * 4);
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::collections::HashSet;

use super::values::{Array, KeyValues, Value};
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, VERSION, align_up, name_fault, tensor_bytes as size_of_tensor,
};
use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};

/// A tensor to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorHeader<'a> {
    /// Name of the tensor.
    pub name: &'a str,
    /// Dimensions, innermost (length of a row) first. This is the reverse of the row-major shape.
    pub ne: &'a [u64],
    /// Type of the values.
    pub ty: GgmlType,
}

/// A header, and the layout of the file that it describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedHeader {
    /// The file up to its first tensor: magic to tensor infos, padded to the alignment.
    pub bytes: Vec<u8>,
    /// Offset of each tensor from the start of the file, in the order of the tensors.
    pub tensor_offsets: Vec<u64>,
    /// Size of each tensor in bytes, without the padding that follows the tensor.
    pub tensor_bytes: Vec<u64>,
    /// Size of the whole file in bytes. The padding after the last tensor is included.
    pub total_size: u64,
    /// Every tensor begins at a multiple of this number of bytes, and zeros follow the tensor up to the next multiple.
    pub alignment: u32,
}

/// Encodes the header of a GGUF v3. Metadata and tensors keep their order.
///
/// # Errors
/// [`Error::Model`] if a tensor cannot be in a GGUF (name, dimensions, rows that are no whole blocks,
/// duplicates, sizes beyond 2^64) or `general.alignment` is not a power of two in a u32.
pub fn encode_header(kv: &KeyValues, tensors: &[TensorHeader<'_>]) -> Result<EncodedHeader> {
    let alignment = alignment_of(kv)?;
    let mut bytes = Vec::with_capacity(header_estimate(kv, tensors));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(kv.len() as u64).to_le_bytes());
    for (key, value) in kv.iter() {
        put_string(&mut bytes, key);
        bytes.extend_from_slice(&value.value_type().id().to_le_bytes());
        put_value(&mut bytes, value);
    }
    let layout = Layout::of(tensors, alignment)?;
    for (tensor, offset) in tensors.iter().zip(&layout.offsets) {
        put_tensor_info(&mut bytes, tensor, *offset);
    }
    // A file of metadata alone ends with them, as other writers leave it.
    if !tensors.is_empty() {
        let start = align_up(bytes.len() as u64, alignment.into()).ok_or_else(|| too_large("the header"))?;
        bytes.resize(start as usize, 0);
    }
    layout.finish(bytes, alignment)
}

/// Sizes of the tensors, and their offsets within the data section.
struct Layout {
    offsets: Vec<u64>,
    sizes: Vec<u64>,
    total: u64,
}

impl Layout {
    fn of(tensors: &[TensorHeader<'_>], alignment: u32) -> Result<Self> {
        let mut names = HashSet::with_capacity(tensors.len());
        let mut layout = Self { offsets: Vec::new(), sizes: Vec::new(), total: 0 };
        for t in tensors {
            let refuse = |what: String| {
                Error::model(Place::named_tensor(t.name), what, "This tensor cannot be written to a GGUF")
            };
            if let Some(what) = name_fault(t.name) {
                return Err(refuse(what));
            }
            if !names.insert(t.name) {
                return Err(refuse("occurs twice".into()));
            }
            let size = size_of_tensor(t.ne, t.ty).map_err(refuse)?;
            layout.offsets.push(layout.total);
            layout.sizes.push(size);
            layout.total = layout
                .total
                .checked_add(size)
                .and_then(|end| align_up(end, alignment.into()))
                .ok_or_else(|| too_large(t.name))?;
        }
        Ok(layout)
    }

    fn finish(self, bytes: Vec<u8>, alignment: u32) -> Result<EncodedHeader> {
        let start = bytes.len() as u64;
        let total_size = start.checked_add(self.total).ok_or_else(|| too_large("the file"))?;
        // No offset overflows: all are below the total.
        let tensor_offsets = self.offsets.iter().map(|o| start + o).collect();
        Ok(EncodedHeader { bytes, tensor_offsets, tensor_bytes: self.sizes, total_size, alignment })
    }
}

fn too_large(what: &str) -> Error {
    Error::model(Place::named_tensor(what), "the file would exceed 2^64 bytes", "Convert a smaller model")
}

fn alignment_of(kv: &KeyValues) -> Result<u32> {
    match kv.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(a)) if a.is_power_of_two() => Ok(*a),
        Some(other) => Err(Error::model(
            Place::default(),
            format!("{ALIGNMENT_KEY} is {other:?}, not a power of two in a UINT32"),
            "Use 32",
        )),
    }
}

/// Estimates the size of the header, so that a large vocabulary is not copied as the buffer grows.
fn header_estimate(kv: &KeyValues, tensors: &[TensorHeader<'_>]) -> usize {
    let values: usize = kv.iter().map(|(key, value)| key.len() + 24 + value_bytes(value)).sum();
    24 + values + tensors.len() * 112 + DEFAULT_ALIGNMENT as usize
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len(),
        Value::Array(Array::String(s)) => s.text_bytes() + 8 * s.len(),
        Value::Array(a) => a.len() * a.element_type().size().unwrap_or(0),
        _ => 8,
    }
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.element_type().id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend_from_slice(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&x| u8::from(x))),
        Array::String(v) => v.iter().for_each(|s| put_string(out, s)),
        Array::U64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
    }
}

fn put_tensor_info(out: &mut Vec<u8>, tensor: &TensorHeader<'_>, offset: u64) {
    put_string(out, tensor.name);
    out.extend_from_slice(&(tensor.ne.len() as u32).to_le_bytes());
    tensor.ne.iter().for_each(|d| out.extend_from_slice(&d.to_le_bytes()));
    out.extend_from_slice(&tensor.ty.id().to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
}
