//! Positioned reads against a memory map, for the decision in docs/decisions/0002-reading.md.
//!
//! `cargo bench --bench read_source -- FILE [PASSES]` decodes a BF16 file front to back in chunks of 64 KiB with each
//! way in turn, and prints wall and CPU seconds and the peak of resident memory that the way adds.

use std::fs::File;
use std::os::unix::fs::FileExt;

use memmap2::{Advice, Mmap, UncheckedAdvice};
use srd_rs::convert::report::Clock;
use srd_rs::dtype::SourceType;
use srd_rs::formats::decode;

const CHUNK: usize = 64 << 10;
/// Mapped pages are given back behind the reader every so many bytes.
const WINDOW: usize = 16 << 20;

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Decodes a chunk and looks at it, as the pipeline does.
fn consume(bytes: &[u8], weights: &mut Vec<f32>) -> f32 {
    weights.resize(bytes.len() / 2, 0.0);
    decode::decode_row(SourceType::BF16, bytes, weights);
    decode::scan(SourceType::F32, bytemuck::cast_slice(weights)).max_abs
}

fn by_reads(file: &File, size: usize) -> u64 {
    let (mut raw, mut weights, mut peak) = (vec![0; CHUNK], Vec::new(), 0);
    for at in (0..size).step_by(CHUNK) {
        let n = CHUNK.min(size - at);
        file.read_exact_at(&mut raw[..n], at as u64).expect("the file is whole");
        std::hint::black_box(consume(&raw[..n], &mut weights));
        if at % WINDOW == 0 {
            peak = peak.max(resident_kb());
        }
    }
    peak
}

fn by_map(file: &File, size: usize) -> u64 {
    // SAFETY: nothing else writes the file while the bench runs.
    let map = unsafe { Mmap::map(file) }.expect("the file can be mapped");
    map.advise(Advice::Sequential).expect("advice is taken");
    let (mut weights, mut peak) = (Vec::new(), 0);
    for at in (0..size).step_by(CHUNK) {
        std::hint::black_box(consume(&map[at..(at + CHUNK).min(size)], &mut weights));
        if at % WINDOW == 0 {
            peak = peak.max(resident_kb());
            if at >= WINDOW {
                // SAFETY: the pages are clean and read-only; touched again, they are read again.
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, at - WINDOW, WINDOW) }
                    .expect("advice is taken");
            }
        }
    }
    peak
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let Some(path) = args.first() else {
        println!("usage: cargo bench --bench read_source -- FILE [PASSES]");
        return;
    };
    let passes: usize = args.get(1).and_then(|n| n.parse().ok()).unwrap_or(5);
    let file = File::open(path).expect("the file can be opened");
    let size = file.metadata().expect("it has a size").len() as usize / 2 * 2;
    type Way = fn(&File, usize) -> u64;
    for pass in 0..passes {
        for (name, way) in [("reads", by_reads as Way), ("map", by_map as Way)] {
            let (clock, before) = (Clock::start(), resident_kb());
            let peak = way(&file, size);
            println!(
                "{pass} {name:5} wall {:.2} s, CPU {:.2} s, {:.2} GB/s, {:.1} MB resident",
                clock.seconds(),
                clock.cpu_seconds(),
                size as f64 / clock.seconds() / 1e9,
                peak.saturating_sub(before) as f64 / 1e3
            );
        }
    }
}
