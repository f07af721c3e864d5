//! The master key: where it is found, how it is stored, and the keys that are derived from it.
//!
//! A key comes from a file or from the environment, never from the command line, and no message shows it. What is
//! printed and stored is the id of the key, which is an output of HKDF and reveals nothing of the key.
//!
//! ```
//! use srd_rs::sign::keys::{MasterKey, read_file};
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("master.key");
//! let key = MasterKey::generate()?;
//! key.save(&path)?;
//! assert_eq!(read_file(&path)?.id(), key.id());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use super::{Hash, from_hex, to_hex};
use crate::error::{Error, Place, Result};
use crate::os;

/// The environment variable that holds the master key as 64 hexadecimal digits.
pub const ENVIRONMENT: &str = "SRD_MASTER_KEY";
/// The number of bytes in a master key.
pub const MASTER_BYTES: usize = 32;
/// The largest key file that is read, in bytes. A master key file has 65 bytes, and a PEM file has about 120.
const MAX_FILE: u64 = 4096;

const KEY_ID: &[u8] = b"srd-axm v1 key id";
const SHARD_KEY: &[u8] = b"srd-axm v1 shard";
const MANIFEST_KEY: &[u8] = b"srd-axm v1 manifest";

/// The id of a master key. The id reveals nothing of the key.
pub type KeyId = [u8; 16];

/// A master key: 32 secret bytes, which are overwritten when the value is dropped.
pub struct MasterKey(Zeroizing<[u8; MASTER_BYTES]>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", to_hex(&self.id()))
    }
}

/// The place where a key was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The environment variable [`ENVIRONMENT`].
    Environment,
    /// A key file.
    File(PathBuf),
    /// The default key file, which was made just now.
    Made(PathBuf),
}

/// The length of the output of an HKDF expansion.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl MasterKey {
    /// Makes a key of given bytes.
    pub fn from_bytes(bytes: [u8; MASTER_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Makes a random key.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives no random bytes.
    pub fn generate() -> Result<Self> {
        let mut key = Zeroizing::new([0; MASTER_BYTES]);
        random(&mut *key)?;
        Ok(Self(key))
    }

    /// Reads 64 hexadecimal digits with white space around them. The key of zeros is refused: it is what an empty disk
    /// block or a forgotten initialization gives, so everybody knows it.
    fn parse(text: &str) -> Option<Self> {
        from_hex(text.trim()).filter(|key| *key != [0; MASTER_BYTES]).map(Self::from_bytes)
    }

    /// Returns the id. HKDF has a salt of its own here, so that a key has the same id in every container.
    pub fn id(&self) -> KeyId {
        let mut id = KeyId::default();
        hkdf::Salt::new(hkdf::HKDF_SHA256, KEY_ID)
            .extract(&*self.0)
            .expand(&[KEY_ID], Length(id.len()))
            .and_then(|okm| okm.fill(&mut id))
            .expect("16 bytes are within HKDF's limit");
        id
    }

    /// Derives the keys of the container that has this salt.
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
    /// [`Error::Usage`] when the file exists; [`Error::Io`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(to_hex(&*self.0))));
        write_key(path, text.as_bytes(), os::Readers::Owner)
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

/// The error for a key file that exists already.
pub(super) fn exists(path: &Path) -> Error {
    Error::usage(
        format!("{} exists already", path.display()),
        "A key file is never overwritten, because files signed with the old key could then no longer be verified. Choose \
         another name",
    )
}

/// Writes `bytes` to a new file. The file gets its name when it is complete and on the disk. If two
/// processes make the same file, one of them wins, and neither can read half a key.
pub(super) fn write_key(path: &Path, bytes: &[u8], readers: os::Readers) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => Error::io(path, "write", e),
    };
    let fill = |mut file: &File| {
        os::set_readers(file, readers)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    match os::create_unnamed(folder, os::Readers::Owner) {
        Some(file) => {
            fill(&file).and_then(|()| os::link_unnamed(&file, path)).map_err(failed)?;
        }
        None => {
            // The temporary file is made with the mode 0600.
            let file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
            fill(file.as_file()).map_err(failed)?;
            file.persist_noclobber(path).map_err(|e| failed(e.error))?;
        }
    }
    os::sync_folder(folder).map_err(|e| Error::io(folder, "write the names of files to the disk in", e))
}

/// Returns the text of a key file and the open file. Only a small regular file is read; a pipe or a device is refused
/// without waiting for it.
pub(super) fn read_key_file(path: &Path) -> Result<(Zeroizing<String>, File)> {
    if path.to_str().and_then(|text| from_hex::<MASTER_BYTES>(text.trim())).is_some() {
        // A message with this path would show the key.
        let what = "a key was given where the name of a key file belongs".to_string();
        return Err(Error::usage(
            what,
            "Write the key to a file with mode 0600, and make a new key if others saw it",
        ));
    }
    let failed = |e| Error::io(path, "read", e);
    let not_a_key =
        |what: &str| Error::usage(format!("{} {what}", path.display()), "Make a key with srd-rs keygen");
    let file = os::open_without_waiting(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() || facts.len() > MAX_FILE {
        return Err(not_a_key("is not a key file"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize));
    (&file).take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok((Zeroizing::new(text.to_string()), file)),
        Err(_) => Err(not_a_key("is not a key file")),
    }
}

/// Returns the text of a secret key file, which must belong to this user and which nobody else may read or write.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<String>> {
    let (text, file) = read_key_file(path)?;
    match os::secrecy(&file).map_err(|e| Error::io(path, "read", e))? {
        os::Secrecy::Kept => Ok(text),
        os::Secrecy::OtherOwner { owner, user } => Err(Error::usage(
            format!(
                "{} belongs to the user {owner}, and this process runs as the user {user}",
                path.display()
            ),
            format!("Run chown {user} {} if the key is yours, or name another key", path.display()),
        )),
        os::Secrecy::OthersMay(mode) => Err(Error::usage(
            format!("{} can be read or written by others (mode {mode:03o})", path.display()),
            format!(
                "Run chmod 600 {}; if others use this machine, make a new key with srd-rs keygen",
                path.display()
            ),
        )),
    }
}

/// Reads a master key file.
///
/// # Errors
/// [`Error::Usage`] when the file belongs to another user, when others can read it, or when it does not hold a key;
/// [`Error::Io`] when the file cannot be read.
pub fn read_file(path: &Path) -> Result<MasterKey> {
    MasterKey::parse(&read_secret(path)?).ok_or_else(|| {
        let what = format!("{} does not hold {A_KEY}", path.display());
        Error::usage(what, "Make a key with srd-rs keygen")
    })
}

/// Returns the path of the default key file: `$XDG_CONFIG_HOME/srd-rs/master.key`, or `~/.config/srd-rs/master.key`;
/// on Windows `%APPDATA%\\srd-rs\\master.key`.
///
/// # Errors
/// [`Error::Usage`] when the environment names no home.
pub fn default_file() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .or_else(|| absolute("APPDATA"))
        .map(|config| config.join("srd-rs").join("master.key"))
        .ok_or_else(|| Error::usage("there is no home folder for the default key file", KEYLESS))
}

const A_KEY: &str = "a key of 64 hexadecimal digits that are not all 0";
/// What to do where no key can be made.
const KEYLESS: &str = "Set SRD_MASTER_KEY, name a key file with --key-file, or write no container (--no-axm)";

/// Finds the master key: in the named file, else in the environment, else in the default key file. Returns `None` if
/// none of them exists.
///
/// # Errors
/// [`Error::Usage`] for a key that is malformed, that belongs to another user or that others can read; [`Error::Io`]
/// for a file that cannot be read. Only a default key file that does not exist means that there is no key: a folder
/// that may not be read is an error.
pub fn find(key_file: Option<&Path>) -> Result<Option<(MasterKey, Origin)>> {
    if let Some(path) = key_file {
        return Ok(Some((read_file(path)?, Origin::File(path.to_path_buf()))));
    }
    if let Some(text) = std::env::var_os(ENVIRONMENT) {
        let text = Zeroizing::new(text.into_string().unwrap_or_default());
        return match MasterKey::parse(&text) {
            Some(key) => Ok(Some((key, Origin::Environment))),
            None => Err(Error::usage(
                format!("{ENVIRONMENT} does not hold {A_KEY}"),
                "Correct the variable, or unset it to use a key file",
            )),
        };
    }
    // Without a home folder there is no default key file.
    let Ok(path) = default_file() else { return Ok(None) };
    match path.symlink_metadata() {
        Ok(_) => Ok(Some((read_file(&path)?, Origin::File(path)))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, "look for the default key file", e)),
    }
}

/// Finds the master key as [`find`] does. If there is no key, the default key file is made.
///
/// # Errors
/// As [`find`], and [`Error::Io`] when the default key file cannot be made.
pub fn find_or_make(key_file: Option<&Path>) -> Result<(MasterKey, Origin)> {
    if let Some(found) = find(key_file)? {
        return Ok(found);
    }
    let path = default_file()?;
    let folder = path.parent().expect("a file in a folder");
    os::create_private_folder(folder).map_err(|source| Error::Io {
        place: Place::file(folder),
        action: "make the folder of the default key file",
        source,
        fix: KEYLESS,
    })?;
    let key = MasterKey::generate()?;
    match key.save(&path) {
        Ok(()) => Ok((key, Origin::Made(path))),
        // Another process has made the file in the meantime.
        Err(Error::Usage { .. }) => Ok((read_file(&path)?, Origin::File(path))),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
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
        #[cfg(unix)]
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_file(&path).unwrap().id(), key.id());
        assert!(matches!(key.save(&path), Err(Error::Usage { .. })), "a key was overwritten");
    }

    #[test]
    #[cfg(unix)]
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
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(64), &"a".repeat(63), &"a".repeat(5000)] {
            let path = dir.path().join(format!("k{}{}", text.len(), text.chars().next().unwrap_or('-')));
            write_key(&path, text.as_bytes(), os::Readers::Owner).unwrap();
            let error = read_file(&path).unwrap_err().to_string();
            assert!(error.contains("keygen") && !error.contains("aaa"), "{error}");
        }
    }

    #[test]
    fn a_key_instead_of_a_file_name_is_not_shown() {
        let key = "5e".repeat(32);
        let error = read_file(Path::new(&key)).unwrap_err().to_string();
        assert!(error.contains("name of a key file") && !error.contains("5e5e"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn pipes_and_devices_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
            let error = read_file(path).unwrap_err().to_string();
            assert!(error.contains("not a key file"), "{error}");
            assert!(super::super::ed25519::read_public(path).is_err());
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_key_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        MasterKey::generate().unwrap().save(&path).unwrap();
        match std::os::unix::fs::chown(&path, Some(65534), None) {
            Ok(()) => {
                let error = read_file(&path).unwrap_err().to_string();
                assert!(error.contains("belongs to the user 65534"), "{error}");
            }
            Err(e) => eprintln!("not tested: only root can give a file to another user ({e})"),
        }
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
        let key = MasterKey::from_bytes([0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
    }
}
