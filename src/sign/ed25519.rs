//! Ed25519 keys in the PEM files that other tools read and write (RFC 8410), and signatures.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::Hash;
use super::keys::{random, read_secret, write_secret};
use crate::error::{Error, Result};

/// A signature.
pub type Signature = [u8; 64];

/// DER of a PKCS#8 v1 private key up to its 32 secret bytes.
const PRIVATE_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// DER of a SubjectPublicKeyInfo up to its 32 bytes.
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key pair. Its secret part is never shown.
pub struct SignKey(Ed25519KeyPair);

impl SignKey {
    /// Reads a PKCS#8 PEM file, as `openssl genpkey -algorithm ed25519` and `srd-rs keygen` write.
    ///
    /// # Errors
    /// [`Error::Usage`] when others can read the file or it holds no such key; [`Error::Io`] when it
    /// cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_secret(path)?;
        pem_body(&text, "PRIVATE KEY")
            .map(Zeroizing::new)
            .and_then(|der| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok())
            .map(Self)
            .ok_or_else(|| {
                let what = format!("{} holds no Ed25519 private key (PKCS#8 PEM)", path.display());
                Error::usage(what, "Make one with srd-rs keygen --ed25519")
            })
    }

    /// Makes a key pair: `private` gets mode 0600, `public` is for everybody.
    ///
    /// # Errors
    /// [`Error::Usage`] when one of the files exists; [`Error::Io`] when one cannot be written.
    pub fn generate(private: &Path, public: &Path) -> Result<Self> {
        if public.symlink_metadata().is_ok() {
            let what = format!("{} exists already", public.display());
            return Err(Error::usage(what, "Choose another name: a key is never overwritten"));
        }
        let mut seed = Zeroizing::new([0u8; 32]);
        random(&mut *seed)?;
        let der = Zeroizing::new([&PRIVATE_PREFIX[..], &*seed].concat());
        write_secret(private, Zeroizing::new(pem("PRIVATE KEY", &der)).as_bytes())?;
        let key = Self(Ed25519KeyPair::from_seed_unchecked(&*seed).expect("a seed has 32 bytes"));
        let der = [&PUBLIC_PREFIX[..], &key.public()].concat();
        std::fs::write(public, pem("PUBLIC KEY", &der)).map_err(|e| Error::io(public, "write", e))?;
        Ok(key)
    }

    pub fn public(&self) -> Hash {
        self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    pub fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

pub fn is_signature(public: &Hash, message: &[u8], signature: &Signature) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

/// Reads a public key from a PEM file (SubjectPublicKeyInfo).
///
/// # Errors
/// [`Error::Usage`] when it holds no such key; [`Error::Io`] when it cannot be read.
pub fn read_public(path: &Path) -> Result<Hash> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
    pem_body(&text, "PUBLIC KEY")
        .and_then(|der| der.strip_prefix(&PUBLIC_PREFIX).and_then(|key| key.try_into().ok()))
        .ok_or_else(|| {
            let what = format!("{} holds no Ed25519 public key (PEM)", path.display());
            Error::usage(what, "Name the .pub file that keygen --ed25519 wrote")
        })
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

    #[test]
    fn signs_as_rfc_8032_says() {
        // Section 7.1, test 2.
        let seed =
            from_hex::<32>("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let key = SignKey(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap());
        let expected = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                        085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
        assert_eq!(super::super::to_hex(&key.sign(&[0x72])), expected);
    }
}
