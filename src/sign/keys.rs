//! The master key: where it comes from, and the keys derived from it.
//!
//! A key comes from a file or the environment, never from the command line, and is never printed.
//! What is printed and stored is its id, an HKDF output that reveals nothing of it.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use super::{Hash, from_hex, to_hex};
use crate::error::{Error, Place, Result};

/// Environment variable with the master key in hex.
pub const ENVIRONMENT: &str = "SRD_MASTER_KEY";
/// Bytes of a master key.
pub const MASTER_BYTES: usize = 32;
/// A key file is 64 hex digits and a line end; what is much longer is no key file.
const MAX_FILE: u64 = 4096;

const KEY_ID: &[u8] = b"srd-axm v1 key id";
const SHARD_KEY: &[u8] = b"srd-axm v1 shard";
const MANIFEST_KEY: &[u8] = b"srd-axm v1 manifest";

/// Names a master key without revealing it.
pub type KeyId = [u8; 16];

/// 32 secret bytes, overwritten when dropped.
pub struct MasterKey(Zeroizing<[u8; MASTER_BYTES]>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", to_hex(&self.id()))
    }
}

/// Where a key was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Environment,
    File(PathBuf),
    /// The default key file, made just now.
    Made(PathBuf),
}

/// Output length of an HKDF expansion.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl MasterKey {
    pub fn from_bytes(bytes: [u8; MASTER_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// # Errors
    /// [`Error::Io`] when the system gives no random bytes.
    pub fn generate() -> Result<Self> {
        let mut key = Zeroizing::new([0; MASTER_BYTES]);
        random(&mut *key)?;
        Ok(Self(key))
    }

    /// 64 hex digits, white space around them allowed.
    fn parse(text: &str) -> Option<Self> {
        from_hex(text.trim()).map(Self::from_bytes)
    }

    /// HKDF-SHA256 with its own salt, so that the same key has the same id in every container.
    pub fn id(&self) -> KeyId {
        let mut id = KeyId::default();
        hkdf::Salt::new(hkdf::HKDF_SHA256, KEY_ID)
            .extract(&*self.0)
            .expand(&[KEY_ID], Length(id.len()))
            .and_then(|okm| okm.fill(&mut id))
            .expect("16 bytes are within HKDF's limit");
        id
    }

    /// The keys of a container with this salt.
    pub fn derive(&self, salt: &Hash) -> ContainerKeys {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&*self.0);
        let key = |purpose: &'static [u8]| {
            let mut key = Zeroizing::new(Hash::default());
            prk.expand(&[purpose], Length(key.len()))
                .and_then(|okm| okm.fill(&mut *key))
                .expect("32 bytes are within HKDF's limit");
            key
        };
        let hmac_key = |purpose| hmac::Key::new(hmac::HMAC_SHA256, &*key(purpose));
        ContainerKeys { shard: hmac_key(SHARD_KEY), manifest: hmac_key(MANIFEST_KEY) }
    }

    /// Writes the key to a new file with mode 0600.
    ///
    /// # Errors
    /// [`Error::Usage`] when the file exists; [`Error::Io`] when it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(to_hex(&*self.0))));
        write_secret(path, text.as_bytes())
    }
}

/// The HMAC keys of one container, one for each purpose.
pub struct ContainerKeys {
    /// The key of the shards' tags.
    pub shard: hmac::Key,
    /// The key of the manifest's tag.
    pub manifest: hmac::Key,
}

pub(super) fn random(out: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(out).map_err(|_| Error::Io {
        place: Place::default(),
        action: "make a key",
        source: std::io::Error::other("the system gave no random bytes"),
        fix: "Check that /dev/urandom can be read",
    })
}

/// Writes `bytes` to a new file that only its owner can read. It has its name when it is complete, so
/// that of two processes making the same file one wins and neither reads half a key.
pub(super) fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |e| Error::io(path, "write", e);
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::usage(
            format!("{} exists already", path.display()),
            "Choose another name: a key is never overwritten, what it signed could not be verified any more",
        )),
        Err(e) => Err(failed(e.error)),
    }
}

/// Text of a secret file, which nobody but its owner may be able to read.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |e| Error::io(path, "read", e);
    let facts = std::fs::metadata(path).map_err(failed)?;
    if !facts.is_file() || facts.len() > MAX_FILE {
        return Err(Error::usage(
            format!("{} is no key file", path.display()),
            "Make one with srd-rs keygen",
        ));
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::usage(
            format!("{} can be read or written by others (mode {mode:03o})", path.display()),
            format!(
                "Run chmod 600 {}; if others use this machine, make a new key with srd-rs keygen",
                path.display()
            ),
        ));
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize));
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Reads a key file.
///
/// # Errors
/// [`Error::Usage`] when others can read it or it holds no key; [`Error::Io`] when it cannot be read.
pub fn read_file(path: &Path) -> Result<MasterKey> {
    MasterKey::parse(&read_secret(path)?).ok_or_else(|| {
        let what = format!("{} does not hold a key of 64 hex digits", path.display());
        Error::usage(what, "Make one with srd-rs keygen")
    })
}

/// `$XDG_CONFIG_HOME/srd-rs/master.key`, by default `~/.config/srd-rs/master.key`.
///
/// # Errors
/// [`Error::Usage`] when the environment names no home.
pub fn default_file() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("srd-rs").join("master.key"))
        .ok_or_else(|| Error::usage("there is no home folder for the default key file", KEYLESS))
}

/// What to do where no key can be made.
const KEYLESS: &str = "Set SRD_MASTER_KEY, name a key file with --key-file, or write no container (--no-axm)";

/// Finds the key: the named file, else the environment, else the default key file. `None` when there
/// is none of them.
///
/// # Errors
/// [`Error::Usage`] for a key that is malformed or readable by others; [`Error::Io`] for a named file
/// that cannot be read.
pub fn find(key_file: Option<&Path>) -> Result<Option<(MasterKey, Origin)>> {
    if let Some(path) = key_file {
        return Ok(Some((read_file(path)?, Origin::File(path.to_path_buf()))));
    }
    if let Some(text) = std::env::var_os(ENVIRONMENT) {
        let text = Zeroizing::new(text.into_string().unwrap_or_default());
        return match MasterKey::parse(&text) {
            Some(key) => Ok(Some((key, Origin::Environment))),
            None => Err(Error::usage(
                format!("{ENVIRONMENT} does not hold a key of 64 hex digits"),
                "Correct it, or unset it to use a key file",
            )),
        };
    }
    match default_file() {
        Ok(path) if path.symlink_metadata().is_ok() => Ok(Some((read_file(&path)?, Origin::File(path)))),
        _ => Ok(None),
    }
}

/// As [`find`]; where there is no key, the default key file is made.
///
/// # Errors
/// As [`find`], and [`Error::Io`] when the file cannot be made.
pub fn find_or_make(key_file: Option<&Path>) -> Result<(MasterKey, Origin)> {
    if let Some(found) = find(key_file)? {
        return Ok(found);
    }
    let path = default_file()?;
    let folder = path.parent().expect("a file in a folder");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| Error::Io {
        place: Place::file(folder),
        action: "make the folder of the default key file",
        source,
        fix: KEYLESS,
    })?;
    let key = MasterKey::generate()?;
    match key.save(&path) {
        Ok(()) => Ok((key, Origin::Made(path))),
        // Another run made it meanwhile.
        Err(Error::Usage { .. }) => Ok((read_file(&path)?, Origin::File(path))),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn hkdf_gives_what_rfc_5869_says() {
        // Appendix A.1, through the same calls as `derive`.
        let ikm = [0x0b; 22];
        let salt: [u8; 13] = std::array::from_fn(|i| i as u8);
        let info: [u8; 10] = std::array::from_fn(|i| 0xf0 + i as u8);
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(&ikm);
        let mut okm = [0; 42];
        prk.expand(&[&info], Length(42)).unwrap().fill(&mut okm).unwrap();
        assert_eq!(
            to_hex(&okm),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
    }

    #[test]
    fn a_saved_key_is_private_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let key = MasterKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_file(&path).unwrap().id(), key.id());
        assert!(matches!(key.save(&path), Err(Error::Usage { .. })), "a key was overwritten");
    }

    #[test]
    fn a_key_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        MasterKey::generate().unwrap().save(&path).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = read_file(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{mode:o}: {error}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(5000)] {
            let path = dir.path().join(format!("k{}", text.len()));
            write_secret(&path, text.as_bytes()).unwrap();
            let error = read_file(&path).unwrap_err().to_string();
            assert!(error.contains("keygen") && !error.contains("aaa"), "{error}");
        }
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
        let key = MasterKey::from_bytes([0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
    }
}
