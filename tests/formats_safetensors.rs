//! Checkpoints as they come: files, folders, shards, links; and as they should not come.

mod formats_support;

use std::fs;
use std::path::Path;

use formats_support::{pattern, safetensors, with_header, write};
use proptest::prelude::*;
use srd_rs::Error;
use srd_rs::dtype::SourceType;
use srd_rs::formats::safetensors::Checkpoint;

fn small() -> Vec<u8> {
    safetensors(&[
        ("b.weight", "F32", &[4, 8], pattern(128)),
        ("a.weight", "BF16", &[3, 5], pattern(30)),
        ("ids", "I64", &[2], pattern(16)),
        ("packed", "F4", &[4], pattern(2)),
    ])
}

fn open_bytes(bytes: &[u8]) -> srd_rs::Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    Checkpoint::open(write(&folder.path().join("x.safetensors"), bytes))
}

fn message(outcome: srd_rs::Result<Checkpoint>) -> String {
    outcome.expect_err("this should have been refused").to_string()
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.tensors().iter().map(|t| t.name.as_str()).collect()
}

#[test]
fn a_file_gives_its_tensors_and_their_bytes() {
    let checkpoint = open_bytes(&small()).unwrap();
    assert_eq!(names(&checkpoint), ["a.weight", "b.weight", "ids", "packed"]);
    let b = checkpoint.find("b.weight").unwrap();
    assert_eq!((b.shape.as_slice(), b.bytes, b.dtype.name()), (&[4, 8][..], 128, "F32"));
    assert_eq!(checkpoint.weight_type(b).unwrap(), SourceType::F32);
    let mut bytes = [0; 100];
    checkpoint.read_at(b, 28, &mut bytes).unwrap();
    assert_eq!(bytes, pattern(128)[28..]);
    assert!(checkpoint.find("c").is_none());
}

#[test]
fn reading_outside_a_tensor_is_refused() {
    let checkpoint = open_bytes(&small()).unwrap();
    let b = checkpoint.find("b.weight").unwrap();
    for (offset, n) in [(0, 129), (128, 1), (u64::MAX, 2)] {
        let error = checkpoint.read_at(b, offset, &mut vec![0; n]).unwrap_err();
        assert!(matches!(error, Error::Usage { .. }), "{error:?}");
    }
    checkpoint.read_at(b, 128, &mut []).unwrap();
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error_with_file_tensor_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder.path().join("x.safetensors"), &small());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let b = checkpoint.find("b.weight").unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(b.offset + 10).unwrap();
    let text = checkpoint.read_at(b, 8, &mut [0; 16]).unwrap_err().to_string();
    let at = b.offset + 8;
    let start = format!("{}: tensor 'b.weight', at byte {at}: the file has become shorter", path.display());
    assert!(text.starts_with(&start), "{text}");
}

#[test]
fn integers_and_empty_tensors_open_but_are_no_weights() {
    let checkpoint =
        open_bytes(&safetensors(&[("ids", "I64", &[2], pattern(16)), ("none", "F32", &[0, 4], vec![])]))
            .unwrap();
    for (name, says) in [("ids", "holds I64"), ("none", "no elements")] {
        let error = checkpoint.weight_type(checkpoint.find(name).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Model { .. }), "{error:?}");
        assert!(error.to_string().contains(says) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn headers_that_break_the_format_are_refused_with_the_reason() {
    let entry = r#""dtype":"F32","shape":[1],"data_offsets":[0,4]"#;
    for (json, says) in [
        (format!(r#"{{"a":{{{entry},"shape":[1]}}}}"#), "shape occurs twice"),
        (format!(r#"{{"a":{{{entry},"more":1}}}}"#), "unknown field 'more'"),
        (format!(r#"{{"a":{{{entry}}},"a":{{{entry}}}}}"#), "is in the header twice"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), "__metadata__ occurs twice"),
        (r#"{"__metadata__":{"a":"b","a":"c"}}"#.into(), "a key of __metadata__ occurs twice"),
        (r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,4]}}"#.into(), "no whole u64"),
        (
            format!(r#"{{"a":{{{entry}}},"a":{{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}}}"#),
            "in the header twice",
        ),
        (format!(r#"{{"a":{{{entry}}},"b":{{{entry}}}}}"#), "inside the tensor before it"),
    ] {
        let text = message(open_bytes(&with_header(&json, &[0; 4])));
        assert!(text.contains(says), "{json}: {text}");
    }
}

/// The number of keys that metadata may have is as large as the number of tensors that a small file may have.
#[test]
fn more_keys_of_metadata_than_any_file_has_are_refused() {
    let header = |n: usize| {
        let keys: Vec<String> = (0..n).map(|i| format!(r#""{i}":"x""#)).collect();
        let json = format!(
            r#"{{"__metadata__":{{{}}},"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#,
            keys.join(",")
        );
        with_header(&json, &[0; 4])
    };
    assert!(open_bytes(&header(1 << 16)).is_ok());
    let text = message(open_bytes(&header((1 << 16) + 1)));
    assert!(text.contains("more than 65536 keys of __metadata__"), "{text}");
    assert!(text.contains("save the file again without these keys"), "{text}");
}

#[test]
fn an_error_in_the_header_names_the_tensor_and_the_byte() {
    let json = r#"{"first":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"second":{"dtype":"Q9"}}"#;
    let text = message(open_bytes(&with_header(json, &[0; 4])));
    // The parser has read up to the end of the value when it is refused.
    let at = 8 + json.find("}}").unwrap();
    assert!(text.contains("tensor 'second'") && text.contains(&format!("at byte {at}:")), "{text}");
}

#[test]
fn an_empty_folder_says_what_is_missing_and_pickles_get_their_own_advice() {
    let folder = tempfile::tempdir().unwrap();
    let text = message(Checkpoint::open(folder.path()));
    assert!(text.contains("no safetensors weights"), "{text}");
    write(&folder.path().join("pytorch_model.bin"), b"x");
    assert!(message(Checkpoint::open(folder.path())).contains("from which pickled weights are read"));
    assert!(matches!(Checkpoint::open(folder.path().join("nothing")), Err(Error::Io { .. })));
}

/// A folder with two shards named by an index, and the index's text.
fn sharded(folder: &Path) -> String {
    write(
        &folder.join("m-00001-of-00002.safetensors"),
        &safetensors(&[("z", "F32", &[1], pattern(4)), ("c", "F32", &[1], pattern(4))]),
    );
    write(&folder.join("m-00002-of-00002.safetensors"), &safetensors(&[("a", "F16", &[2], pattern(4))]));
    // The second shard comes first in the map: shards are ordered by name all the same.
    let (one, two) = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors");
    let index = format!(r#"{{"metadata":{{"x":[1]}},"weight_map":{{"a":"{two}","z":"{one}","c":"{one}"}}}}"#);
    write(&folder.join("model.safetensors.index.json"), index.as_bytes());
    index
}

#[test]
fn shards_of_an_index_come_in_order_of_name() {
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(names(&checkpoint), ["c", "z", "a"]);
    assert_eq!(checkpoint.find("a").unwrap().shard, 1);
    assert_eq!(checkpoint.shards().len(), 2);
}

#[test]
fn an_index_may_list_a_tied_output_matrix_that_no_shard_has() {
    let folder = tempfile::tempdir().unwrap();
    let index = sharded(folder.path());
    let path = folder.path().join("model.safetensors.index.json");
    for (name, accepted) in
        [("lm_head.weight", true), ("language_model.lm_head.weight", true), ("lost", false)]
    {
        let entry = format!(r#""weight_map":{{"{name}":"m-00001-of-00002.safetensors","#);
        write(&path, index.replace(r#""weight_map":{"#, &entry).as_bytes());
        assert_eq!(Checkpoint::open(folder.path()).is_ok(), accepted, "{name}");
    }
}

#[test]
fn numbered_shards_without_an_index_are_found_if_complete() {
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path());
    fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    assert_eq!(names(&Checkpoint::open(folder.path()).unwrap()), ["c", "z", "a"]);
    fs::remove_file(folder.path().join("m-00001-of-00002.safetensors")).unwrap();
    assert!(message(Checkpoint::open(folder.path())).contains("1 of 2 numbered"));
}

#[test]
fn one_file_of_another_name_is_the_model_and_two_are_not() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("weights.safetensors"), &small());
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().len(), 4);
    // An adapter and a second copy of the weights do not count, as in a download from the hub.
    write(&folder.path().join("adapter.safetensors"), &small());
    write(&folder.path().join("weights.fp16.safetensors"), &small());
    assert_eq!(Checkpoint::open(folder.path()).unwrap().shards().len(), 1);
    write(&folder.path().join("other.safetensors"), &small());
    assert!(message(Checkpoint::open(folder.path())).contains("2 safetensors files that are not one model"));
    write(&folder.path().join("model.safetensors"), &small());
    assert_eq!(Checkpoint::open(folder.path()).unwrap().shards().len(), 1);
}

/// Download caches keep the files elsewhere and link them: the link is followed, the name is not
/// allowed to point there itself.
#[test]
#[cfg(unix)]
fn links_out_of_the_folder_work_where_names_out_of_it_do_not() {
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/1"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let index = sharded(&snapshot);
    let (shard, blob) = (snapshot.join("m-00002-of-00002.safetensors"), blobs.join("a.safetensors"));
    fs::rename(&shard, &blob).unwrap();
    std::os::unix::fs::symlink("../../blobs/a.safetensors", &shard).unwrap();
    assert_eq!(Checkpoint::open(&snapshot).unwrap().tensors().len(), 3);

    for name in ["../../blobs/a.safetensors", "./../../blobs/a.safetensors", blob.to_str().unwrap(), "", ".."]
    {
        let bad = index.replace("m-00002-of-00002.safetensors", name);
        write(&snapshot.join("model.safetensors.index.json"), bad.as_bytes());
        let text = message(Checkpoint::open(&snapshot));
        assert!(text.contains("is not inside the folder"), "{name}: {text}");
    }
    write(&snapshot.join("model.safetensors.index.json"), index.as_bytes());
    fs::remove_file(&blob).unwrap();
    assert!(message(Checkpoint::open(&snapshot)).contains("which is missing"));
}

#[test]
fn an_index_with_a_key_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let index = sharded(folder.path());
    for (from, to, says) in [
        (r#""c":"#, r#""z":"#, "tensor 'z' occurs twice"),
        (r#""metadata":{"x":[1]}"#, r#""weight_map":{}"#, "weight_map occurs twice"),
        (r#"}}"#, r#"}} x"#, "trailing characters"),
    ] {
        let path = folder.path().join("model.safetensors.index.json");
        let bad = if from == "}}" { format!("{index} x") } else { index.replace(from, to) };
        write(&path, bad.as_bytes());
        let text = message(Checkpoint::open(folder.path()));
        assert!(text.contains(says) && text.contains("index.json"), "{text}");
    }
}

#[test]
fn nesting_bombs_neither_overflow_the_stack_nor_pass() {
    let deep = "[".repeat(2_000_000);
    for json in [
        format!(r#"{{"a":{{"shape":{deep}"#),
        format!(r#"{{"a":{{"unknown":{deep}"#),
        format!(r#"{{"__metadata__":{{"a":{deep}"#),
    ] {
        message(open_bytes(&with_header(&json, &[])));
    }
    let folder = tempfile::tempdir().unwrap();
    let bomb = format!(r#"{{"metadata":{}{},"weight_map":{{}}}}"#, deep, "]".repeat(deep.len()));
    write(&folder.path().join("model.safetensors.index.json"), bomb.as_bytes());
    assert!(message(Checkpoint::open(folder.path())).contains("names no shard"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens to the bytes, opening never panics, and what opens lies inside the file.
    #[test]
    fn damaged_files_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = small();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(checkpoint) = open_bytes(&bytes) {
            for t in checkpoint.tensors() {
                prop_assert!(t.offset + t.bytes <= bytes.len() as u64);
                checkpoint.read_at(t, 0, &mut vec![0; t.bytes as usize]).unwrap();
            }
        }
    }

    /// Arbitrary text as a header.
    #[test]
    fn arbitrary_headers_never_panic(json in r#"\{("[a-z]{0,3}":(\{\}|\[|\]|-?[0-9.e]{1,22}|"[A-Z0-9_]{1,6}"),?){0,6}\}?"#) {
        let _ = open_bytes(&with_header(&json, &[0; 8]));
    }
}
