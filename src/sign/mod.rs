//! Signing of containers: [`keys`] holds the master key and the keys derived from it, [`tags`] says which bytes a tag
//! covers, [`ed25519`] makes signatures that third parties can check, [`attest`] writes in-toto statements, and [`file`]
//! hashes files.
//!
//! HMAC is symmetric: whoever holds the key that verifies a container could also have signed the container. Only
//! the Ed25519 signature proves anything to a third party. All cryptography is done by the `ring` crate.
//!
//! ```
//! use srd_rs::sign::{from_hex, sha256, to_hex};
//!
//! let hash = sha256(&[b"a", b"bc"]);
//! assert_eq!(to_hex(&hash), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
//! assert_eq!(from_hex(&to_hex(&hash)), Some(hash));
//! ```

use ring::digest::{Context, SHA256};

pub mod attest;
pub mod ed25519;
pub mod file;
pub mod keys;
pub mod tags;

/// The 32 bytes of a SHA-256, of an HMAC-SHA256 tag or of a key.
pub type Hash = [u8; 32];

/// The SHA-256 of `parts`, one after another.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::default();
    parts.iter().for_each(|p| hasher.update(p));
    hasher.finish()
}

/// A running SHA-256, which takes its bytes in pieces of any length.
#[derive(Clone)]
pub struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Sha256 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the SHA-256 of all bytes that were taken.
    pub fn finish(self) -> Hash {
        self.0.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// Writes bytes as lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads `N` bytes from exactly `2 N` hexadecimal digits of either case; returns `None` for any other text.
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
