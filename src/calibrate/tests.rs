use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::error::{Error, Result};
use crate::formats::calibration::{Calibration, Info, Output, Quantized, SecondMoments};
use crate::forward::Observer;
use crate::progress::Progress;
use crate::sign::{sha256, to_hex};

fn info(block: u64) -> Info {
    Info {
        text: "builtin".into(),
        text_sha256: Some("ab".repeat(32)),
        seed: 7,
        weighed: false,
        tokens: 32,
        ctx: 16,
        block,
        source_digest: "sha256:00".into(),
    }
}

fn file(path: &Path) -> Output {
    Output::File { path: path.to_path_buf(), overwrite: false }
}

/// Returns rows of `n` numbers that look random. A seed always gives the same numbers.
fn inputs(rows: usize, n: usize, seed: u64) -> Vec<f32> {
    (0..(rows * n) as u64)
        .map(|i| {
            let hash = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            hash as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Returns element (i, j) of the mean of `x^T x`, in f64.
fn expected(x: &[f32], n: usize, i: usize, j: usize) -> f64 {
    let rows = x.len() / n;
    x.chunks(n).map(|r| f64::from(r[i]) * f64::from(r[j])).sum::<f64>() / rows as f64
}

fn assert_moments(m: &SecondMoments, x: &[f32]) {
    let n = m.n;
    for i in 0..n {
        let start = i / m.block * m.block;
        for j in 0..m.block {
            let want = if start + j < n { expected(x, n, i, start + j) } else { 0.0 };
            let got = f64::from(m.values[i * m.block + j]);
            assert!((got - want).abs() < 1e-5, "({i}, {j}): {got} for {want}");
        }
    }
}

const Q: &str = "blk.0.attn_q.weight";
const K: &str = "blk.0.attn_k.weight";
const DOWN: &str = "blk.1.ffn_down_exps.weight";
const OUT: &str = "output.weight";
const N: usize = 600;

fn write(path: &Path, block: u64) -> (Arc<Calibration>, Vec<f32>, Vec<f32>) {
    let shapes: [(&str, &[u64]); 4] =
        [(Q, &[600, 8]), (K, &[600, 4]), (DOWN, &[256, 8, 3]), (OUT, &[600, 9])];
    let mut accumulator = Accumulator::create(&shapes, info(block), &file(path)).unwrap();
    let (x, experts) = (inputs(32, N, 1), inputs(600, 256, 2));
    accumulator.inputs(&[Q, K], None, N, &x[..20 * N]).unwrap();
    accumulator.inputs(&[Q, K], None, N, &x[20 * N..]).unwrap();
    accumulator.inputs(&[DOWN], Some(0), 256, &experts[..512 * 256]).unwrap();
    accumulator.inputs(&[DOWN], Some(2), 256, &experts[512 * 256..]).unwrap();
    accumulator.inputs(&[OUT], None, N, &x).unwrap();
    (Arc::new(accumulator.finish().unwrap()), x, experts)
}

#[test]
fn moments_are_the_means_of_x_xt_and_survive_the_file() {
    for block in [0, 256, 512] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        let (_, x, _) = write(&path, block);
        assert!(Calibration::recognize(&path));
        let read = Arc::new(Calibration::open(&path).unwrap());
        assert_eq!(read.info, info(block));
        assert_eq!(read.tensors(), [K, Q, DOWN, OUT]);
        let q = read.of(Q, &[600, 8]).unwrap().unwrap();
        assert_eq!((q.n(), q.experts(), q.tokens(0), q.is_stack()), (N, 1, 32, false));
        assert_eq!(q.block(), if block == 0 { N } else { block as usize });
        assert_eq!(q.input(), read.get(K).unwrap().input());
        let moments = q.read(0).unwrap();
        assert_moments(&moments, &x);
        assert_eq!(q.diagonal().unwrap(), moments.diagonal());
        assert_moments(&read.get(OUT).unwrap().read(0).unwrap(), &x);
        assert_eq!(read.get(K).unwrap().read(0).unwrap(), moments);
    }
}

#[test]
fn experts_that_saw_little_lean_on_their_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (read, _, x) = write(&dir.path().join("c"), 256);
    let down = read.of(DOWN, &[256, 8, 3]).unwrap().unwrap();
    assert_eq!((0..3).map(|e| down.tokens(e)).collect::<Vec<_>>(), [512, 0, 88]);
    let n = 256;
    // 512 tokens are enough for a block of 256: its own. None: the layer's. 88: a blend.
    assert_moments(&down.read(0).unwrap(), &x[..512 * n]);
    assert_moments(&down.read(1).unwrap(), &x);
    let blend = down.read(2).unwrap();
    for i in [0, 3, 255] {
        let own = expected(&x[512 * n..], n, i, i);
        let want = own * 88.0 / 512.0 + expected(&x, n, i, i) * (512.0 - 88.0) / 512.0;
        assert!((f64::from(blend.values[i * n + i]) - want).abs() < 1e-5);
    }
    assert_eq!(down.diagonal().unwrap().len(), 3 * n);
}

#[test]
fn the_same_bytes_with_and_without_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let shapes: [(&str, &[u64]); 1] = [(Q, &[600, 8])];
    let run = |output: &Output| {
        let mut accumulator = Accumulator::create(&shapes, info(256), output).unwrap();
        accumulator.inputs(&[Q], None, N, &inputs(8, N, 3)).unwrap();
        Arc::new(accumulator.finish().unwrap())
    };
    let named = run(&file(&dir.path().join("c")));
    let unnamed = run(&Output::Unnamed { beside: dir.path().join("out.gguf") });
    // Windows has no files without a name: the file vanishes when it is closed.
    assert!(cfg!(windows) || names(dir.path()) == ["c"]);
    assert_eq!(named.digest, unnamed.digest);
    assert_eq!(named.get(Q).unwrap().read(0).unwrap(), unnamed.get(Q).unwrap().read(0).unwrap());
    drop(unnamed);
    assert_eq!(names(dir.path()), ["c"]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (read, ..) = write(&dir.path().join("c"), 256);
    for (name, ne) in [(Q, vec![512, 8]), (Q, vec![600, 8, 2]), (DOWN, vec![256, 8, 4])] {
        let error = read.of(name, &ne).unwrap_err();
        assert!(matches!(error, Error::Model { .. }) && error.to_string().contains("this very model"));
    }
    assert!(read.of("blk.9.attn_q.weight", &[600, 8]).unwrap().is_none());
    let shapes: [(&str, &[u64]); 1] = [(Q, &[600, 8])];
    let output = file(&dir.path().join("d"));
    assert!(Accumulator::create(&shapes, info(100), &output).is_err());
    let mut accumulator = Accumulator::create(&shapes, info(256), &output).unwrap();
    assert!(accumulator.inputs(&[Q], None, 599, &[0.0; 599]).is_err());
    assert!(accumulator.inputs(&["blk.0.x.weight"], None, N, &[0.0; N]).is_err());
    assert!(accumulator.inputs(&[Q], None, N, &[0.0; N + 1]).is_err());
    assert!(accumulator.finish().is_err());
    let mut accumulator = Accumulator::create(&shapes, info(256), &output).unwrap();
    accumulator.inputs(&[Q], None, N, &[1e30; N]).unwrap();
    let error = accumulator.finish().map(drop).unwrap_err();
    assert!(error.to_string().contains("overflow"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Opens a file with the given metadata entry for `inputs`, the given tensors and the given data.
fn hostile(dir: &Path, inputs: &str, tensors: &str, data: &[f32]) -> Result<Arc<Calibration>> {
    let quoted = serde_json::to_string(inputs).unwrap();
    let data: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
    let sha256 = to_hex(&sha256(&[&data]));
    let metadata = format!(
        r#"{{"format":"srd-calibration","version":"1","source.digest":"x","text":"t","seed":"0","tokens":"1","ctx":"1","block":"0","data.sha256":"{sha256}","inputs":{quoted}}}"#
    );
    let json = format!(r#"{{"__metadata__":{metadata}{tensors}}}"#);
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.bytes());
    bytes.extend(data);
    let path = dir.join("hostile");
    std::fs::write(&path, bytes).unwrap();
    Calibration::open(&path).map(Arc::new)
}

#[test]
fn hostile_files_give_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let one = r#"[{"tensors":["a"],"tokens":[1]}]"#;
    let entry = |shape: &str, bytes: u64| {
        format!(r#","a.moments":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{bytes}]}}"#)
    };
    let cases = [
        (one, entry("[2,2]", 16), 4, ""),
        (one, entry("[2,2]", 16), 3, "data"),
        (one, entry("[4,1]", 16), 4, "blocks of 1 for 4"),
        (one, entry("[2,0]", 0), 0, "blocks of 0"),
        (one, entry("[1,2,2]", 16), 4, ""),
        (one, entry("[2,2,1]", 16), 4, "2 matrices and 1 counts"),
        (one, entry("[4]", 16), 4, "not [n, block]"),
        (one, entry("[4294967296,4294967296]", 16), 4, "size"),
        (one, String::new(), 0, "not there"),
        ("[]", entry("[2,2]", 16), 4, "belongs to no input"),
        ("[]", String::new(), 0, "no statistics"),
        (r#"[{"tensors":[],"tokens":[1]}]"#, String::new(), 0, "without tensors"),
        (r#"[{"tensors":["a","a"],"tokens":[1]}]"#, entry("[2,2]", 16), 4, "two inputs"),
        (r#"[{"tensors":["a"],"tokens":[-1]}]"#, entry("[2,2]", 16), 4, "not valid"),
        ("[[[", entry("[2,2]", 16), 4, "not valid"),
    ];
    for (inputs, tensors, floats, message) in cases {
        match hostile(dir.path(), inputs, &tensors, &vec![1.0; floats]) {
            Ok(_) => assert!(message.is_empty(), "{inputs} {tensors} was taken"),
            Err(error) => {
                let text = error.to_string();
                assert!(!message.is_empty() && text.contains(message), "{text} for {message}");
                assert!(text.contains("hostile"), "{text}");
            }
        }
    }
}

#[test]
fn values_that_are_no_moments_are_refused_when_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = r#"[{"tensors":["a"],"tokens":[1]}]"#;
    let entry = r#","a.moments":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}"#;
    let cases: [(&[f32; 4], &str); 5] = [
        (&[1.0, 0.5, 0.5, 1.0], ""),
        (&[1.0, f32::NAN, 0.5, 1.0], "not finite"),
        (&[1.0, 0.5, 0.5, f32::INFINITY], "not finite"),
        (&[-1.0, 0.5, 0.5, 1.0], "mean of squares"),
        (&[1.0, 0.5, 0.25, 1.0], "not symmetric"),
    ];
    for (values, message) in cases {
        let moments = hostile(dir.path(), inputs, entry, values).unwrap().get("a").unwrap();
        match moments.read(0) {
            Ok(read) => assert!(message.is_empty() && read.values == values),
            Err(error) => {
                let text = error.to_string();
                assert!(matches!(error, Error::Format { .. }) && text.contains(message), "{text}");
                assert!(text.contains("tensor 'a.moments', at byte"), "{text}");
            }
        }
    }
    let negative = hostile(dir.path(), inputs, entry, &[1.0, 0.0, 0.0, f32::NAN]).unwrap();
    assert!(negative.get("a").unwrap().diagonal().is_err());
}

#[test]
fn other_moments_under_the_same_header_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    drop(write(&path, 256));
    let mut bytes = std::fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in [start, (start + bytes.len()) / 2, bytes.len() - 1] {
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = Calibration::open(&path).unwrap_err().to_string();
        assert!(error.contains("data.sha256"), "{error}");
        bytes[at] ^= 1;
    }
    std::fs::write(&path, &bytes).unwrap();
    Calibration::open(&path).unwrap();
}

#[test]
fn truncated_files_give_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let (read, ..) = write(&path, 256);
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 7, 8, 100, 5000, bytes.len() / 2, bytes.len() - 1] {
        let short = dir.path().join("short");
        std::fs::write(&short, &bytes[..cut]).unwrap();
        assert!(Calibration::open(&short).is_err(), "{cut} bytes");
    }
    // Cut while it is open: the read says so.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64 / 2).unwrap();
    assert!(matches!(read.get(OUT).unwrap().read(0), Err(Error::Io { .. })));
}

#[test]
fn an_imatrix_of_it_is_read_back_as_its_diagonals() {
    use crate::formats::imatrix::{Importance, write_imatrix};

    let dir = tempfile::tempdir().unwrap();
    let (read, ..) = write(&dir.path().join("c"), 256);
    let path = dir.path().join("imatrix.gguf");
    write_imatrix(&read, &path, false).unwrap();
    assert!(write_imatrix(&read, &path, false).is_err());
    let (imatrix, own) = (Importance::open(&path).unwrap(), Importance::from_calibration(&read).unwrap());
    assert_eq!((imatrix.len(), imatrix.chunks), (4, 2));
    assert_eq!(imatrix.datasets, ["builtin"]);
    for (name, ne) in [(Q, vec![600, 8]), (DOWN, vec![256, 8, 3])] {
        let of = |from: &Importance| from.of(name, &ne).unwrap().unwrap();
        let pair = of(&imatrix).into_iter().zip(of(&own));
        assert!(pair.map(|(a, b)| (a - b).abs() / b).all(|d| d < 1e-6));
    }
}

const UP: &str = "blk.0.ffn_up.weight";
const NEXT: &str = "blk.1.ffn_up.weight";

/// The number of layers and the states that a pass went on from.
type Found = Option<(usize, Vec<Vec<f32>>)>;

/// A pass of two layers, with inputs of no layer before and behind them. `stop` ends it when so many layers are kept, as a kill does.
/// Returns the calibration, and the number of layers and the states that the pass went on from.
fn pass(path: &Path, stop: Option<usize>) -> Option<(Calibration, Found)> {
    let shapes: [(&str, &[u64]); 5] =
        [(Q, &[600, 8]), (UP, &[600, 8]), (NEXT, &[600, 8]), (DOWN, &[256, 8, 3]), (OUT, &[600, 9])];
    let output = Output::Kept { path: path.to_path_buf() };
    let mut accumulator = Accumulator::create_with(&shapes, info(256), &output, 2).unwrap();
    // A pass that is not killed and goes on from nothing keeps nothing: what is kept changes no byte.
    if stop.is_some() {
        accumulator.keep_always();
    }
    accumulator.inputs(&[OUT], None, N, &inputs(4, N, 9)).unwrap();
    let found = accumulator.resume(&Progress::default()).unwrap();
    let done = found.as_ref().map_or(0, |f| f.0);
    let layers: [&[&str]; 2] = [&[Q, UP], &[NEXT]];
    for (layer, names) in layers.iter().enumerate().skip(done) {
        for (i, name) in names.iter().enumerate() {
            accumulator.inputs(&[name], None, N, &inputs(32, N, (10 * layer + i) as u64)).unwrap();
        }
        if layer == 1 {
            accumulator.inputs(&[DOWN], Some(1), 256, &inputs(32, 256, 3)).unwrap();
        }
        // A number that JSON does not give back as it was.
        let (error, energy) = (51.248_178_375_505_404 + layer as f64, 1.0 / 3.0);
        let tensor = format!("blk.{layer}.attn_v.weight");
        let of = Quantized { tensor, r#type: "Q4_K".into(), error, rows: 8, energy, sampled: 1 };
        accumulator.add_quantized(of, &[layer as u8; 77]).unwrap();
        let states = [inputs(5, 7, layer as u64), vec![layer as f32; layer]];
        accumulator.layers_done(layer + 1, &[&states[0], &states[1]]).unwrap();
        if stop == Some(layer + 1) {
            // What was begun behind the last layer that is kept is not taken.
            accumulator.inputs(&[OUT], None, N, &inputs(3, N, 5)).unwrap();
            return None;
        }
    }
    accumulator.inputs(&[OUT], None, N, &inputs(8, N, 4)).unwrap();
    Some((accumulator.finish().unwrap(), found))
}

fn names(folder: &Path) -> Vec<String> {
    let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_killed_pass_goes_on_behind_the_last_layer_that_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, path) = (dir.path().join("whole"), dir.path().join("c"));
    let (digest, found) = pass(&whole, None).map(|(c, found)| (c.digest, found)).unwrap();
    assert!(found.is_none());
    for stops in [&[1][..], &[2], &[1, 2], &[]] {
        for &stop in stops {
            assert!(pass(&path, Some(stop)).is_none());
            let names = names(dir.path());
            assert_eq!(names[..2], [".c.partial", ".c.state-0"]);
            assert!(names[2..].iter().all(|n| [".c.state-1", ".whole.sums", "whole"].contains(&n.as_str())));
        }
        let (calibration, found) = pass(&path, None).unwrap();
        assert_eq!(calibration.digest, digest, "{stops:?}");
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&whole).unwrap());
        let expected =
            stops.last().map(|&n| (n, vec![inputs(5, 7, n as u64 - 1), vec![n as f32 - 1.0; n - 1]]));
        assert_eq!(found, expected);
        assert_eq!(names(dir.path()), [".c.sums", ".whole.sums", "c", "whole"]);
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(dir.path().join(".c.sums")).unwrap();
    }
}

#[test]
fn a_part_of_a_kept_calibration_is_verified_when_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    pass(&path, None).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let open = || Calibration::open_kept(&path).map(Arc::new);
    let blocks = |c: &Arc<Calibration>, layer: usize| {
        let blocks = c.blocks_of(&format!("blk.{layer}.attn_v.weight"), crate::dtype::GgmlType::Q4_K, 77);
        let mut bytes = [0; 3];
        blocks.unwrap().unwrap().read(70, &mut bytes).map(|()| bytes)
    };
    let errors = |c: &Arc<Calibration>| -> Vec<bool> {
        let of = |name: &str, expert| c.get(name).unwrap().read(expert).map(drop);
        let diagonal = c.get(NEXT).unwrap().diagonal().map(drop);
        let moments = [of(Q, 0), of(UP, 0), of(NEXT, 0), of(DOWN, 0), of(DOWN, 1), of(OUT, 0), diagonal];
        let all = moments.into_iter().chain((0..2).map(|layer| blocks(c, layer).map(drop)));
        all.map(|result| match result {
            Ok(()) => false,
            Err(e) => {
                assert!(e.to_string().contains("has other bytes than when"), "{e}");
                true
            }
        })
        .collect()
    };
    assert_eq!(errors(&open().unwrap()), [false; 9]);
    assert_eq!(blocks(&open().unwrap(), 1).unwrap(), [1; 3]);
    // The moments of the second layer, and the last byte of the blocks of the first layer.
    let at = |name: &str| {
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&whole[8..8 + header]).unwrap();
        8 + header + json[name]["data_offsets"][0].as_u64().unwrap() as usize
    };
    let mut bytes = whole.clone();
    bytes[at(&format!("{NEXT}.moments")) + 3] ^= 1;
    bytes[at("blk.0.attn_v.weight.blocks") + 76] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (next, first) = (2, 7);
    let expected: Vec<bool> = (0..9).map(|i| [next, 6, first].contains(&i)).collect();
    assert_eq!(errors(&open().unwrap()), expected);
    // Without the digests, or with those of another file, all data are read.
    let sums = dir.path().join(".c.sums");
    let kept = std::fs::read_to_string(&sums).unwrap();
    for text in [kept.replacen("sha256:", "sha256;", 1), kept[..kept.len() - 65].into(), String::new()] {
        std::fs::write(&sums, text).unwrap();
        assert!(open().unwrap_err().to_string().contains("data.sha256"));
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(errors(&open().unwrap()), [false; 9]);
    assert_eq!(std::fs::read_to_string(&sums).unwrap(), kept);
}

#[test]
fn what_was_kept_of_a_pass_and_is_damaged_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, path) = (dir.path().join("whole"), dir.path().join("c"));
    pass(&whole, None).unwrap();
    for (name, part) in [(".c.partial", 0), (".c.state-0", 1), (".c.state-0", 20), (".c.state-0", 1000)] {
        pass(&path, Some(1));
        let damaged = dir.path().join(name);
        let mut bytes = std::fs::read(&damaged).unwrap();
        let at = bytes.len() - bytes.len().checked_div(part).unwrap_or(1);
        bytes[at] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        let (_, found) = pass(&path, None).unwrap();
        assert!(found.is_none(), "{name} {part}");
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&whole).unwrap());
        // A state that is cut off, and a file that is shorter than the state says.
        pass(&path, Some(1));
        let file = std::fs::OpenOptions::new().write(true).open(&damaged).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        assert!(pass(&path, None).unwrap().1.is_none());
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&whole).unwrap());
    }
}

#[test]
fn what_an_unknown_pass_has_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, path) = (dir.path().join("whole"), dir.path().join("c"));
    pass(&whole, None).unwrap();
    std::fs::write(dir.path().join(".c.partial"), vec![7; 10 << 20]).unwrap();
    pass(&path, None).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&whole).unwrap());
}

#[test]
fn a_pass_that_fails_before_a_layer_is_kept_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = Output::Kept { path: dir.path().join("c") };
    let shapes: [(&str, &[u64]); 1] = [(Q, &[600, 8])];
    let create = || Accumulator::create(&shapes, info(256), &output).unwrap();
    create().failed();
    assert!(names(dir.path()).is_empty());
    let mut kept = create();
    kept.keep_always();
    // Another process that makes the same file meanwhile keeps nothing, and neither of them fails.
    let mut second = create();
    second.keep_always();
    for accumulator in [&mut kept, &mut second] {
        accumulator.inputs(&[Q], None, N, &inputs(8, N, 3)).unwrap();
    }
    kept.layers_done(1, &[]).unwrap();
    kept.failed();
    // The second has a file without a name, or on Windows under another name.
    assert!(cfg!(windows) || names(dir.path()) == [".c.partial", ".c.state-0"]);
    second.layers_done(1, &[]).unwrap();
    second.finish().unwrap();
    assert_eq!(names(dir.path()), [".c.partial", ".c.state-0", "c"]);
}

#[test]
fn how_the_tokens_are_spread_over_calls_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let shapes: [(&str, &[u64]); 2] = [(Q, &[600, 8]), (DOWN, &[256, 8, 2])];
    let (x, experts) = (inputs(900, N, 4), inputs(700, 256, 5));
    let made = |calls: usize, is_told: bool| {
        let path = dir.path().join(format!("{calls}-{is_told}"));
        let mut accumulator = Accumulator::create(&shapes, info(256), &file(&path)).unwrap();
        let count = x.len().div_ceil(calls * N);
        for (i, x) in x.chunks(calls * N).enumerate() {
            accumulator.group(is_told && i + 1 == count);
            accumulator.inputs(&[Q], None, N, x).unwrap();
        }
        let count = experts.len().div_ceil(calls * 256);
        for (i, x) in experts.chunks(calls * 256).enumerate() {
            accumulator.group(is_told && i + 1 == count);
            accumulator.inputs(&[DOWN], Some(1), 256, x).unwrap();
        }
        accumulator.finish().unwrap();
        std::fs::read(path).unwrap()
    };
    let whole = made(900, true);
    for (calls, is_told) in [(900, false), (1, true), (7, false), (256, true), (257, false), (600, true)] {
        assert!(made(calls, is_told) == whole, "{calls} tokens in a call");
    }
}

#[test]
fn sums_that_go_from_machine_to_machine_are_those_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let shapes: [(&str, &[u64]); 3] = [(Q, &[600, 8]), (DOWN, &[256, 8, 3]), (OUT, &[600, 9])];
    let (x, experts) = (inputs(700, N, 1), inputs(600, 256, 2));
    /// Takes the inputs of matrices: names, the expert, the width of a row and the rows.
    type Taker<'a> = &'a mut dyn FnMut(&[&str], Option<usize>, usize, &[f32]);
    let show = |tensor: &str, x: &[f32], to: Taker| match tensor {
        DOWN => to(&[DOWN], Some(1), 256, x),
        _ => to(&[tensor], None, N, x),
    };
    let values = |tensor: &str| if tensor == DOWN { &experts[..] } else { &x[..] };
    let (alone, together) = (dir.path().join("alone"), dir.path().join("together"));
    let mut accumulator = Accumulator::create(&shapes, info(256), &file(&alone)).unwrap();
    for tensor in [Q, DOWN, OUT] {
        show(tensor, values(tensor), &mut |t, e, n, x| accumulator.inputs(t, e, n, x).unwrap());
    }
    accumulator.finish().unwrap();
    let mut accumulator = Accumulator::create(&shapes, info(256), &file(&together)).unwrap();
    let sums = dir.path().join("sums");
    for tensor in [Q, DOWN, OUT] {
        let width = if tensor == DOWN { 256 } else { N };
        for (share, x) in values(tensor).chunks(300 * width).enumerate() {
            let mut open = accumulator::Open::new(&shapes, 256).unwrap();
            if share > 0 {
                open.read(&sums).unwrap();
            }
            show(tensor, x, &mut |t, e, n, x| open.add(t, e, n, x).unwrap());
            open.write(&sums).unwrap();
        }
        accumulator.take_sums(&sums).unwrap();
    }
    let error = accumulator.take_sums(&sums).unwrap_err();
    assert!(error.to_string().contains("two steps"), "{error}");
    accumulator.finish().unwrap();
    assert_eq!(std::fs::read(alone).unwrap(), std::fs::read(together).unwrap());
    let whole = std::fs::read(&sums).unwrap();
    for cut in [0, 20, 200, whole.len() - 1] {
        std::fs::write(&sums, &whole[..cut]).unwrap();
        let mut accumulator = Accumulator::create(&shapes, info(256), &file(&dir.path().join("c"))).unwrap();
        let error = accumulator.take_sums(&sums).unwrap_err();
        assert!(error.to_string().contains("not whole"), "{error}");
    }
}
