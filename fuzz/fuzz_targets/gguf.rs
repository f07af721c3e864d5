//! Any bytes as a GGUF: no panic, and what is accepted is encoded to the same header again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use srd_rs::formats::gguf::reader::read_header;
use srd_rs::formats::gguf::{TensorHeader, encode_header};

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = read_header(bytes, bytes.len() as u64, Path::new("x")) else { return };
    let tensors: Vec<TensorHeader> =
        header.tensors.iter().map(|t| TensorHeader { name: &t.name, ne: &t.ne, ty: t.ty }).collect();
    let encoded = encode_header(&header.kv, &tensors).expect("what was accepted can be written");
    assert_eq!(encoded.bytes.len() as u64, header.data_offset);
    // The version may be 2 and the padding any bytes; the facts in between are the same.
    let offsets: Vec<u64> = header.tensors.iter().map(|t| t.offset).collect();
    assert_eq!(encoded.tensor_offsets, offsets);
    assert_eq!(encoded.bytes[8..24], bytes[8..24]);
});
