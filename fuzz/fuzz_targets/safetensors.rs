//! Runs the target `safetensors`: see `fuzz/src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| srd_rs_fuzz::safetensors_header(bytes));
