//! Ed25519 signatures, and keys in the PEM files of RFC 8410, which other tools read and write.
//!
//! ```
//! use srd_rs::sign::ed25519::{SignKey, is_signature};
//!
//! let dir = tempfile::tempdir()?;
//! let key = SignKey::generate(&dir.path().join("sign"), &dir.path().join("sign.pub"))?;
//! let signature = key.sign(b"message");
//! assert!(is_signature(&key.public(), b"message", &signature));
//! assert!(!is_signature(&key.public(), b"another message", &signature));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::keys::{exists, random, read_key_file, read_secret, write_key};
use super::{Hash, to_hex};
use crate::error::{Error, Result};
use crate::os;

/// The 64 bytes of a signature.
pub type Signature = [u8; 64];

/// The DER of a PKCS#8 v1 private key before its 32 secret bytes.
const PRIVATE_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The DER of a SubjectPublicKeyInfo before the 32 bytes of the key.
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The y coordinates of the points of small order, little endian and without the sign bit: the points of order 4, 1, 8,
/// 8 and 2, and p and p + 1, which other programs may read as 0 and 1. For such a public key, anybody can make a
/// signature that verifies. libsodium has the same list (`ge25519_has_small_order`).
const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

fn has_small_order(public: &Hash) -> bool {
    let mut y = *public;
    y[31] &= 0x7f;
    SMALL_ORDER.contains(&to_hex(&y).as_str())
}

/// A key pair. Its secret part is never shown.
pub struct SignKey(Ed25519KeyPair);

impl SignKey {
    /// Reads a PKCS#8 PEM file, as `openssl genpkey -algorithm ed25519` and `srd-rs keygen` write.
    ///
    /// # Errors
    /// [`Error::Usage`] when others can read the file or when the file does not hold such a key; [`Error::Io`] when the
    /// file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_secret(path)?;
        pem_body(&text, "PRIVATE KEY")
            .map(Zeroizing::new)
            .and_then(|der| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok())
            .map(Self)
            .ok_or_else(|| {
                let what = format!("{} is not an Ed25519 private key (PKCS#8 PEM)", path.display());
                Error::usage(what, "Make a key with srd-rs keygen --ed25519")
            })
    }

    /// Makes a key pair in two new files. `private` gets the mode 0600; `public` is for everybody who verifies.
    ///
    /// # Errors
    /// [`Error::Usage`] when one of the files exists; [`Error::Io`] when a file cannot be written.
    pub fn generate(private: &Path, public: &Path) -> Result<Self> {
        if public.symlink_metadata().is_ok() {
            return Err(exists(public));
        }
        let mut seed = Zeroizing::new([0u8; 32]);
        random(&mut *seed)?;
        let der = Zeroizing::new([&PRIVATE_PREFIX[..], &*seed].concat());
        write_key(private, Zeroizing::new(pem("PRIVATE KEY", &der)).as_bytes(), os::Readers::Owner)?;
        let key = Self(Ed25519KeyPair::from_seed_unchecked(&*seed).expect("a seed has 32 bytes"));
        let der = [&PUBLIC_PREFIX[..], &key.public()].concat();
        write_key(public, pem("PUBLIC KEY", &der).as_bytes(), os::Readers::All)?;
        Ok(key)
    }

    /// Returns the public key.
    pub fn public(&self) -> Hash {
        self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

/// Returns whether `signature` is the signature of `message` by the key `public`. A public key of small order has no
/// signatures.
pub fn is_signature(public: &Hash, message: &[u8], signature: &Signature) -> bool {
    !has_small_order(public) && UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

/// Reads a public key from a PEM file (SubjectPublicKeyInfo).
///
/// # Errors
/// [`Error::Usage`] when the file does not hold such a key, or holds a key of small order, for which anybody can make
/// signatures; [`Error::Io`] when the file cannot be read.
pub fn read_public(path: &Path) -> Result<Hash> {
    let (text, _) = read_key_file(path)?;
    let key: Hash = pem_body(&text, "PUBLIC KEY")
        .and_then(|der| der.strip_prefix(&PUBLIC_PREFIX).and_then(|key| key.try_into().ok()))
        .ok_or_else(|| {
            let what = format!("{} is not an Ed25519 public key (PEM)", path.display());
            Error::usage(what, "Name the .pub file that keygen --ed25519 wrote")
        })?;
    if has_small_order(&key) {
        let what =
            format!("{} holds an Ed25519 key of small order, with which anybody can sign", path.display());
        return Err(Error::usage(what, "Do not trust this key: ask its owner for the real key"));
    }
    Ok(key)
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der))
}

fn pem_body(text: &str, label: &str) -> Option<Vec<u8>> {
    let rest = text.split_once(&format!("-----BEGIN {label}-----"))?.1;
    let body = rest.split_once(&format!("-----END {label}-----"))?.0;
    let packed = Zeroizing::new(body.split_whitespace().collect::<String>());
    BASE64.decode(packed.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::from_hex;
    use super::*;

    #[test]
    fn a_pair_signs_and_its_files_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("k"), dir.path().join("k.pub"));
        let made = SignKey::generate(&private, &public).unwrap();
        let key = SignKey::read(&private).unwrap();
        assert_eq!(read_public(&public).unwrap(), made.public());
        let signature = key.sign(b"m");
        assert!(is_signature(&made.public(), b"m", &signature));
        assert!(!is_signature(&made.public(), b"n", &signature));
        assert!(SignKey::generate(&private, &dir.path().join("other")).is_err());
        assert!(SignKey::read(&public).is_err());
    }

    /// For these keys, the neutral element as R and 0 as S verify for many messages, though nobody has a private key.
    #[test]
    fn keys_of_small_order_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (i, y) in SMALL_ORDER.iter().enumerate() {
            for sign in [0, 0x80] {
                let mut key: Hash = from_hex(y).unwrap();
                key[31] |= sign;
                let mut signature = [0; 64];
                signature[0] = 1;
                assert!((0..64u8).all(|m| !is_signature(&key, &[m], &signature)), "{y}");
                let path = dir.path().join(format!("{i}-{sign}.pub"));
                std::fs::write(&path, pem("PUBLIC KEY", &[&PUBLIC_PREFIX[..], &key].concat())).unwrap();
                assert!(read_public(&path).unwrap_err().to_string().contains("small order"));
            }
        }
        // Without the list, `ring` accepts the neutral element as a key.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let signature = [&neutral[..], &[0; 32]].concat();
        assert!(UnparsedPublicKey::new(&ED25519, neutral).verify(b"anything", &signature).is_ok());
    }

    #[test]
    fn signs_as_rfc_8032_says() {
        // RFC 8032, section 7.1, test 2.
        let seed =
            from_hex::<32>("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let key = SignKey(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap());
        let expected = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                        085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
        assert_eq!(super::super::to_hex(&key.sign(&[0x72])), expected);
    }
}
