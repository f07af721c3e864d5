//! Every hostile file of the shared fixtures ends as its manifest says, and says why.

mod formats_support;

use std::path::Path;
use std::time::{Duration, Instant};

use formats_support::shared;
use serde_json::Value;
use srd_rs::Error;
use srd_rs::formats::decode::{first_bad, scan};
use srd_rs::formats::gguf::GgufFile;
use srd_rs::formats::safetensors::Checkpoint;

/// Largest weight whose F16 block scale is certain not to overflow.
const F16_MAX: f32 = 65504.0;

fn cases(prefix: &str) -> Option<Vec<Value>> {
    let root = shared("fixtures/bad")?;
    let manifest = std::fs::read_to_string(root.join("MANIFEST.json")).unwrap();
    let all: Vec<Value> = serde_json::from_str(&manifest).unwrap();
    let cases: Vec<Value> =
        all.into_iter().filter(|c| c["file"].as_str().unwrap().starts_with(prefix)).collect();
    assert!(!cases.is_empty(), "the manifest has no {prefix} cases");
    Some(cases)
}

/// Runs `f` and checks that it takes no longer than a user would wait for an error.
fn quickly<T>(file: &str, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let outcome = f();
    assert!(start.elapsed() < Duration::from_secs(2), "{file} took {:?}", start.elapsed());
    outcome
}

/// Opens the checkpoint and, as a converter would, asks for the type of every weight.
fn open_weights(path: &Path) -> srd_rs::Result<Checkpoint> {
    let checkpoint = Checkpoint::open(path)?;
    for tensor in checkpoint.tensors() {
        checkpoint.weight_type(tensor)?;
    }
    Ok(checkpoint)
}

/// `(tensor, index, fits F16)` of the first weight that must be reported, found as the pipeline would.
fn first_report(checkpoint: &Checkpoint) -> Option<(String, usize)> {
    for tensor in checkpoint.tensors() {
        let ty = checkpoint.weight_type(tensor).unwrap();
        let mut bytes = vec![0; tensor.bytes as usize];
        checkpoint.read_at(tensor, 0, &mut bytes).unwrap();
        let found = scan(ty, &bytes);
        let bad = first_bad(ty, &bytes, F16_MAX);
        assert_eq!(bad.is_some(), found.non_finite || found.max_abs > F16_MAX, "{}", tensor.name);
        if let Some(index) = bad {
            return Some((tensor.name.clone(), index));
        }
    }
    None
}

fn assert_names_file(error: &Error, file: &str, path: &Path) {
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{file}: the message does not name the file: {text}");
    assert!(text.len() < 1000, "{file}: the message has {} characters", text.len());
    assert!(!matches!(error, Error::Usage { .. } | Error::Interrupted), "{file}: {error:?}");
}

#[test]
fn safetensors_files() {
    let Some(cases) = cases("st/") else { return };
    let root = shared("fixtures/bad").unwrap();
    for case in cases {
        let file = case["file"].as_str().unwrap();
        let path = root.join(file);
        let outcome = quickly(file, || open_weights(&path));
        match (case["expect"].as_str().unwrap(), outcome) {
            ("reject", Err(e)) => assert_names_file(&e, file, &path),
            ("reject", Ok(_)) => panic!("{file} was accepted: {}", case["wrong"]),
            (_, Err(e)) => panic!("{file} was rejected: {e}"),
            ("accept", Ok(c)) => assert_eq!(first_report(&c), None, "{file}"),
            (_, Ok(c)) => {
                let (_, index) = first_report(&c).unwrap_or_else(|| panic!("{file}: nothing was reported"));
                assert_eq!(index, expected_index(case["wrong"].as_str().unwrap()), "{file}");
            }
        }
    }
}

/// The first number of "one NaN at flat index 300", "F16 NaN at 5, Inf at 6", ...
fn expected_index(wrong: &str) -> usize {
    let after = wrong.split(" at ").nth(1).unwrap_or_else(|| panic!("no index in '{wrong}'"));
    let digits: String =
        after.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn gguf_files() {
    let Some(cases) = cases("gguf/") else { return };
    let root = shared("fixtures/bad").unwrap();
    for case in cases {
        let file = case["file"].as_str().unwrap();
        let path = root.join(file);
        match (case["expect"].as_str().unwrap(), quickly(file, || GgufFile::open(&path))) {
            ("reject", Err(e)) => {
                assert!(matches!(e, Error::Format { .. }), "{file}: {e:?}");
                assert_names_file(&e, file, &path);
            }
            ("accept", Ok(gguf)) => assert!(gguf.kv.len() >= 2, "{file}"),
            ("reject", Ok(_)) => panic!("{file} was accepted: {}", case["wrong"]),
            (_, Err(e)) => panic!("{file} was rejected: {e}"),
            (expect, Ok(_)) => panic!("{file}: unknown expectation {expect}"),
        }
    }
}

/// Of the model folders, those that are about the weight files; the rest is judged by the converter.
#[test]
fn folders() {
    let Some(cases) = cases("dir/") else { return };
    let root = shared("fixtures/bad").unwrap();
    let rejected =
        |name: &str| name.starts_with("index_") || name.starts_with("shard_") || name == "no_weights";
    let mut seen = 0;
    for case in cases {
        let file = case["file"].as_str().unwrap();
        let name = file.trim_start_matches("dir/").trim_end_matches('/');
        let path = root.join("dir").join(name);
        let outcome = quickly(file, || open_weights(&path));
        if rejected(name) {
            seen += 1;
            assert_eq!(case["expect"], "reject", "{file}");
            match outcome {
                Ok(_) => panic!("{file} was accepted: {}", case["wrong"]),
                Err(e) => assert_names_file(&e, file, &path),
            }
            continue;
        }
        let checkpoint = outcome.unwrap_or_else(|e| panic!("{file}: its weight files are sound, but: {e}"));
        let reports = case["expect"] == "report";
        assert_eq!(first_report(&checkpoint).is_some(), reports, "{file}: {}", case["wrong"]);
    }
    assert!(seen >= 14, "only {seen} folders were about weight files");
}
