//! Runs the target `sidecar`: see `fuzz/src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| srd_rs_fuzz::sidecar(bytes));
