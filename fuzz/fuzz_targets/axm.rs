//! No bytes make the container reader panic, hang or allocate beyond the file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use srd_rs::formats::axm::layout::{Header, Layout};
use srd_rs::formats::axm::reader::check_front;

fuzz_target!(|data: &[u8]| {
    let _ = check_front(data, data.len() as u64, Path::new("fuzz.axm"));
    // The hashes stop most inputs before the header is looked at: look at it alone, too.
    if let Ok(header) = Header::parse(data) {
        if header.count_shards() < 1 << 16 {
            let _ = Layout::of(&header, data.len() as u64);
        }
    }
});
