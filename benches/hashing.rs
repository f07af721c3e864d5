//! Prints the GB/s at which the digest of a shard (its SHA-256 and its tag) is made on one thread:
//! `cargo bench --bench hashing`.
//!
//! The table also has an HMAC over the bytes themselves beside their SHA-256, which is what an earlier draft of the
//! format asked for, and one SHA-256 each of `openssl speed` and of `sha256sum`, where they are installed. The time is
//! the CPU time of the thread, the best of several rounds in which every line has one run.

use std::process::{Command, Stdio};

use ring::digest::{SHA256, digest};
use ring::hmac;
use rustix::time::{ClockId, Timespec, clock_gettime};
use srd_rs::sign::Sha256;
use srd_rs::sign::keys::{ContainerKeys, MasterKey};
use srd_rs::sign::tags::{ShardPlace, shard_tag};

/// The number of bytes in a shard, as the writer cuts them.
const BYTES: usize = 8 << 20;
const ROUNDS: usize = 15;
/// The number of bytes that `container.rs` hashes at a time.
const PIECE: usize = 64 << 10;

fn seconds(clock: ClockId) -> f64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    tv_sec as f64 + tv_nsec as f64 * 1e-9
}

fn gb_per_second(bytes: usize, work: impl FnOnce()) -> f64 {
    let start = seconds(ClockId::ThreadCPUTime);
    work();
    bytes as f64 / (seconds(ClockId::ThreadCPUTime) - start) / 1e9
}

/// The digest of a shard as the format has it: SHA-256 of the bytes, HMAC of the place and the SHA-256.
fn shard_digest(keys: &ContainerKeys, bytes: &[u8]) {
    let tensor = "blk.10.ffn_down.weight";
    let place = ShardPlace {
        container: &[1; 32],
        tensor,
        plane: 0,
        index: 0,
        count: 1,
        offset: 65536,
        length: 8 << 20,
    };
    let mut hasher = Sha256::default();
    bytes.chunks(PIECE).for_each(|piece| hasher.update(piece));
    std::hint::black_box(shard_tag(keys, &place, &hasher.finish()));
}

/// SHA-256 of the bytes and HMAC over a prefix and the bytes, piece by piece, both by `ring`.
fn hash_and_hmac_of_the_bytes(key: &hmac::Key, bytes: &[u8]) {
    let (mut hasher, mut tag) = (Sha256::default(), hmac::Context::with_key(key));
    tag.update(&[9; 100]);
    for piece in bytes.chunks(PIECE) {
        hasher.update(piece);
        tag.update(piece);
    }
    std::hint::black_box((hasher.finish(), tag.sign()));
}

/// SHA-256 of pieces of 16 KiB, over one second of CPU time.
fn openssl() -> Option<f64> {
    let arguments = ["speed", "-mr", "-seconds", "1", "-bytes", "16384", "-evp", "sha256"];
    let output = Command::new("openssl").args(arguments).stderr(Stdio::null()).output().ok()?;
    // The line looks like "+F:22:sha256:2018574336.00".
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().find(|l| l.starts_with("+F:"))?;
    Some(line.rsplit(':').next()?.parse::<f64>().ok()? / 1e9)
}

/// SHA-256 of a file of many shards, so that the start of the program counts for little.
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
    let keys = MasterKey::from_bytes([7; 32]).derive(&[8; 32]);
    let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    let mut best = [0.0_f64; 5];
    for round in 0..ROUNDS {
        let outside = |run: &dyn Fn() -> Option<f64>| if round < 3 { run().unwrap_or(0.0) } else { 0.0 };
        let speeds = [
            gb_per_second(BYTES, || shard_digest(&keys, &bytes)),
            gb_per_second(BYTES, || hash_and_hmac_of_the_bytes(&hmac_key, &bytes)),
            gb_per_second(BYTES, || {
                std::hint::black_box(digest(&SHA256, &bytes));
            }),
            outside(&openssl),
            outside(&|| sha256sum(&bytes)),
        ];
        best = std::array::from_fn(|i| best[i].max(speeds[i]));
    }
    let names = [
        "digest of a shard: SHA-256, HMAC of place and hash",
        "SHA-256 and HMAC, each over the bytes",
        "one SHA-256, ring",
        "one SHA-256, openssl speed",
        "one SHA-256, sha256sum (with reading)",
    ];
    println!("| on one thread | GB/s of data |\n| --- | ---: |");
    for (name, speed) in names.iter().zip(best) {
        let speed = if speed > 0.0 { format!("{speed:.2}") } else { "not installed".into() };
        println!("| {name} | {speed} |");
    }
}
