//! Opens a container, checks everything in it except the shards, and checks who sealed it.
//!
//! The input is a file of any content; what is returned is a [`Container`] whose sizes, header, GGUF headers, manifest
//! and seal agree with each other, or an error that names the first fault. [`Container::verify`] checks the shards.
//!
//! ```no_run
//! use srd_rs::formats::axm::reader::{Container, Expected};
//! use srd_rs::sign::ed25519::read_public;
//!
//! let container = Container::open("model.axm")?;
//! let public_key = Some(read_public("publisher.pub".as_ref())?);
//! container.authenticate(&Expected { public_key, ..Expected::default() })?;
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};

use super::layout::{
    ENTRY_BYTES, GgufPart, Header, Layout, MANIFEST_HEAD, MANIFEST_MAGIC, MAX_GGUF_HEADERS, MAX_HEADER,
    MAX_SHARDS, PREAMBLE_BYTES, Preamble, SEAL_BYTES, Shard,
};
use super::writer::{entry_place, shard_place};
use crate::error::{Error, Place, Result};
use crate::formats::gguf::reader::{Header as GgufHeader, read_header};
use crate::formats::source;
use crate::input::ReadAt;
use crate::sign::ed25519::{self, Signature};
use crate::sign::keys::MasterKey;
use crate::sign::{Hash, sha256, tags, to_hex};

/// What to do with a container that is not the signed one.
pub(super) const DAMAGED: &str =
    "The file is damaged or was altered: get it again from where it was published";

/// An open container, or an open manifest file. Everything except the shards has been checked.
#[derive(Debug)]
pub struct Container {
    /// The path that was opened.
    pub path: PathBuf,
    /// The open file. Everything is read from this descriptor, whatever the path stands for by now.
    pub file: File,
    /// The first 256 bytes.
    pub preamble: Preamble,
    /// The header: the tensors, the GGUF files and the sources.
    pub header: Header,
    /// The place of every shard, computed from the header.
    pub layout: Layout,
    /// The container id.
    pub id: Hash,
    /// The fingerprint: a hash that covers every byte of the container.
    pub fingerprint: Hash,
    /// True for a manifest file, which has no shards.
    pub detached: bool,
    /// The name of the model in the metadata of the GGUF (`general.name`), if there is one.
    pub model_name: Option<String>,
    manifest: Vec<u8>,
    seal: Seal,
}

/// The last bytes of a container, behind the manifest.
#[derive(Debug, PartialEq, Eq)]
struct Seal {
    tag: Hash,
    /// Zeros when there is no signature.
    public_key: Hash,
    signature: Signature,
}

impl Seal {
    /// Decodes a seal; returns what is wrong if the seal does not belong to `fingerprint`.
    fn decode(bytes: &[u8; SEAL_BYTES as usize], fingerprint: &Hash) -> std::result::Result<Self, String> {
        let hash = |i: usize| -> Hash { bytes[i..i + 32].try_into().expect("32 bytes") };
        if hash(160) != sha256(&[&bytes[..160]]) {
            return Err("has a damaged seal (its last 192 bytes)".into());
        }
        if hash(0) != *fingerprint {
            return Err("has a manifest that does not match the fingerprint behind it".into());
        }
        let signature = bytes[96..160].try_into().expect("64 bytes");
        let seal = Self { tag: hash(32), public_key: hash(64), signature };
        if seal.is_signed() {
            let message = tags::manifest_message(fingerprint, &seal.public_key);
            if !ed25519::is_signature(&seal.public_key, &message, &seal.signature) {
                return Err("has an Ed25519 signature that is not of its manifest".into());
            }
        } else if signature != [0; 64] {
            return Err("has a signature without a public key".into());
        }
        Ok(seal)
    }

    fn is_signed(&self) -> bool {
        self.public_key != [0; 32]
    }
}

/// What a container is held against. Whoever made a file could have written everything in it, so one of the key, the
/// public key and the fingerprint must come from elsewhere; without any of them a container is refused.
#[derive(Default)]
pub struct Expected<'a> {
    /// The master key that must have signed.
    pub key: Option<&'a MasterKey>,
    /// The Ed25519 key that must have signed.
    pub public_key: Option<Hash>,
    /// The fingerprint that was published.
    pub fingerprint: Option<Hash>,
    /// The name that the container must have: `general.name` or the name of the GGUF, with or without its ending.
    pub name: Option<String>,
    /// Accepts a container of an unknown signer: the caller wants to know only that nothing is damaged.
    pub integrity_only: bool,
}

impl Expected<'_> {
    /// Returns whether the container is held against something that does not come from the container itself.
    pub fn has_anchor(&self) -> bool {
        self.key.is_some() || self.public_key.is_some() || self.fingerprint.is_some()
    }
}

impl Container {
    /// Opens a container or a manifest file and checks everything in it except the shards.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Verification`] if anything about it is not as the
    /// format says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, size) = source::open_regular(path)?;
        let metadata = Metadata::read(&file, size, path)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            preamble: metadata.preamble,
            header: metadata.header,
            layout: metadata.layout,
            id: metadata.id,
            fingerprint: metadata.fingerprint,
            detached: metadata.detached,
            model_name: metadata.model_name,
            manifest: metadata.manifest,
            seal: metadata.seal,
        })
    }

    /// Returns the bytes before the tensor data of part `index` of the GGUF.
    ///
    /// # Errors
    /// As [`Container::open`].
    pub fn gguf_header(&self, index: usize) -> Result<Vec<u8>> {
        let before: u64 = self.header.files[..index].iter().map(|f| f.header_bytes).sum();
        let at = PREAMBLE_BYTES + self.preamble.header_bytes + before;
        gguf_header(&self.file, &self.path, at, &self.header.files[index])
    }

    /// Returns the public key of the Ed25519 signature, if there is a signature. [`Container::open`] has checked that
    /// this key signed this manifest. Whose key it is, the file cannot prove.
    pub fn public_key(&self) -> Option<Hash> {
        self.seal.is_signed().then_some(self.seal.public_key)
    }

    fn is_named(&self, name: &str) -> bool {
        let mut files = self.header.files.iter().map(|f| f.name.as_str());
        self.model_name.as_deref() == Some(name)
            || files.any(|file| file == name || file.strip_suffix(".gguf") == Some(name))
    }

    pub(crate) fn place(&self, shard: &Shard) -> Place {
        Place::file(&self.path).tensor(&self.header.tensors[shard.tensor as usize].name).at(shard.offset)
    }

    /// The SHA-256 of a shard, as the manifest has it.
    pub(crate) fn shard_hash(&self, number: usize) -> &Hash {
        self.entry_hash(number, 40)
    }

    fn shard_tag(&self, number: usize) -> &Hash {
        self.entry_hash(number, 72)
    }

    fn entry_hash(&self, number: usize, within: usize) -> &Hash {
        let at = MANIFEST_HEAD as usize + ENTRY_BYTES as usize * number + within;
        self.manifest[at..at + 32].try_into().expect("32 bytes")
    }

    /// Checks who sealed the container, and which container it is: the fingerprint, the Ed25519 key, the tag of the
    /// manifest, the tags of all shards and the name, as far as `expected` has them. The shards' bytes are not read.
    ///
    /// # Errors
    /// [`Error::Verification`] when the container is not the expected one, or when `expected` has neither a key nor a
    /// public key nor a fingerprint and does not say that integrity is enough.
    pub fn authenticate(&self, expected: &Expected) -> Result<()> {
        let refuse = |what: String, fix: &str| Err(Error::verification(Place::file(&self.path), what, fix));
        if !expected.has_anchor() && !expected.integrity_only {
            let what = format!(
                "cannot be verified: no master key was found, and no public key and no fingerprint was given, so nothing \
                 shows who made this container (it names the key {})",
                to_hex(&self.preamble.key_id)
            );
            let fix = "Give --key-file, --public-key or --fingerprint, or use --no-key to check the integrity alone";
            return refuse(what, fix);
        }
        if let Some(name) = expected.name.as_ref().filter(|name| !self.is_named(name)) {
            let model = self.model_name.as_deref().unwrap_or("without a name");
            let what = format!(
                "holds the model '{}' as {}, not the expected '{}'",
                model.escape_debug(),
                self.header.files[0].name,
                name.escape_debug()
            );
            return refuse(what, "This is another model under the expected file name: do not use it");
        }
        if expected.fingerprint.is_some_and(|f| f != self.fingerprint) {
            let what = format!("has the fingerprint {}, not the expected one", to_hex(&self.fingerprint));
            return refuse(what, "This is another container, or an altered one: do not use it");
        }
        if expected.public_key.is_some_and(|key| self.public_key() != Some(key)) {
            let what = match self.public_key() {
                Some(_) => "is signed with another Ed25519 key than the given one",
                None => "has no Ed25519 signature",
            };
            return refuse(what.into(), "Check the key; if the key is right, do not use this container");
        }
        let Some(key) = expected.key else { return Ok(()) };
        if key.id() != self.preamble.key_id {
            let what = format!(
                "was signed with the key {}, the given key is {}",
                to_hex(&self.preamble.key_id),
                to_hex(&key.id())
            );
            let fix = "Give the key that the container was signed with, or use --no-key to check its integrity alone";
            return refuse(what, fix);
        }
        let keys = key.derive(&self.preamble.salt);
        let message = tags::manifest_message(&self.fingerprint, &self.seal.public_key);
        if !tags::manifest_tag_is(&keys, &message, &self.seal.tag) {
            return refuse("has a manifest that was not signed with the given key".into(), "Do not use it");
        }
        // The manifest is authentic and holds these tags, so only a writer with a fault could make a wrong tag.
        let is_tagged = |(number, shard): (usize, &Shard)| {
            let place = shard_place(&self.id, &self.header, shard);
            tags::shard_tag_is(&keys, &place, self.shard_hash(number), self.shard_tag(number))
        };
        match self.layout.shards.iter().enumerate().find(|&entry| !is_tagged(entry)) {
            Some((number, _)) => Err(self.not_signed(number)),
            None => Ok(()),
        }
    }

    /// Returns whether `bytes` end with the seal of this container.
    pub(super) fn has_seal(&self, bytes: &[u8]) -> bool {
        let seal = bytes.last_chunk::<{ SEAL_BYTES as usize }>();
        seal.is_some_and(|seal| Seal::decode(seal, &self.fingerprint).as_ref() == Ok(&self.seal))
    }

    /// The refusal of a shard whose bytes or tag are not the signed ones.
    pub(crate) fn not_signed(&self, number: usize) -> Error {
        let shard = &self.layout.shards[number];
        not_signed(self.place(shard), shard, number)
    }
}

/// The refusal of shard `number`, whose bytes or tag are not the signed ones.
pub(super) fn not_signed(place: Place, shard: &Shard, number: usize) -> Error {
    let what = format!(
        "shard {} of {} of the {} plane is not the signed one (shard {number} of the file)",
        shard.index + 1,
        shard.count,
        shard.plane.name()
    );
    Error::verification(place.at(shard.offset), what, DAMAGED)
}

/// Turns the error of a file that has become shorter, or that breaks its format, into a refusal: such a file is not the
/// signed one.
pub(super) fn as_verification(error: Error) -> Error {
    match error {
        Error::Format { place, what, .. } | Error::Model { place, what, .. } => {
            Error::verification(place, what, DAMAGED)
        }
        other => other,
    }
}

/// Everything in a container except the shards.
struct Metadata {
    preamble: Preamble,
    header: Header,
    layout: Layout,
    id: Hash,
    fingerprint: Hash,
    detached: bool,
    model_name: Option<String>,
    manifest: Vec<u8>,
    seal: Seal,
}

impl Metadata {
    fn read<S: ReadAt + ?Sized>(source: &S, size: u64, path: &Path) -> Result<Self> {
        let refuse = |what: String| Error::verification(Place::file(path), what, DAMAGED);
        let read = |at: u64, buf: &mut [u8]| {
            source::read_at(source, Place::file(path), at, buf).map_err(as_verification)
        };
        let mut bytes = [0; PREAMBLE_BYTES as usize];
        if size < PREAMBLE_BYTES {
            return Err(refuse(format!("has {size} bytes, and a container begins with {PREAMBLE_BYTES}")));
        }
        read(0, &mut bytes)?;
        let preamble = Preamble::decode(&bytes).map_err(refuse)?;
        let detached = check_size(&preamble, size).map_err(refuse)?;

        let mut json = vec![0; preamble.header_bytes as usize];
        read(PREAMBLE_BYTES, &mut json)?;
        if sha256(&[&json]) != preamble.header_hash {
            return Err(refuse("has a damaged header".into()));
        }
        let header = Header::parse(&json).map_err(refuse)?;
        let layout = layout_of(&header, &preamble).map_err(refuse)?;

        let at = if detached { preamble.data_offset } else { preamble.manifest_offset };
        let mut manifest = vec![0; preamble.manifest_bytes as usize];
        read(at, &mut manifest)?;
        let mut seal = [0; SEAL_BYTES as usize];
        read(at + preamble.manifest_bytes, &mut seal)?;
        let fingerprint = tags::fingerprint(&manifest);
        let seal = Seal::decode(&seal, &fingerprint).map_err(refuse)?;
        check_manifest(&manifest, &preamble, &layout).map_err(refuse)?;

        let model_name = check_gguf_headers(source, path, &preamble, &header)?;
        check_header_padding(source, path, &preamble, &header)?;
        let id = header.container_id().expect("the header is checked");
        Ok(Self { preamble, header, layout, id, fingerprint, detached, model_name, manifest, seal })
    }
}

/// Reads and checks everything except the shards of a source of `size` bytes, and returns the fingerprint. `path` is
/// used in messages only.
///
/// # Errors
/// As [`Container::open`].
pub fn check_metadata<S: ReadAt + ?Sized>(source: &S, size: u64, path: &Path) -> Result<Hash> {
    Ok(Metadata::read(source, size, path)?.fingerprint)
}

/// Checks that the sizes in the preamble fit the file and the limits of the format, which bounds every allocation
/// that follows. Returns true for a manifest file.
fn check_size(p: &Preamble, size: u64) -> std::result::Result<bool, String> {
    let end = p.manifest_offset.checked_add(p.manifest_bytes).and_then(|end| end.checked_add(SEAL_BYTES));
    let ordered = PREAMBLE_BYTES.checked_add(p.header_bytes).is_some_and(|end| end <= p.data_offset)
        && p.data_offset <= p.manifest_offset
        && end == Some(p.file_bytes);
    if !ordered || p.header_bytes > MAX_HEADER {
        return Err("states sizes that contradict each other".into());
    }
    if u64::from(p.n_shards) > MAX_SHARDS {
        return Err(format!("states {} shards; at most {MAX_SHARDS} are accepted", p.n_shards));
    }
    if p.data_offset - PREAMBLE_BYTES - p.header_bytes > MAX_GGUF_HEADERS {
        return Err(format!("states GGUF headers of more than {MAX_GGUF_HEADERS} bytes"));
    }
    if p.manifest_bytes != MANIFEST_HEAD + ENTRY_BYTES * u64::from(p.n_shards) {
        return Err("states a manifest of the wrong size".into());
    }
    let without_shards = p.file_bytes - (p.manifest_offset - p.data_offset);
    if size == p.file_bytes {
        Ok(false)
    } else if size == without_shards {
        Ok(true)
    } else {
        Err(format!("has {size} bytes, not the {} it was sealed with", p.file_bytes))
    }
}

fn layout_of(header: &Header, p: &Preamble) -> std::result::Result<Layout, String> {
    let wrong = "has a header that does not fit the sizes before it";
    // This comparison comes before the list of shards is allocated.
    if header.count_shards() != u64::from(p.n_shards) {
        return Err(wrong.into());
    }
    Layout::of(header, p.header_bytes)
        .filter(|l| {
            l.data_offset == p.data_offset
                && l.manifest_offset == p.manifest_offset
                && l.manifest_bytes == p.manifest_bytes
                && l.file_bytes == p.file_bytes
        })
        .ok_or_else(|| wrong.into())
}

fn check_manifest(manifest: &[u8], p: &Preamble, layout: &Layout) -> std::result::Result<(), String> {
    let mut head = Vec::with_capacity(MANIFEST_HEAD as usize);
    head.extend_from_slice(&MANIFEST_MAGIC);
    head.extend_from_slice(&p.version.to_le_bytes());
    head.extend_from_slice(&p.algorithms.to_le_bytes());
    head.extend_from_slice(&sha256(&[&p.encode()]));
    head.extend_from_slice(&u64::from(p.n_shards).to_le_bytes());
    head.resize(MANIFEST_HEAD as usize, 0);
    let (found, entries) = manifest.split_at(MANIFEST_HEAD as usize);
    if found != head {
        return Err("has a manifest of another container, or a changed preamble (its first 256 bytes)".into());
    }
    for (i, (entry, shard)) in entries.chunks_exact(ENTRY_BYTES as usize).zip(&layout.shards).enumerate() {
        if entry[..40] != entry_place(shard) {
            return Err(format!("has a manifest whose entry {i} is not that of the shard at its place"));
        }
    }
    Ok(())
}

/// Reads the stored header of one part of the GGUF, which begins at `at`, and compares its SHA-256.
fn gguf_header<S: ReadAt + ?Sized>(source: &S, path: &Path, at: u64, part: &GgufPart) -> Result<Vec<u8>> {
    let mut bytes = vec![0; part.header_bytes as usize];
    source::read_at(source, Place::file(path), at, &mut bytes).map_err(as_verification)?;
    if to_hex(&sha256(&[&bytes])) != part.header_sha256 {
        let what = format!("has a damaged GGUF header (of '{}')", part.name);
        return Err(Error::verification(Place::file(path).at(at), what, DAMAGED));
    }
    Ok(bytes)
}

/// The header of a GGUF whose tensor data is not at hand. The data reads as zeros, and nothing looks at it.
struct HeaderOnly<'a>(&'a [u8]);

impl ReadAt for HeaderOnly<'_> {
    fn read_exact_from(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let known = (self.0.len() - start).min(buf.len());
        buf[..known].copy_from_slice(&self.0[start..start + known]);
        buf[known..].fill(0);
        Ok(())
    }
}

/// Parses the header of a GGUF that has `size` bytes altogether.
///
/// # Errors
/// [`Error::Verification`] when the header is not sound.
pub fn parse_gguf_header(bytes: &[u8], size: u64, path: &Path) -> Result<GgufHeader> {
    read_header(&HeaderOnly(bytes), size, path).map_err(as_verification)
}

/// Checks that every stored GGUF header is sound and lists exactly the tensors of the container's header. Returns the
/// name of the model.
fn check_gguf_headers<S: ReadAt + ?Sized>(
    source: &S,
    path: &Path,
    p: &Preamble,
    header: &Header,
) -> Result<Option<String>> {
    let mut name = None;
    let mut listed = vec![Vec::new(); header.files.len()];
    header.tensors.iter().for_each(|t| listed[t.file as usize].push(t));
    let mut at = PREAMBLE_BYTES + p.header_bytes;
    for (part, listed) in header.files.iter().zip(listed) {
        let bytes = gguf_header(source, path, at, part)?;
        at += part.header_bytes;
        let gguf = parse_gguf_header(&bytes, part.bytes, path)?;
        let same = gguf.tensors.len() == listed.len()
            && gguf.tensors.iter().zip(listed).all(|(g, t)| {
                g.name == t.name && g.ne == t.ne && g.ty.name() == t.ty && g.offset == t.offset
            });
        if !same || gguf.data_offset != part.header_bytes {
            let what = format!("lists other tensors than its GGUF header (of '{}')", part.name);
            return Err(Error::verification(Place::file(path), what, DAMAGED));
        }
        name = name.or_else(|| gguf.kv.get("general.name").and_then(|v| v.as_str()).map(str::to_string));
    }
    Ok(name)
}

/// Checks that only zeros lie between the last GGUF header and the first shard.
fn check_header_padding<S: ReadAt + ?Sized>(
    source: &S,
    path: &Path,
    p: &Preamble,
    header: &Header,
) -> Result<()> {
    let headers = header.gguf_header_bytes().expect("the layout is computed");
    let start = PREAMBLE_BYTES + p.header_bytes + headers;
    let mut padding = vec![0; (p.data_offset - start) as usize];
    source::read_at(source, Place::file(path), start, &mut padding).map_err(as_verification)?;
    if padding.iter().any(|&b| b != 0) {
        let what = "has bytes between its header and its first shard that are not zero";
        return Err(Error::verification(Place::file(path).at(start), what, DAMAGED));
    }
    Ok(())
}
