//! GGUF: what is written is read back, real files are read fast and lean, damage is found.

mod formats_support;

use std::path::Path;
use std::time::Instant;

use formats_support::{pattern, shared, write};
use proptest::prelude::*;
use srd_rs::dtype::GgmlType;
use srd_rs::formats::gguf::reader::{Header, read_header};
use srd_rs::formats::gguf::{Array, EncodedHeader, GgufFile, KeyValues, TensorHeader, Value, encode_header};

/// The whole file: header and zeros where the tensors go.
fn file_of(header: &EncodedHeader) -> Vec<u8> {
    let mut bytes = header.bytes.clone();
    bytes.resize(header.total_size as usize, 0);
    bytes
}

fn parse(bytes: &[u8]) -> srd_rs::Result<Header> {
    read_header(bytes, bytes.len() as u64, Path::new("x.gguf"))
}

fn small_kv() -> KeyValues {
    let mut kv = KeyValues::new();
    kv.push("general.architecture", Value::String("llama".into())).unwrap();
    kv.push("llama.block_count", Value::U32(2)).unwrap();
    kv.push("tokenizer.ggml.tokens", Value::Array(Array::String(["a", "", "é"].iter().collect()))).unwrap();
    kv.push("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.5, -1.0, f32::MIN]))).unwrap();
    kv
}

fn small_tensors() -> Vec<TensorHeader<'static>> {
    vec![
        TensorHeader { name: "a", ne: &[256, 3], ty: GgmlType::Q4_K },
        TensorHeader { name: "b", ne: &[5], ty: GgmlType::F32 },
        TensorHeader { name: "c", ne: &[32, 2, 2, 2], ty: GgmlType::Q8_0 },
    ]
}

#[test]
fn the_header_is_laid_out_byte_by_byte_as_the_format_says() {
    let mut kv = KeyValues::new();
    kv.push("k", Value::U16(7)).unwrap();
    let header = encode_header(&kv, &[TensorHeader { name: "t", ne: &[4, 2], ty: GgmlType::F16 }]).unwrap();
    let mut want = b"GGUF".to_vec();
    want.extend(3u32.to_le_bytes());
    want.extend(1u64.to_le_bytes());
    want.extend(1u64.to_le_bytes());
    want.extend(1u64.to_le_bytes());
    want.extend(b"k");
    want.extend(2u32.to_le_bytes());
    want.extend(7u16.to_le_bytes());
    want.extend(1u64.to_le_bytes());
    want.extend(b"t");
    want.extend(2u32.to_le_bytes());
    want.extend(4u64.to_le_bytes());
    want.extend(2u64.to_le_bytes());
    want.extend(1u32.to_le_bytes());
    want.extend(0u64.to_le_bytes());
    want.resize(want.len().next_multiple_of(32), 0);
    assert_eq!(header.bytes, want);
    assert_eq!(header.tensor_offsets, [want.len() as u64]);
    assert_eq!(header.tensor_bytes, [16]);
    assert_eq!(header.total_size, want.len() as u64 + 32);
}

#[test]
fn what_is_written_is_read_back() {
    let (kv, tensors) = (small_kv(), small_tensors());
    let encoded = encode_header(&kv, &tensors).unwrap();
    let header = parse(&file_of(&encoded)).unwrap();
    assert_eq!(header.kv, kv);
    assert_eq!((header.version, header.alignment), (3, 32));
    assert_eq!(header.data_offset, encoded.bytes.len() as u64);
    assert_eq!(header.file_size, encoded.total_size);
    let offsets: Vec<u64> = header.tensors.iter().map(|t| t.offset).collect();
    assert_eq!(offsets, encoded.tensor_offsets);
    assert_eq!(header.tensors.iter().map(|t| t.bytes).collect::<Vec<_>>(), [3 * 144, 20, 8 * 34]);
    assert_eq!(header.find("c").unwrap().ne, [32, 2, 2, 2]);
}

#[test]
fn tensor_bytes_are_read_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let encoded = encode_header(&small_kv(), &small_tensors()).unwrap();
    let mut bytes = file_of(&encoded);
    let at = encoded.tensor_offsets[1] as usize;
    bytes[at..at + 20].copy_from_slice(&pattern(20));
    let gguf = GgufFile::open(write(&folder.path().join("x.gguf"), &bytes)).unwrap();
    let mut out = [0; 12];
    gguf.read_at(gguf.find("b").unwrap(), 8, &mut out).unwrap();
    assert_eq!(out, pattern(20)[8..]);
    assert!(gguf.read_at(gguf.find("b").unwrap(), 9, &mut out).is_err());
}

#[test]
fn the_padding_after_the_last_tensor_may_be_missing_but_no_byte_of_it() {
    let encoded = encode_header(&small_kv(), &small_tensors()).unwrap();
    let bytes = file_of(&encoded);
    let end = (encoded.tensor_offsets[2] + encoded.tensor_bytes[2]) as usize;
    assert!(end < bytes.len());
    assert!(parse(&bytes[..end]).is_ok());
    let text = parse(&bytes[..end - 1]).unwrap_err().to_string();
    assert!(text.contains("tensor 'c'") && text.contains("beyond the end"), "{text}");
}

#[test]
fn version_2_is_read_and_others_are_not() {
    let mut bytes = file_of(&encode_header(&small_kv(), &small_tensors()).unwrap());
    for (version, ok) in [(2u32, true), (3, true), (1, false), (4, false), (3 << 24, false)] {
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        assert_eq!(parse(&bytes).is_ok(), ok, "version {version}");
    }
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let kv = KeyValues::new();
    let long = "x".repeat(64);
    let t = |name, ne, ty| encode_header(&kv, &[TensorHeader { name, ne, ty }]);
    assert!(t("a", &[100], GgmlType::Q4_K).unwrap_err().to_string().contains("no multiple of the 256"));
    assert!(t(&long, &[1], GgmlType::F32).is_err());
    assert!(t(&long[1..], &[1], GgmlType::F32).is_ok());
    assert!(t("a", &[1, 1, 1, 1, 1], GgmlType::F32).is_err());
    assert!(t("a", &[1 << 62, 2], GgmlType::I8).is_err());
    assert!(t("a", &[4, 0], GgmlType::F32).is_err());
    let twice = [TensorHeader { name: "a", ne: &[1], ty: GgmlType::F32 }; 2];
    assert!(encode_header(&kv, &twice).unwrap_err().to_string().contains("occurs twice"));
    // Each fits, together they pass 2^64.
    let names = ["a", "b", "c"];
    let huge = names.map(|name| TensorHeader { name, ne: &[1 << 60], ty: GgmlType::F64 });
    assert!(encode_header(&kv, &huge).is_err());
    let mut kv = KeyValues::new();
    kv.push("general.alignment", Value::U32(48)).unwrap();
    assert!(encode_header(&kv, &[]).is_err());
}

#[test]
fn another_alignment_is_kept() {
    let mut kv = small_kv();
    kv.push("general.alignment", Value::U32(4096)).unwrap();
    let encoded = encode_header(&kv, &small_tensors()).unwrap();
    assert!(encoded.tensor_offsets.iter().all(|o| o % 4096 == 0));
    assert_eq!(parse(&file_of(&encoded)).unwrap().alignment, 4096);
}

/// A vocabulary as large as Gemma's is read in a fraction of a second, and encoding what was read
/// gives the same bytes.
#[test]
fn a_large_vocabulary_is_read_fast() {
    let tokens: Vec<String> = (0..262_144).map(|i| format!("token▁{i}")).collect();
    let merges: Vec<String> = (0..514_906).map(|i| format!("to▁{} ken▁{i}", i % 977)).collect();
    let mut kv = small_kv();
    kv.push("tokens", Value::Array(Array::String(tokens.iter().collect()))).unwrap();
    kv.push("merges", Value::Array(Array::String(merges.iter().collect()))).unwrap();
    kv.push("types", Value::Array(Array::I32((0..262_144).collect()))).unwrap();
    let bytes = file_of(&encode_header(&kv, &small_tensors()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder.path().join("x.gguf"), &bytes);
    let start = Instant::now();
    let gguf = GgufFile::open(&path).unwrap();
    let took = start.elapsed();
    eprintln!("{} bytes of header read in {took:?}", gguf.data_offset);
    assert!(took.as_secs_f64() < 1.0, "took {took:?}");
    let Some(Value::Array(Array::String(read))) = gguf.kv.get("merges") else { panic!("merges are gone") };
    assert!(read.iter().eq(merges.iter().map(String::as_str)));
    assert_eq!(gguf.kv, kv);
}

/// Real files written by llama.cpp: reading and encoding again gives their header to the byte.
#[test]
#[ignore = "needs a folder of GGUF files, which SRD_GGUF_SAMPLES names"]
fn real_files_survive_a_round_trip() {
    let folder = std::env::var_os("SRD_GGUF_SAMPLES").expect("SRD_GGUF_SAMPLES names a folder of GGUF files");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        seen += 1;
        let gguf = GgufFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let tensors: Vec<TensorHeader> =
            gguf.tensors.iter().map(|t| TensorHeader { name: &t.name, ne: &t.ne, ty: t.ty }).collect();
        let mut encoded = encode_header(&gguf.kv, &tensors).unwrap();
        encoded.bytes[4..8].copy_from_slice(&gguf.version.to_le_bytes());
        let original = std::fs::read(&path).unwrap();
        assert!(original.starts_with(&encoded.bytes), "{} differs", path.display());
        assert_eq!(original.len() as u64, encoded.total_size, "{}", path.display());
    }
    assert!(seen > 0, "the folder has no GGUF files");
}

#[test]
fn the_shared_control_files_survive_a_round_trip() {
    let Some(folder) = shared("fixtures/bad/gguf") else { return };
    for name in ["ok.gguf", "ok_align64.gguf", "ok_no_tensors.gguf"] {
        let gguf = GgufFile::open(folder.join(name)).unwrap();
        let tensors: Vec<TensorHeader> =
            gguf.tensors.iter().map(|t| TensorHeader { name: &t.name, ne: &t.ne, ty: t.ty }).collect();
        let encoded = encode_header(&gguf.kv, &tensors).unwrap();
        assert!(std::fs::read(folder.join(name)).unwrap().starts_with(&encoded.bytes), "{name}");
    }
}

fn array() -> impl Strategy<Value = Array> {
    use prop::collection::vec;
    prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<f32>(), 0..9).prop_map(Array::F32),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(".{0,5}", 0..9).prop_map(|v| Array::String(v.iter().collect())),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<f64>(), 0..9).prop_map(Array::F64),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::String),
        array().prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

type AnyTensor = (String, Vec<u64>, GgmlType);

fn tensor() -> impl Strategy<Value = AnyTensor> {
    let ty = prop::sample::select(vec![
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::Q4_0,
        GgmlType::Q4_K,
        GgmlType::Q6_K,
        GgmlType::IQ4_NL,
        GgmlType::I8,
    ]);
    ("[a-z.é]{1,30}", 1u64..4, prop::collection::vec(1u64..4, 0..4), ty).prop_map(
        |(name, blocks, rest, ty)| {
            let mut ne = vec![blocks * ty.block_len() as u64];
            ne.extend(rest);
            (name, ne, ty)
        },
    )
}

fn key_values() -> impl Strategy<Value = KeyValues> {
    prop::collection::hash_map("[a-z._é]{1,12}", value(), 0..6).prop_map(|entries| {
        let mut kv = KeyValues::new();
        entries.into_iter().for_each(|(k, v)| kv.push(k, v).unwrap());
        kv
    })
}

fn headers(tensors: &[AnyTensor]) -> Vec<TensorHeader<'_>> {
    tensors.iter().map(|(name, ne, ty)| TensorHeader { name, ne, ty: *ty }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_header_survives_a_round_trip(
        kv in key_values(),
        tensors in prop::collection::vec(tensor(), 0..6),
        alignment in prop::option::of(0u32..13),
    ) {
        let mut kv = kv;
        if let Some(power) = alignment {
            kv.set("general.alignment", Value::U32(1 << power));
        }
        let mut tensors = tensors;
        let mut seen = std::collections::HashSet::new();
        tensors.retain(|t| seen.insert(t.0.clone()));
        let encoded = encode_header(&kv, &headers(&tensors)).unwrap();
        let read = parse(&file_of(&encoded)).unwrap();
        // Any NaN equals itself as bytes, not as a number.
        let again: Vec<TensorHeader> =
            read.tensors.iter().map(|t| TensorHeader { name: &t.name, ne: &t.ne, ty: t.ty }).collect();
        prop_assert_eq!(&again, &headers(&tensors));
        prop_assert_eq!(encode_header(&read.kv, &again).unwrap(), encoded.clone());
        let offsets: Vec<u64> = read.tensors.iter().map(|t| t.offset).collect();
        prop_assert_eq!(offsets, encoded.tensor_offsets);
    }

    /// Whatever happens to the bytes, reading never panics, and what is accepted lies in the file.
    #[test]
    fn damaged_files_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let encoded = encode_header(&small_kv(), &small_tensors()).unwrap();
        let mut bytes = file_of(&encoded);
        for (at, value) in flips {
            let at = at.index(encoded.bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(header) = parse(&bytes) {
            for t in &header.tensors {
                prop_assert!(t.offset >= header.data_offset);
                prop_assert!(t.offset + t.bytes <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_after_sound_counts_never_panic(
        n_tensors in 0u64..3,
        n_kv in 0u64..3,
        rest in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(8), Just(9), any::<u8>()], 0..300),
    ) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(n_tensors.to_le_bytes());
        bytes.extend(n_kv.to_le_bytes());
        bytes.extend(rest);
        let _ = parse(&bytes);
    }
}
