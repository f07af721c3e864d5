//! Front and end of a container; what lies between, the shards, the walk over the weights writes.

use std::sync::Mutex;

use super::layout::{
    ALGORITHMS, ENTRY_BYTES, Header, Layout, MANIFEST_HEAD, MANIFEST_MAGIC, Preamble, SEAL_BYTES, Shard,
    VERSION,
};
use crate::sign::ed25519::SignKey;
use crate::sign::keys::{ContainerKeys, MasterKey};
use crate::sign::tags::{self, ShardHasher, ShardPlace};
use crate::sign::{Hash, sha256};

const SALT_DOMAIN: &[u8] = b"srd-axm v1 salt\0";

/// SHA-256 and tag of a shard.
pub type Mark = (Hash, Hash);

/// A container in the making.
pub struct Writer<'a> {
    header: &'a Header,
    layout: &'a Layout,
    id: Hash,
    json: Vec<u8>,
    preamble: Preamble,
    keys: ContainerKeys,
    marks: Mutex<Vec<Option<Mark>>>,
}

impl<'a> Writer<'a> {
    /// The salt follows from container id and key, so that the same input gives the same bytes.
    ///
    /// # Panics
    /// If `header` has not been checked or `layout` is not of it.
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
            n_shards: u32::try_from(layout.shards.len()).expect("fewer than 2^32 shards"),
            header_hash: sha256(&[&json]),
            salt,
            key_id: key.id(),
        };
        let marks = Mutex::new(vec![None; layout.shards.len()]);
        Self { header, layout, id, json, preamble, keys: key.derive(&salt), marks }
    }

    /// What stands before the GGUF headers: preamble and header.
    pub fn front(&self) -> Vec<u8> {
        [&self.preamble.encode()[..], &self.json].concat()
    }

    /// Takes the bytes of shard `number` in order.
    pub fn hasher(&self, number: usize) -> ShardHasher {
        hasher(Some(&self.keys), &self.id, self.header, &self.layout.shards[number])
    }

    /// Keeps what `hasher` of this shard came to, and returns its SHA-256.
    pub fn finish_shard(&self, number: usize, hasher: ShardHasher) -> Hash {
        let (hash, tag) = hasher.finish();
        let tag = tag.expect("a writer has a key");
        self.marks.lock().unwrap_or_else(|p| p.into_inner())[number] = Some((hash, tag));
        hash
    }

    /// Manifest and seal, to be written at `layout.manifest_offset`, and the fingerprint.
    ///
    /// # Panics
    /// If a shard has not been finished.
    pub fn finish(self, sign_key: Option<&SignKey>) -> (Vec<u8>, Hash) {
        let marks = self.marks.into_inner().unwrap_or_else(|p| p.into_inner());
        let marks: Vec<Mark> = marks.into_iter().map(|m| m.expect("every shard is finished")).collect();
        let mut out = manifest(&self.preamble, &self.layout.shards, &marks);
        let fingerprint = tags::fingerprint(&out);
        out.extend(seal(&fingerprint, &self.keys, sign_key));
        (out, fingerprint)
    }
}

/// Hash and tag of a shard of this container.
pub(super) fn hasher(keys: Option<&ContainerKeys>, id: &Hash, header: &Header, shard: &Shard) -> ShardHasher {
    let place = ShardPlace {
        container: id,
        tensor: &header.tensors[shard.tensor as usize].name,
        plane: shard.plane as u8,
        index: shard.index,
        count: shard.count,
        offset: shard.offset,
        length: shard.length,
    };
    ShardHasher::new(keys, &place)
}

/// The manifest: magic, version, algorithms, SHA-256 of the preamble, number of shards, zeros, and an
/// entry for each shard.
fn manifest(preamble: &Preamble, shards: &[Shard], marks: &[Mark]) -> Vec<u8> {
    let mut out =
        Vec::with_capacity((MANIFEST_HEAD + ENTRY_BYTES * shards.len() as u64 + SEAL_BYTES) as usize);
    out.extend_from_slice(&MANIFEST_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&ALGORITHMS.to_le_bytes());
    out.extend_from_slice(&sha256(&[&preamble.encode()]));
    out.extend_from_slice(&(shards.len() as u64).to_le_bytes());
    out.resize(MANIFEST_HEAD as usize, 0);
    for (shard, (hash, tag)) in shards.iter().zip(marks) {
        out.extend_from_slice(&entry_place(shard));
        out.extend_from_slice(hash);
        out.extend_from_slice(tag);
    }
    out
}

/// The part of a manifest's entry that follows from the header: 40 bytes.
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
