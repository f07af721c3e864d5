//! Runs every fuzz target on its corpus, and on copies of each file that are changed in a fixed way, for a few seconds. A
//! fuzzer finds more; this test finds at once when a reader panics on what an earlier run of the fuzzer found.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time that a target runs on changed copies: 1.5 seconds, or the seconds in the variable `SRD_FUZZ_SECONDS`.
fn time() -> Duration {
    let seconds = std::env::var("SRD_FUZZ_SECONDS").map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs_f64(seconds.unwrap_or(1.5))
}

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// The generator xorshift64*, so that every run changes the files in the same way.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Changes some bytes: single ones, numbers of 4 or 8 bytes, digits, or the length.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        const NUMBERS: [u64; 8] =
            [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                3 => {
                    let digits: Vec<usize> =
                        (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
                    if !digits.is_empty() {
                        bytes[digits[self.below(digits.len())]] = b'0' + self.below(10) as u8;
                    }
                }
                kind => {
                    // A place where a small number of four bytes stands is more likely to matter.
                    let small = |i: &usize| bytes[i + 1..i + 4] == [0; 3] && (1..=64).contains(&bytes[*i]);
                    let places: Vec<usize> = (0..bytes.len().saturating_sub(3)).filter(small).collect();
                    let at =
                        if kind == 4 || places.is_empty() { at } else { places[self.below(places.len())] };
                    let width = if kind < 7 { 4 } else { 8 };
                    let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number[..end - at]);
                }
            }
        }
    }
}

fn run(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(n, _)| *n == name).expect("the target exists");
    let files = corpus(name);
    assert!(!files.is_empty(), "the corpus of {name} is empty");
    let contents: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    contents.iter().for_each(|bytes| target(bytes));
    let (start, mut random, mut runs) = (Instant::now(), Random(0x5eed), 0u64);
    let time = time();
    while start.elapsed() < time {
        let mut bytes = contents[random.below(contents.len())].clone();
        random.change(&mut bytes);
        let one = Instant::now();
        target(&bytes);
        if one.elapsed() > Duration::from_secs(20) {
            let file = std::env::temp_dir().join(format!("slow-{name}"));
            std::fs::write(&file, &bytes).unwrap();
            panic!("{name}: an input took {:?}; it is in {}", one.elapsed(), file.display());
        }
        runs += 1;
    }
    println!("{name}: {} files, {runs} changed copies", files.len());
}

#[test]
fn axm() {
    run("axm");
}

#[test]
fn calibration() {
    run("calibration");
}

#[test]
fn gguf() {
    run("gguf");
}

#[test]
fn imatrix() {
    run("imatrix");
}

#[test]
fn model() {
    run("model");
}

#[test]
fn safetensors() {
    run("safetensors");
}

#[test]
fn sidecar() {
    run("sidecar");
}
