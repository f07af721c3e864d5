//! Throughput of decoding and scanning, printed; run with `cargo test --release --test formats_speed
//! -- --ignored --nocapture`.

use std::time::Instant;

use srd_rs::dtype::SourceType;
use srd_rs::formats::decode::{decode_row_at, scan_at};
use srd_rs::simd_level::available;

/// Source bytes: more than the caches hold, so that memory is what is measured.
const BYTES: usize = 64 << 20;
/// Weights decoded at a time, as the pipeline does.
const ROW: usize = 4 << 10;

/// Best of several runs, in source GB/s.
fn rate(mut run: impl FnMut()) -> f64 {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    let best = (0..7).map(|_| time(&mut run)).fold(f64::INFINITY, f64::min);
    BYTES as f64 / best / 1e9
}

#[test]
#[ignore = "a measurement, not a check"]
fn throughput() {
    let source: Vec<u8> = (0..BYTES).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
    let mut out = vec![0f32; ROW];
    let mut copy = vec![0u8; ROW * 2];
    let copied = rate(|| source.chunks_exact(ROW * 2).for_each(|c| copy.copy_from_slice(c)));
    println!("copy into a buffer of {} KiB: {copied:.1} GB/s", ROW / 512);
    for ty in [SourceType::F32, SourceType::BF16, SourceType::F16, SourceType::F8E4M3, SourceType::F8E5M2] {
        for level in available() {
            let decode = rate(|| {
                for row in source.chunks_exact(ROW * ty.bytes()) {
                    decode_row_at(level, ty, row, &mut out);
                    std::hint::black_box(&mut out);
                }
            });
            let scan = rate(|| {
                std::hint::black_box(scan_at(level, ty, &source));
            });
            println!("{ty:?} {}: decode {decode:.1} GB/s, scan {scan:.1} GB/s", level.name());
        }
    }
}
