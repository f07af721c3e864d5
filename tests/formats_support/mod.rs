//! Small checkpoints and GGUFs built in memory, and where the shared fixtures are.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Returns the shared fixtures below a folder. Where they are not at hand the test's caller returns, and a line on
/// standard error says so: it is written past the test harness, which would keep it from whoever reads the log.
pub fn shared(below: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SRD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = root.join(below);
    if path.exists() {
        return Some(path);
    }
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: {} is absent (SRD_SHARED names the shared folder)",
        path.display()
    );
    None
}

/// A safetensors file of these `(name, dtype, shape, data)`, one after another.
pub fn safetensors(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert((*name).to_string(), entry);
    }
    with_header(&serde_json::to_string(&header).unwrap(), &data)
}

/// A safetensors file with this header text, padded with spaces to 8 bytes.
pub fn with_header(json: &str, data: &[u8]) -> Vec<u8> {
    let padded = json.len().next_multiple_of(8);
    let mut file = (padded as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.resize(8 + padded, b' ');
    file.extend_from_slice(data);
    file
}

pub fn write(path: &Path, bytes: &[u8]) -> PathBuf {
    fs::write(path, bytes).unwrap();
    path.to_path_buf()
}

/// Bytes that differ from place to place.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}
