//! GB/s of hash and tag of a shard, on one thread: `cargo bench --bench hashing`.
//!
//! Beside ours: `ring` for one and then the other, as before, and one SHA-256 each of `ring`, of
//! `openssl speed` and of `sha256sum`, where they are installed. Time is that of the CPU, the best of several
//! turns in which each has one.

use std::process::{Command, Stdio};

use ring::digest::{SHA256, digest};
use rustix::time::{ClockId, Timespec, clock_gettime};
use srd_rs::sign::two_hashes::TwoHashes;

/// A shard as the writer cuts them.
const BYTES: usize = 8 << 20;
const TURNS: usize = 15;
/// What `container.rs` gives at a time.
const PIECE: usize = 64 << 10;
const KEY: [u8; 32] = [7; 32];
/// As long as that of a tensor with a name of 22 letters.
const PREFIX: [u8; 100] = [9; 100];

fn seconds(clock: ClockId) -> f64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    tv_sec as f64 + tv_nsec as f64 * 1e-9
}

fn gb_per_second(bytes: usize, work: impl FnOnce()) -> f64 {
    let start = seconds(ClockId::ThreadCPUTime);
    work();
    bytes as f64 / (seconds(ClockId::ThreadCPUTime) - start) / 1e9
}

fn both(mut hashes: TwoHashes, bytes: &[u8]) {
    bytes.chunks(PIECE).for_each(|piece| hashes.update(piece));
    std::hint::black_box(hashes.finish());
}

/// SHA-256 of pieces of 16 KiB, over a second of the CPU's time.
fn openssl() -> Option<f64> {
    let arguments = ["speed", "-mr", "-seconds", "1", "-bytes", "16384", "-evp", "sha256"];
    let output = Command::new("openssl").args(arguments).stderr(Stdio::null()).output().ok()?;
    // "+F:22:sha256:2018574336.00"
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().find(|l| l.starts_with("+F:"))?;
    Some(line.rsplit(':').next()?.parse::<f64>().ok()? / 1e9)
}

/// Of a file of many shards, so that starting the program counts for little.
fn sha256sum(bytes: &[u8]) -> Option<f64> {
    let shards = 32;
    let file = tempfile::NamedTempFile::new().ok()?;
    std::fs::write(file.path(), bytes.repeat(shards)).ok()?;
    // User and system time, in seconds.
    let timed = r#"TIMEFORMAT="%U %S"; time sha256sum "$0""#;
    let output = Command::new("bash").args(["-c", timed]).arg(file.path()).output().ok()?;
    let times = String::from_utf8(output.stderr).ok()?;
    let [user, system] = times.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    let seconds = user.parse::<f64>().ok()? + system.parse::<f64>().ok()?;
    Some((bytes.len() * shards) as f64 / seconds / 1e9)
}

fn main() {
    let bytes: Vec<u8> = (0..BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut best = [0.0_f64; 5];
    for turn in 0..TURNS {
        let outside = |run: &dyn Fn() -> Option<f64>| if turn < 3 { run().unwrap_or(0.0) } else { 0.0 };
        let speeds = [
            gb_per_second(BYTES, || both(TwoHashes::portable(&KEY, &PREFIX), &bytes)),
            gb_per_second(BYTES, || both(TwoHashes::new(&KEY, &PREFIX), &bytes)),
            gb_per_second(BYTES, || {
                std::hint::black_box(digest(&SHA256, &bytes));
            }),
            outside(&openssl),
            outside(&|| sha256sum(&bytes)),
        ];
        best = std::array::from_fn(|i| best[i].max(speeds[i]));
    }
    let names = [
        "hash and tag, ring for each",
        "hash and tag, side by side",
        "one SHA-256, ring",
        "one SHA-256, openssl speed",
        "one SHA-256, sha256sum (with reading)",
    ];
    println!("| on one thread | GB/s of data |\n| --- | ---: |");
    for (name, speed) in names.iter().zip(best) {
        let speed = if speed > 0.0 { format!("{speed:.2}") } else { "not installed".into() };
        println!("| {name} | {speed} |");
    }
    println!("\nside by side: {:.2} times the speed of ring for each", best[1] / best[0]);
}
