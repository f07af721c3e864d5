//! What a tag covers, to the byte. `docs/axm-format.md` has the same in words.

use ring::digest::{Context, SHA256};
use ring::hmac;

use super::keys::ContainerKeys;
use super::two_hashes::TwoHashes;
use super::{Hash, hash_of, tag_of};

/// First bytes of what each tag or hash covers, so that one can never be taken for another.
pub const SHARD_DOMAIN: &[u8] = b"srd-axm v1 shard\0";
pub const MANIFEST_DOMAIN: &[u8] = b"srd-axm v1 manifest\0";
pub const FINGERPRINT_DOMAIN: &[u8] = b"srd-axm v1 fingerprint\0";

/// What a shard's tag binds beside its bytes.
#[derive(Debug, Clone, Copy)]
pub struct ShardPlace<'a> {
    pub container: &'a Hash,
    pub tensor: &'a str,
    /// 0 base, 1 residual.
    pub plane: u8,
    /// Number of the shard in its plane, and how many the plane has.
    pub index: u32,
    pub count: u32,
    /// From the start of the container.
    pub offset: u64,
    pub length: u64,
}

impl ShardPlace<'_> {
    /// Everything the tag covers before the shard's bytes; numbers little endian.
    fn prefix(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SHARD_DOMAIN.len() + 61 + self.tensor.len());
        out.extend_from_slice(SHARD_DOMAIN);
        out.extend_from_slice(self.container);
        out.extend_from_slice(&(self.tensor.len() as u32).to_le_bytes());
        out.extend_from_slice(self.tensor.as_bytes());
        out.push(self.plane);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out
    }
}

/// SHA-256 and, with a key, tag of a shard: fed with its bytes in order.
pub struct ShardHasher(Hasher);

enum Hasher {
    Hash(Box<Context>),
    HashAndTag(TwoHashes),
}

impl ShardHasher {
    pub fn new(keys: Option<&ContainerKeys>, place: &ShardPlace) -> Self {
        Self(match keys {
            Some(keys) => Hasher::HashAndTag(TwoHashes::new(&*keys.shard, &place.prefix())),
            None => Hasher::Hash(Box::new(Context::new(&SHA256))),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Hasher::Hash(hash) => hash.update(bytes),
            Hasher::HashAndTag(both) => both.update(bytes),
        }
    }

    pub fn finish(self) -> (Hash, Option<Hash>) {
        match self.0 {
            Hasher::Hash(hash) => (hash_of(&hash.finish()), None),
            Hasher::HashAndTag(both) => {
                let (hash, tag) = both.finish();
                (hash, Some(tag))
            }
        }
    }
}

/// The public commitment to a manifest.
pub fn fingerprint(manifest: &[u8]) -> Hash {
    super::sha256(&[FINGERPRINT_DOMAIN, manifest])
}

/// What the manifest's tag and the Ed25519 signature cover: the fingerprint stands for the manifest,
/// `public_key` (zeros without one) makes it impossible to strip or replace a signature unnoticed.
pub fn manifest_message(fingerprint: &Hash, public_key: &Hash) -> Vec<u8> {
    [MANIFEST_DOMAIN, fingerprint, public_key].concat()
}

pub fn manifest_tag(keys: &ContainerKeys, message: &[u8]) -> Hash {
    tag_of(&hmac::sign(&keys.manifest, message))
}

/// Compares in constant time.
pub fn manifest_tag_is(keys: &ContainerKeys, message: &[u8], tag: &Hash) -> bool {
    hmac::verify(&keys.manifest, message, tag).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_depends_on_every_part_of_the_place() {
        let keys = super::super::keys::MasterKey::from_bytes([1; 32]).derive(&[2; 32]);
        let (one, other) = ([3; 32], [4; 32]);
        let place = ShardPlace {
            container: &one,
            tensor: "a",
            plane: 0,
            index: 0,
            count: 2,
            offset: 65536,
            length: 3,
        };
        let places = [
            place,
            ShardPlace { container: &other, ..place },
            ShardPlace { tensor: "b", ..place },
            ShardPlace { plane: 1, ..place },
            ShardPlace { index: 1, ..place },
            ShardPlace { count: 3, ..place },
            ShardPlace { offset: 131_072, ..place },
            ShardPlace { length: 4, ..place },
        ];
        let mut tags: Vec<_> = places
            .iter()
            .map(|p| {
                let mut hasher = ShardHasher::new(Some(&keys), p);
                hasher.update(b"abc");
                hasher.finish().1.unwrap()
            })
            .collect();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), places.len());
    }
}
