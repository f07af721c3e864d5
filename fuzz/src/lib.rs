//! The fuzz targets: one function for each reader of untrusted bytes.
//!
//! A target takes any bytes. It must return within a second and within a few hundred megabytes, without a panic. Where a
//! reader accepts the bytes, the target also checks what the reader promises. cargo-fuzz runs the targets through the
//! files in `fuzz_targets/`; `tests/fuzz_corpus.rs` of the crate runs them on the corpora and on changed copies.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use srd_rs::formats::axm::layout::{Header, Layout};
use srd_rs::formats::axm::reader::check_metadata;
use srd_rs::formats::calibration::Calibration;
use srd_rs::formats::gguf::reader::read_header;
use srd_rs::formats::gguf::{Gguf, TensorHeader, encode_header};
use srd_rs::formats::imatrix::Importance;
use srd_rs::formats::safetensors;
use srd_rs::forward::{self, NoObserver, RunOptions};
use srd_rs::met::Sidecar;
use srd_rs::met::sidecar::Part;
use srd_rs::model::bound::BoundModel;
use srd_rs::progress::Progress;

/// The GGUF that the sidecar of the corpus describes.
const SMALL_GGUF: &[u8] = include_bytes!("../corpus/gguf/small.gguf");

/// A target: its name and the function that reads the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target with its name, which is also the name of its corpus.
pub const TARGETS: [Target; 7] = [
    ("axm", axm),
    ("calibration", calibration),
    ("gguf", gguf),
    ("imatrix", imatrix),
    ("model", model),
    ("safetensors", safetensors_header),
    ("sidecar", sidecar),
];

/// A container: everything except its shards.
pub fn axm(bytes: &[u8]) {
    let _ = check_metadata(bytes, bytes.len() as u64, Path::new("fuzz.axm"));
    // The hashes stop most inputs before the header is parsed, so the bytes are parsed as a header as well.
    if let Ok(header) = Header::parse(bytes) {
        let layout = Layout::of(&header, bytes.len() as u64);
        assert!(layout.is_none_or(|l| l.shards.len() as u64 == header.count_shards()));
    }
}

/// The header of a safetensors file. Accepted tensors cover the data exactly.
pub fn safetensors_header(bytes: &[u8]) {
    let Ok(tensors) = safetensors::read_header(bytes, bytes.len() as u64, Path::new("x")) else { return };
    let covered: u64 = tensors.iter().map(|t| t.bytes).sum();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(8 + header + covered, bytes.len() as u64);
    assert!(tensors.iter().all(|t| t.offset + t.bytes <= bytes.len() as u64));
}

/// The header of a GGUF. An accepted header is encoded to the same bytes again.
pub fn gguf(bytes: &[u8]) {
    let Ok(header) = read_header(bytes, bytes.len() as u64, Path::new("x")) else { return };
    let tensors: Vec<TensorHeader> =
        header.tensors.iter().map(|t| TensorHeader { name: &t.name, ne: &t.ne, ty: t.ty }).collect();
    let encoded = encode_header(&header.kv, &tensors).expect("what was accepted can be written");
    assert_eq!(encoded.bytes.len() as u64, header.data_offset);
    // The version may be 2, and the padding may be any bytes; the facts in between are the same.
    let offsets: Vec<u64> = header.tensors.iter().map(|t| t.offset).collect();
    assert_eq!(encoded.tensor_offsets, offsets);
    assert_eq!(encoded.bytes[8..24], bytes[8..24]);
}

/// An importance matrix, as `.dat` or as GGUF.
pub fn imatrix(bytes: &[u8]) {
    with_file(bytes, |path| {
        let Ok(importance) = Importance::open(path) else { return };
        for ne in [&[4, 2][..], &[4, 2, 3]] {
            if let Ok(Some(values)) = importance.of("blk.0.attn_q.weight", ne) {
                assert!(values.iter().all(|v| v.is_finite() && *v >= 0.0));
            }
        }
    });
}

/// A calibration file: its header, and the moments of each input. The digest of the data is left out, because a changed
/// byte would be found by it before anything else is looked at.
pub fn calibration(bytes: &[u8]) {
    with_file(bytes, |path| {
        let _ = Calibration::open(path);
        let Ok(calibration) = File::open(path).map(|file| Calibration::from_file(file, path)).unwrap() else {
            return;
        };
        let calibration = Arc::new(calibration);
        for name in calibration.tensors() {
            let moments = calibration.get(name).expect("the file has the tensor");
            for expert in 0..moments.experts() {
                if let Ok(read) = moments.read(expert) {
                    assert!(read.values.iter().all(|v| v.is_finite()));
                }
            }
            let _ = moments.diagonal();
        }
    });
}

/// A MET sidecar, held against a small GGUF. An accepted sidecar is written to an equal one.
pub fn sidecar(bytes: &[u8]) {
    let Ok(sidecar) = Sidecar::parse(bytes, Path::new("x.met.json")) else { return };
    let again = Sidecar::parse(sidecar.to_json().as_bytes(), Path::new("x.met.json"))
        .expect("it was accepted before");
    assert_eq!(again, sidecar);
    with_file(SMALL_GGUF, |path| {
        let gguf = Gguf::open(path).expect("the GGUF is sound");
        if sidecar.check(&gguf, Path::new("x.met.json")).is_ok() {
            assert_eq!(Part::all().map(|part| sidecar.bytes(part)).sum::<u64>(), gguf.parts()[0].file_size);
        }
    });
}

/// A GGUF as a model: its metadata and tensors, and a forward pass over a few tokens.
pub fn model(bytes: &[u8]) {
    with_file(bytes, |path| {
        let Ok(gguf) = Gguf::open(path) else { return };
        let Ok(model) = BoundModel::from_gguf(&gguf) else { return };
        let options = RunOptions {
            logits: true,
            threads: 1,
            max_memory: 64 << 20,
            spill_folder: Path::new("/tmp"),
            progress: &Progress::default(),
            token_weights: None,
        };
        let _ = forward::run(&model, &[vec![1, 2, 3, 0]], &mut NoObserver, &options);
    });
}

fn with_file(bytes: &[u8], f: impl FnOnce(&Path)) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(bytes).expect("the disk has room");
    f(file.path());
}
