//! Any bytes as a safetensors file: no panic, and what is accepted covers the data section exactly.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use srd_rs::formats::safetensors::read_header;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tensors) = read_header(bytes, bytes.len() as u64, Path::new("x")) else { return };
    let covered: u64 = tensors.iter().map(|t| t.bytes).sum();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(8 + header + covered, bytes.len() as u64);
    assert!(tensors.iter().all(|t| t.offset + t.bytes <= bytes.len() as u64));
});
