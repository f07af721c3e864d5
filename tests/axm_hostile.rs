//! Containers whose header says anything at all, with every hash made right: a container is refused, or what was changed
//! is nothing that another part of the file contradicts. Nothing panics.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use srd_rs::Error;
use srd_rs::formats::axm::reader::check_metadata;
use srd_rs::formats::axm::{Header, Layout, Shard};
use srd_rs::sign::{sha256, tags};

fn golden() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/axm/v1-2bit.axm");
    std::fs::read(path).expect("the golden container is in the repo")
}

fn number(data: &[u8], at: usize) -> usize {
    u64::from_le_bytes(data[at..at + 8].try_into().unwrap()) as usize
}

/// Computes the hashes of the preamble, the header, the manifest and the seal again, as far as the stated sizes lie in the
/// file.
fn rehash(data: &mut [u8]) {
    let (header, manifest, length) = (number(data, 16), number(data, 32), number(data, 40));
    let Some(seal) = manifest.checked_add(length) else { return };
    if header > data.len() - 256 || length < 64 || seal.checked_add(192) != Some(data.len()) {
        return;
    }
    let hash = sha256(&[&data[256..256 + header]]);
    data[64..96].copy_from_slice(&hash);
    let hash = sha256(&[&data[..256]]);
    data[manifest + 16..manifest + 48].copy_from_slice(&hash);
    let fingerprint = tags::fingerprint(&data[manifest..seal]);
    data[seal..seal + 32].copy_from_slice(&fingerprint);
    let hash = sha256(&[&data[seal..seal + 160]]);
    data[seal + 160..seal + 192].copy_from_slice(&hash);
}

fn check(data: &[u8]) -> Result<(), Error> {
    check_metadata(data, data.len() as u64, Path::new("x.axm")).map(drop)
}

/// The places of the shards, as the header of `data` gives them.
fn shards(data: &[u8]) -> Vec<Shard> {
    let json = &data[256..256 + number(data, 16)];
    let header = Header::parse(json).expect("the container was accepted");
    Layout::of(&header, json.len() as u64).expect("the container was accepted").shards
}

/// A refusal is a verification error. The manifest of the golden container still has the old places, so whatever is accepted
/// must have the same places.
fn judge(data: &[u8]) -> Result<(), TestCaseError> {
    match check(data) {
        Err(error) => prop_assert!(matches!(error, Error::Verification { .. }), "{error}"),
        Ok(()) => prop_assert_eq!(shards(data), shards(&golden())),
    }
    Ok(())
}

#[test]
fn the_helper_leaves_a_sound_container_as_it_is() {
    let mut data = golden();
    rehash(&mut data);
    assert_eq!(data, golden());
    check(&data).unwrap();
}

/// The numbers of the header, by the places of their digits.
fn digits(data: &[u8]) -> Vec<usize> {
    let header = 256..256 + number(data, 16);
    header.filter(|&i| data[i].is_ascii_digit()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_numbers(changes in prop::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 1..4)) {
        let mut data = golden();
        let places = digits(&data);
        for (place, digit) in changes {
            data[places[place.index(places.len())]] = digit;
        }
        rehash(&mut data);
        judge(&data)?;
    }

    #[test]
    fn changed_bytes_in_front(at in 8usize..256, value: u8, field in 0usize..6, number: u64) {
        for whole in [false, true] {
            let mut data = golden();
            if whole {
                data[16 + field * 8..24 + field * 8].copy_from_slice(&number.to_le_bytes());
            } else {
                data[at] = value;
            }
            rehash(&mut data);
            judge(&data)?;
        }
    }

    #[test]
    fn changed_header_text(at in any::<prop::sample::Index>(), value: u8) {
        let mut data = golden();
        let n = number(&data, 16);
        data[256 + at.index(n)] = value;
        rehash(&mut data);
        judge(&data)?;
    }

    /// The header has the hash of each GGUF header, and the padding behind them is zeros.
    #[test]
    fn changed_gguf_headers(at in any::<prop::sample::Index>(), value: u8) {
        let mut data = golden();
        let (start, end) = (256 + number(&data, 16), number(&data, 24));
        data[start + at.index(end - start)] = value;
        prop_assert_eq!(check(&data).is_ok(), data == golden());
    }
}
