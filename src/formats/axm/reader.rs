//! Opens a container, checks all of it that is not shards, and verifies the shards on all cores.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::layout::{
    ENTRY_BYTES, Header, Layout, MANIFEST_HEAD, MANIFEST_MAGIC, MAX_HEADER, PREAMBLE_BYTES, Preamble,
    SEAL_BYTES, Shard,
};
use super::writer::{entry_place, hasher};
use crate::error::{Error, Place, Result};
use crate::formats::gguf::reader::{Header as GgufHeader, read_header};
use crate::formats::source::{self, Source};
use crate::progress::Progress;
use crate::sign::ed25519::{self, Signature};
use crate::sign::keys::{ContainerKeys, MasterKey};
use crate::sign::{Hash, sha256, tags, to_hex};
use crate::work;

const DAMAGED: &str = "It is damaged or was altered: get it again from where it was published";
/// Bytes read at a time.
const WINDOW: usize = 1 << 20;

/// A container, or its manifest file, whose front, manifest and seal are sound.
#[derive(Debug)]
pub struct Container {
    pub path: PathBuf,
    pub file: File,
    pub preamble: Preamble,
    pub header: Header,
    pub layout: Layout,
    pub id: Hash,
    pub fingerprint: Hash,
    /// A manifest file: everything but the shards.
    pub detached: bool,
    manifest: Vec<u8>,
    seal: Seal,
}

/// What follows the manifest.
#[derive(Debug)]
struct Seal {
    tag: Hash,
    /// Zeros when there is no signature.
    public_key: Hash,
    signature: Signature,
}

impl Seal {
    /// What is wrong with it, if it does not belong to `fingerprint`.
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

/// What a verification is held against.
#[derive(Default)]
pub struct Expected<'a> {
    /// With it authenticity is checked, without it integrity alone.
    pub key: Option<&'a MasterKey>,
    pub public_key: Option<Hash>,
    pub fingerprint: Option<Hash>,
}

impl Container {
    /// Opens a container or a manifest file and checks its front, manifest and seal.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Verification`] if anything about it is not as the
    /// format says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, size) = source::open_regular(path)?;
        let front = Front::read(&file, size, path)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            preamble: front.preamble,
            header: front.header,
            layout: front.layout,
            id: front.id,
            fingerprint: front.fingerprint,
            detached: front.detached,
            manifest: front.manifest,
            seal: front.seal,
        })
    }

    /// The bytes before tensor data of part `index` of the GGUF.
    ///
    /// # Errors
    /// As [`Container::open`].
    pub fn gguf_header(&self, index: usize) -> Result<Vec<u8>> {
        gguf_header(&self.file, &self.path, &self.preamble, &self.header, index)
    }

    /// The public key of the signature, if there is one. That it signs this manifest has been checked;
    /// whose key it is has not.
    pub fn public_key(&self) -> Option<Hash> {
        self.seal.is_signed().then_some(self.seal.public_key)
    }

    pub(crate) fn place(&self, shard: &Shard) -> Place {
        Place::file(&self.path).tensor(&self.header.tensors[shard.tensor as usize].name).at(shard.offset)
    }

    /// Hash and tag of a shard as the manifest has them.
    pub(crate) fn mark(&self, number: usize) -> (&[u8], &[u8]) {
        let at = (MANIFEST_HEAD + ENTRY_BYTES * number as u64) as usize + 40;
        (&self.manifest[at..at + 32], &self.manifest[at + 32..at + 64])
    }

    /// Checks who sealed the manifest, as far as `expected` allows.
    ///
    /// # Errors
    /// [`Error::Verification`] when it is not what is expected.
    pub fn authenticate(&self, expected: &Expected) -> Result<Option<ContainerKeys>> {
        let refuse = |what: String, fix: &str| Err(Error::verification(Place::file(&self.path), what, fix));
        if expected.fingerprint.is_some_and(|f| f != self.fingerprint) {
            let what = format!("has the fingerprint {}, not the expected one", to_hex(&self.fingerprint));
            return refuse(what, "This is another container, or an altered one: do not use it");
        }
        if expected.public_key.is_some_and(|key| self.public_key() != Some(key)) {
            let what = match self.public_key() {
                Some(_) => "is signed with another Ed25519 key than the given one",
                None => "has no Ed25519 signature",
            };
            return refuse(what.into(), "Check the key; if it is right, do not use this container");
        }
        let Some(key) = expected.key else { return Ok(None) };
        if key.id() != self.preamble.key_id {
            let what = format!(
                "was signed with the key {}, the given one is {}",
                to_hex(&self.preamble.key_id),
                to_hex(&key.id())
            );
            let fix = "Give the key it was signed with, or verify with --no-key to check its integrity alone";
            return refuse(what, fix);
        }
        let keys = key.derive(&self.preamble.salt);
        let message = tags::manifest_message(&self.fingerprint, &self.seal.public_key);
        if !tags::manifest_tag_is(&keys, &message, &self.seal.tag) {
            return refuse("has a manifest that was not signed with the given key".into(), "Do not use it");
        }
        Ok(Some(keys))
    }

    /// Bytes that [`Container::verify`] reads.
    pub fn shard_bytes(&self) -> u64 {
        self.layout.shards.iter().map(|s| s.length).sum()
    }

    /// Reads bytes of a shard; `at` counts from its first.
    ///
    /// # Errors
    /// [`Error::Verification`] when the file has become shorter, [`Error::Io`] when it cannot be read.
    pub(crate) fn read_shard(&self, shard: &Shard, at: u64, buf: &mut [u8]) -> Result<()> {
        source::read_at(&self.file, self.place(shard), shard.offset + at, buf).map_err(as_verification)
    }

    /// The refusal of a shard whose bytes are not the signed ones.
    pub(crate) fn not_signed(&self, number: usize) -> Error {
        let shard = &self.layout.shards[number];
        let what = format!(
            "shard {} of {} of the {} plane is not the signed one (shard {number} of the file)",
            shard.index + 1,
            shard.count,
            shard.plane.name()
        );
        Error::verification(self.place(shard), what, DAMAGED)
    }

    /// Checks every shard, and that there is nothing between them, on `threads` threads.
    ///
    /// # Errors
    /// [`Error::Verification`] for the first shard in file order that is not the signed one;
    /// [`Error::Usage`] for a manifest file, which has no shards.
    pub fn verify(&self, expected: &Expected, threads: usize, progress: &Progress) -> Result<()> {
        let keys = self.authenticate(expected)?;
        if self.detached {
            let what = format!("{} is a manifest without shards", self.path.display());
            return Err(Error::usage(what, "Name the GGUF that it belongs to as well"));
        }
        self.for_each_shard(threads, progress, |number, shard, buffer| {
            let read = |at: u64, buf: &mut [u8]| self.read_shard(shard, at, buf);
            self.check_shard(number, keys.as_ref(), &read, buffer, progress)?;
            self.check_padding(number, buffer)
        })
    }

    /// Checks the GGUF, or its parts, against this container or manifest file: header, every tensor, and
    /// that there is nothing else.
    ///
    /// # Errors
    /// [`Error::Verification`] for the first thing that is not the signed one; [`Error::Usage`] when there
    /// are more or fewer files than parts.
    pub fn verify_gguf(
        &self,
        paths: &[PathBuf],
        expected: &Expected,
        threads: usize,
        progress: &Progress,
    ) -> Result<()> {
        let keys = self.authenticate(expected)?;
        let parts = self.header.files.len();
        if paths.len() != parts {
            let what = format!("the container is of {parts} GGUF files, {} were named", paths.len());
            return Err(Error::usage(what, "Name each part of the GGUF, in order"));
        }
        let files = (0..parts).map(|i| self.open_part(i, &paths[i])).collect::<Result<Vec<_>>>()?;
        self.for_each_shard(threads, progress, |number, shard, buffer| {
            let tensor = &self.header.tensors[shard.tensor as usize];
            if shard.plane != super::Plane::Base {
                return Ok(());
            }
            let (path, file) = (&paths[tensor.file as usize], &files[tensor.file as usize]);
            let step = tensor.ggml_type().row_bytes(tensor.shard_weights.min(tensor.n_weights()));
            let start = tensor.offset + step.expect("the header is checked") * u64::from(shard.index);
            let place = || Place::file(path).tensor(&tensor.name);
            let read = |at: u64, buf: &mut [u8]| {
                source::read_at(file, place(), start + at, buf).map_err(as_verification)
            };
            self.check_shard(number, keys.as_ref(), &read, buffer, progress).map_err(|e| match e {
                Error::Verification { what, fix, .. } => {
                    Error::Verification { place: place().at(start), what, fix }
                }
                other => other,
            })
        })?;
        files.iter().zip(paths).enumerate().try_for_each(|(i, (file, path))| self.check_gaps(i, file, path))
    }

    /// A part of the GGUF whose size and header are the signed ones.
    fn open_part(&self, index: usize, path: &Path) -> Result<File> {
        let part = &self.header.files[index];
        let (file, size) = source::open_regular(path)?;
        let refuse = |what: String| Err(Error::verification(Place::file(path), what, DAMAGED));
        if size != part.bytes {
            return refuse(format!("has {size} bytes, the signed GGUF has {}", part.bytes));
        }
        let mut header = vec![0; part.header_bytes as usize];
        source::read_at(&file, Place::file(path), 0, &mut header)?;
        if to_hex(&sha256(&[&header])) != part.header_sha256 {
            return refuse(format!(
                "has another header than the signed GGUF (its first {} bytes)",
                header.len()
            ));
        }
        Ok(file)
    }

    /// What lies between the tensors of a part is zeros.
    fn check_gaps(&self, index: usize, file: &File, path: &Path) -> Result<()> {
        let part = &self.header.files[index];
        let mut spans: Vec<(u64, u64)> = self
            .header
            .tensors
            .iter()
            .filter(|t| t.file as usize == index)
            .map(|t| (t.offset, t.offset + t.base.bytes))
            .collect();
        spans.sort_unstable();
        spans.push((part.bytes, part.bytes));
        let (mut at, mut buffer) = (part.header_bytes, Vec::new());
        for (start, end) in spans {
            let place = Place::file(path).at(at);
            if !zeros(file, &place, at..start.max(at), &mut buffer)? {
                return Err(Error::verification(
                    place,
                    "has bytes between tensors that are not zero",
                    DAMAGED,
                ));
            }
            at = end;
        }
        Ok(())
    }

    /// Runs `f(number, shard, buffer)` for all shards on `threads` threads. The failure of the first
    /// shard in file order is returned, whatever the timing.
    pub(crate) fn for_each_shard(
        &self,
        threads: usize,
        progress: &Progress,
        f: impl Fn(usize, &Shard, &mut Vec<u8>) -> Result<()> + Sync,
    ) -> Result<()> {
        work::run(self.layout.shards.len(), threads, progress, |number, buffer, _| {
            f(number, &self.layout.shards[number], buffer)
        })
    }

    fn check_shard(
        &self,
        number: usize,
        keys: Option<&ContainerKeys>,
        read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
        buffer: &mut Vec<u8>,
        progress: &Progress,
    ) -> Result<()> {
        let shard = &self.layout.shards[number];
        let mut hasher = hasher(keys, &self.id, &self.header, shard);
        let mut at = 0;
        while at < shard.length && !progress.is_cancelled() {
            buffer.resize((shard.length - at).min(WINDOW as u64) as usize, 0);
            read(at, buffer)?;
            hasher.update(buffer);
            at += buffer.len() as u64;
            progress.add(buffer.len() as u64);
        }
        if at < shard.length {
            return Err(Error::Interrupted);
        }
        let (hash, tag) = hasher.finish();
        let (signed_hash, signed_tag) = self.mark(number);
        if hash != signed_hash {
            return Err(self.not_signed(number));
        }
        // The manifest that lists this tag is authentic, so only a writer's mistake gets here.
        if tag.is_some_and(|tag| tag != signed_tag) {
            return Err(self.not_signed(number));
        }
        Ok(())
    }

    fn check_padding(&self, number: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let shard = &self.layout.shards[number];
        let end = self.layout.shards.get(number + 1).map_or(self.layout.manifest_offset, |next| next.offset);
        let place = Place::file(&self.path).at(shard.offset + shard.length);
        if !zeros(&self.file, &place, shard.offset + shard.length..end, buffer)? {
            let tensor = &self.header.tensors[shard.tensor as usize].name;
            let what = format!(
                "has bytes behind shard {} of {} of the {} plane that are not zero",
                shard.index + 1,
                shard.count,
                shard.plane.name()
            );
            return Err(Error::verification(place.tensor(tensor), what, DAMAGED));
        }
        Ok(())
    }

    /// The manifest file of this container: all of it but the shards.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub fn detach(&self) -> Result<Vec<u8>> {
        let mut out = vec![0; self.layout.detached_bytes() as usize];
        let (front, end) = out.split_at_mut(self.layout.data_offset as usize);
        source::read_at(&self.file, Place::file(&self.path), 0, front)?;
        let at = if self.detached { self.layout.data_offset } else { self.layout.manifest_offset };
        source::read_at(&self.file, Place::file(&self.path), at, end)?;
        Ok(out)
    }
}

/// Whether a range holds zeros alone.
fn zeros(file: &File, place: &Place, range: std::ops::Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
    let mut at = range.start;
    while at < range.end {
        buffer.resize((range.end - at).min(WINDOW as u64) as usize, 0);
        source::read_at(file, place.clone(), at, buffer).map_err(as_verification)?;
        if buffer.iter().any(|&b| b != 0) {
            return Ok(false);
        }
        at += buffer.len() as u64;
    }
    Ok(true)
}

/// A signed file that has become shorter, or breaks its format, is not the signed one.
fn as_verification(error: Error) -> Error {
    match error {
        Error::Format { place, what, .. } | Error::Model { place, what, .. } => {
            Error::verification(place, what, DAMAGED)
        }
        other => other,
    }
}

/// Everything but the shards.
struct Front {
    preamble: Preamble,
    header: Header,
    layout: Layout,
    id: Hash,
    fingerprint: Hash,
    detached: bool,
    manifest: Vec<u8>,
    seal: Seal,
}

impl Front {
    fn read<S: Source + ?Sized>(source: &S, size: u64, path: &Path) -> Result<Self> {
        let refuse = |what: String| Error::verification(Place::file(path), what, DAMAGED);
        let read = |at: u64, buf: &mut [u8]| {
            source::read_at(source, Place::file(path), at, buf).map_err(as_verification)
        };
        let mut bytes = [0; PREAMBLE_BYTES as usize];
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

        check_gguf_headers(source, path, &preamble, &header)?;
        check_front_padding(source, path, &preamble, &header)?;
        let id = header.container_id().expect("the header is checked");
        Ok(Self { preamble, header, layout, id, fingerprint, detached, manifest, seal })
    }
}

/// Reads and checks everything but the shards, of a source of `size` bytes; `path` is for messages.
///
/// # Errors
/// As [`Container::open`].
pub fn check_front<S: Source + ?Sized>(source: &S, size: u64, path: &Path) -> Result<Hash> {
    Ok(Front::read(source, size, path)?.fingerprint)
}

/// The sizes that the preamble states fit the file, which bounds every allocation; true for a manifest
/// file.
fn check_size(p: &Preamble, size: u64) -> std::result::Result<bool, String> {
    let end = p.manifest_offset.checked_add(p.manifest_bytes).and_then(|end| end.checked_add(SEAL_BYTES));
    let ordered = PREAMBLE_BYTES.checked_add(p.header_bytes).is_some_and(|end| end <= p.data_offset)
        && p.data_offset <= p.manifest_offset
        && end == Some(p.file_bytes);
    if !ordered || p.header_bytes > MAX_HEADER {
        return Err("states sizes that contradict each other".into());
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
    // Before the list of shards is allocated.
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

fn gguf_header<S: Source + ?Sized>(
    source: &S,
    path: &Path,
    p: &Preamble,
    header: &Header,
    index: usize,
) -> Result<Vec<u8>> {
    let before: u64 = header.files[..index].iter().map(|f| f.header_bytes).sum();
    let mut bytes = vec![0; header.files[index].header_bytes as usize];
    let at = PREAMBLE_BYTES + p.header_bytes + before;
    source::read_at(source, Place::file(path), at, &mut bytes).map_err(as_verification)?;
    if to_hex(&sha256(&[&bytes])) != header.files[index].header_sha256 {
        let what = format!("has a damaged GGUF header (of '{}')", header.files[index].name);
        return Err(Error::verification(Place::file(path).at(at), what, DAMAGED));
    }
    Ok(bytes)
}

/// The front of a GGUF of which nothing else is at hand; the rest reads as zeros, and is not looked at.
struct HeaderOnly<'a>(&'a [u8]);

impl Source for HeaderOnly<'_> {
    fn read_exact_from(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let known = (self.0.len() - start).min(buf.len());
        buf[..known].copy_from_slice(&self.0[start..start + known]);
        buf[known..].fill(0);
        Ok(())
    }
}

/// Reads the front of a GGUF of `size` bytes.
///
/// # Errors
/// [`Error::Verification`] when it is not sound.
pub fn parse_gguf_header(bytes: &[u8], size: u64, path: &Path) -> Result<GgufHeader> {
    read_header(&HeaderOnly(bytes), size, path).map_err(as_verification)
}

/// Every stored GGUF header is sound and lists exactly the tensors of the container's header.
fn check_gguf_headers<S: Source + ?Sized>(
    source: &S,
    path: &Path,
    p: &Preamble,
    header: &Header,
) -> Result<()> {
    for (index, file) in header.files.iter().enumerate() {
        let bytes = gguf_header(source, path, p, header, index)?;
        let gguf = parse_gguf_header(&bytes, file.bytes, path)?;
        let listed = header.tensors.iter().filter(|t| t.file as usize == index);
        let same = gguf.tensors.len() == listed.clone().count()
            && gguf.tensors.iter().zip(listed).all(|(g, t)| {
                g.name == t.name && g.ne == t.ne && g.ty.name() == t.ty && g.offset == t.offset
            });
        if !same || gguf.data_offset != file.header_bytes {
            let what = format!("lists other tensors than its GGUF header (of '{}')", file.name);
            return Err(Error::verification(Place::file(path), what, DAMAGED));
        }
    }
    Ok(())
}

/// Zeros between the last GGUF header and the first shard.
fn check_front_padding<S: Source + ?Sized>(
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
