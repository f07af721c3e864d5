//! Signing: [`keys`] (the master key and what is derived from it), [`tags`] (what a tag covers),
//! [`two_hashes`] (hash and tag of the same bytes in one pass),
//! [`ed25519`] (signatures that third parties can check), [`attest`] (in-toto statements).
//!
//! HMAC is symmetric: whoever holds the key to verify could also sign. Only the Ed25519 signature
//! proves anything to a third party.

pub mod attest;
pub mod ed25519;
pub mod keys;
mod simd;
pub mod tags;
pub mod two_hashes;

/// A SHA-256.
pub type Hash = [u8; 32];

/// SHA-256 of `parts` one after another.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    parts.iter().for_each(|p| context.update(p));
    hash_of(&context.finish())
}

/// The bytes of a finished SHA-256.
pub fn hash_of(digest: &ring::digest::Digest) -> Hash {
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The bytes of a finished HMAC-SHA256.
fn tag_of(tag: &ring::hmac::Tag) -> Hash {
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

/// Lower case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `N` bytes from exactly `2 N` hex digits of either case.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways_and_refuses_the_rest() {
        assert_eq!(from_hex::<3>(&to_hex(&[0, 0x9a, 0xff])), Some([0, 0x9a, 0xff]));
        assert_eq!(from_hex::<1>("Ff"), Some([255]));
        for text in ["", "f", "fff", "+f", "zz", "é"] {
            assert_eq!(from_hex::<1>(text), None, "{text}");
        }
    }
}
