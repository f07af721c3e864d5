//! Writes the preamble, the header and the manifest of a container. The shards between them are written by
//! `convert::container` while the weights are converted.
//!
//! ```no_run
//! use srd_rs::formats::axm::Container;
//! use srd_rs::formats::axm::writer::Writer;
//! use srd_rs::sign::keys::MasterKey;
//!
//! // Everything of a container except its GGUF headers and shards, signed with another key.
//! let container = Container::open("model.axm")?;
//! let writer = Writer::new(&container.header, &container.layout, &MasterKey::generate()?);
//! let before = writer.front();
//! # let shards: Vec<[u8; 32]> = Vec::new();
//! for (number, sha256) in shards.into_iter().enumerate() {
//!     writer.finish_shard(number, sha256);
//! }
//! let (manifest_and_seal, fingerprint) = writer.finish(None);
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::sync::Mutex;

use super::layout::{
    ALGORITHMS, ENTRY_BYTES, Header, Layout, MANIFEST_HEAD, MANIFEST_MAGIC, Preamble, SEAL_BYTES, Shard,
    VERSION,
};
use crate::sign::ed25519::SignKey;
use crate::sign::keys::{ContainerKeys, MasterKey};
use crate::sign::tags::{self, ShardPlace};
use crate::sign::{Hash, sha256};

const SALT_DOMAIN: &[u8] = b"srd-axm v1 salt\0";

/// What the manifest says of the bytes of one shard.
#[derive(Debug, Clone, Copy)]
struct ShardDigest {
    sha256: Hash,
    tag: Hash,
}

/// Collects the digests of a container's shards and makes everything that is not a shard.
pub struct Writer<'a> {
    header: &'a Header,
    layout: &'a Layout,
    id: Hash,
    json: Vec<u8>,
    preamble: Preamble,
    keys: ContainerKeys,
    digests: Mutex<Vec<Option<ShardDigest>>>,
}

impl<'a> Writer<'a> {
    /// Makes a writer for the container that `header` and `layout` describe. The salt follows from the container id and
    /// the key, so that the same input and the same key give the same file.
    ///
    /// # Panics
    /// If `header` has not been checked, or if `layout` is not the layout of `header`.
    pub fn new(header: &'a Header, layout: &'a Layout, key: &MasterKey) -> Self {
        let id = header.container_id().expect("headers are checked");
        let json = header.to_json();
        let salt = sha256(&[SALT_DOMAIN, &id, &key.id()]);
        let preamble = Preamble {
            version: VERSION,
            algorithms: ALGORITHMS,
            header_bytes: json.len() as u64,
            data_offset: layout.data_offset,
            manifest_offset: layout.manifest_offset,
            manifest_bytes: layout.manifest_bytes,
            file_bytes: layout.file_bytes,
            n_shards: u32::try_from(layout.shards.len()).expect("a layout has at most MAX_SHARDS shards"),
            header_hash: sha256(&[&json]),
            salt,
            key_id: key.id(),
        };
        let digests = Mutex::new(vec![None; layout.shards.len()]);
        Self { header, layout, id, json, preamble, keys: key.derive(&salt), digests }
    }

    /// Returns the bytes before the GGUF headers: the preamble and the header.
    pub fn front(&self) -> Vec<u8> {
        [&self.preamble.encode()[..], &self.json].concat()
    }

    /// Replaces the header by one that differs in digests of source files alone. [`Writer::front`] then gives other bytes.
    ///
    /// # Panics
    /// If the JSON of `header` has another length, because the length decides where the shards lie.
    pub fn replace_header(&mut self, header: &Header) {
        let json = header.to_json();
        assert_eq!(json.len(), self.json.len(), "digests have a fixed length");
        self.preamble.header_hash = sha256(&[&json]);
        self.json = json;
    }

    /// Takes the SHA-256 of the bytes of shard `number`, and makes the tag of the shard.
    pub fn finish_shard(&self, number: usize, sha256: Hash) {
        let place = shard_place(&self.id, self.header, &self.layout.shards[number]);
        let digest = ShardDigest { sha256, tag: tags::shard_tag(&self.keys, &place, &sha256) };
        self.digests.lock().unwrap_or_else(|p| p.into_inner())[number] = Some(digest);
    }

    /// Returns the manifest and the seal, which are to be written at `layout.manifest_offset`, and the fingerprint.
    ///
    /// # Panics
    /// If a shard has not been finished.
    pub fn finish(self, sign_key: Option<&SignKey>) -> (Vec<u8>, Hash) {
        let digests = self.digests.into_inner().unwrap_or_else(|p| p.into_inner());
        let digests: Vec<_> = digests.into_iter().map(|d| d.expect("every shard is finished")).collect();
        let mut out = manifest(&self.preamble, &self.layout.shards, &digests);
        let fingerprint = tags::fingerprint(&out);
        out.extend(seal(&fingerprint, &self.keys, sign_key));
        (out, fingerprint)
    }
}

/// The place of a shard of the container `id`, as its tag binds it.
pub(super) fn shard_place<'a>(id: &'a Hash, header: &'a Header, shard: &Shard) -> ShardPlace<'a> {
    ShardPlace {
        container: id,
        tensor: &header.tensors[shard.tensor as usize].name,
        plane: shard.plane as u8,
        index: shard.index,
        count: shard.count,
        offset: shard.offset,
        length: shard.length,
    }
}

/// Makes the manifest: magic, version, algorithms, SHA-256 of the preamble, number of shards, zeros, and an entry for
/// each shard.
fn manifest(preamble: &Preamble, shards: &[Shard], digests: &[ShardDigest]) -> Vec<u8> {
    let mut out =
        Vec::with_capacity((MANIFEST_HEAD + ENTRY_BYTES * shards.len() as u64 + SEAL_BYTES) as usize);
    out.extend_from_slice(&MANIFEST_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&ALGORITHMS.to_le_bytes());
    out.extend_from_slice(&sha256(&[&preamble.encode()]));
    out.extend_from_slice(&(shards.len() as u64).to_le_bytes());
    out.resize(MANIFEST_HEAD as usize, 0);
    for (shard, digest) in shards.iter().zip(digests) {
        out.extend_from_slice(&entry_place(shard));
        out.extend_from_slice(&digest.sha256);
        out.extend_from_slice(&digest.tag);
    }
    out
}

/// The first 40 bytes of a manifest's entry, which follow from the header.
pub(super) fn entry_place(shard: &Shard) -> [u8; 40] {
    let mut out = [0; 40];
    out[0..4].copy_from_slice(&shard.tensor.to_le_bytes());
    out[4..8].copy_from_slice(&(shard.plane as u32).to_le_bytes());
    out[8..12].copy_from_slice(&shard.index.to_le_bytes());
    out[12..16].copy_from_slice(&shard.count.to_le_bytes());
    out[16..24].copy_from_slice(&shard.offset.to_le_bytes());
    out[24..32].copy_from_slice(&shard.length.to_le_bytes());
    out
}

fn seal(fingerprint: &Hash, keys: &ContainerKeys, sign_key: Option<&SignKey>) -> Vec<u8> {
    let public = sign_key.map_or([0; 32], SignKey::public);
    let message = tags::manifest_message(fingerprint, &public);
    let mut out = fingerprint.to_vec();
    out.extend_from_slice(&tags::manifest_tag(keys, &message));
    out.extend_from_slice(&public);
    out.extend_from_slice(&sign_key.map_or([0; 64], |key| key.sign(&message)));
    let checksum = sha256(&[&out]);
    out.extend_from_slice(&checksum);
    out
}
