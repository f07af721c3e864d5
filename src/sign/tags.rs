//! Tags and fingerprints: which bytes each of them covers. `docs/axm-format.md` says the same in words.
//!
//! The tag of a shard is HMAC-SHA256 over the place of the shard and over the SHA-256 of the shard's bytes. One
//! pass over the data is therefore enough, and `ring` computes all of it.
//!
//! ```
//! use srd_rs::sign::keys::MasterKey;
//! use srd_rs::sign::sha256;
//! use srd_rs::sign::tags::{ShardPlace, shard_tag};
//!
//! let keys = MasterKey::from_bytes([1; 32]).derive(&[2; 32]);
//! let place = ShardPlace {
//!     container: &[3; 32],
//!     tensor: "output.weight",
//!     plane: 0,
//!     index: 0,
//!     count: 1,
//!     offset: 65536,
//!     length: 5,
//! };
//! let tag = shard_tag(&keys, &place, &sha256(&[b"bytes"]));
//! assert_ne!(tag, shard_tag(&keys, &place, &sha256(&[b"other"])));
//! ```

use ring::hmac;

use super::Hash;
use super::keys::ContainerKeys;

/// The first bytes of the message of a shard's tag. Each kind of message begins with its own domain, so that one
/// kind can never be taken for another.
pub const SHARD_DOMAIN: &[u8] = b"srd-axm v1 shard\0";
/// The first bytes of the message that the manifest's tag and the Ed25519 signature cover.
pub const MANIFEST_DOMAIN: &[u8] = b"srd-axm v1 manifest\0";
/// The first bytes of what the fingerprint is the SHA-256 of.
pub const FINGERPRINT_DOMAIN: &[u8] = b"srd-axm v1 fingerprint\0";

/// The place of a shard: everything that its tag binds besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct ShardPlace<'a> {
    /// The container id.
    pub container: &'a Hash,
    /// The name of the tensor.
    pub tensor: &'a str,
    /// 0 for the base, 1 for the residual.
    pub plane: u8,
    /// The number of the shard in its plane, from 0.
    pub index: u32,
    /// The number of shards in the plane.
    pub count: u32,
    /// The first byte of the shard, counted from the start of the container.
    pub offset: u64,
    /// The number of bytes in the shard.
    pub length: u64,
}

impl ShardPlace<'_> {
    /// The message of the tag; numbers are little endian.
    fn message(&self, bytes: &Hash) -> Vec<u8> {
        let name = self.tensor.as_bytes();
        [
            SHARD_DOMAIN,
            self.container,
            &(name.len() as u32).to_le_bytes(),
            name,
            &[self.plane],
            &self.index.to_le_bytes(),
            &self.count.to_le_bytes(),
            &self.offset.to_le_bytes(),
            &self.length.to_le_bytes(),
            bytes,
        ]
        .concat()
    }
}

/// The tag of the shard at `place` whose bytes have the SHA-256 `bytes`.
pub fn shard_tag(keys: &ContainerKeys, place: &ShardPlace, bytes: &Hash) -> Hash {
    tag_of(&hmac::sign(&keys.shard, &place.message(bytes)))
}

/// Whether `tag` is the tag of that shard. The comparison takes the same time for every wrong tag.
pub fn shard_tag_is(keys: &ContainerKeys, place: &ShardPlace, bytes: &Hash, tag: &[u8]) -> bool {
    hmac::verify(&keys.shard, &place.message(bytes), tag).is_ok()
}

/// The fingerprint of a manifest: the public commitment to every byte of a container.
pub fn fingerprint(manifest: &[u8]) -> Hash {
    super::sha256(&[FINGERPRINT_DOMAIN, manifest])
}

/// The message that the manifest's tag and the Ed25519 signature cover. The fingerprint stands for the manifest. The
/// public key (zeros without a signature) is in the message, so that nobody can strip or replace a signature
/// without the master key noticing.
pub fn manifest_message(fingerprint: &Hash, public_key: &Hash) -> Vec<u8> {
    [MANIFEST_DOMAIN, fingerprint, public_key].concat()
}

/// The tag of a manifest; `message` comes from [`manifest_message`].
pub fn manifest_tag(keys: &ContainerKeys, message: &[u8]) -> Hash {
    tag_of(&hmac::sign(&keys.manifest, message))
}

/// Whether `tag` is the tag of that manifest. The comparison takes the same time for every wrong tag.
pub fn manifest_tag_is(keys: &ContainerKeys, message: &[u8], tag: &Hash) -> bool {
    hmac::verify(&keys.manifest, message, tag).is_ok()
}

fn tag_of(tag: &hmac::Tag) -> Hash {
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::super::keys::MasterKey;
    use super::*;

    #[test]
    fn a_tag_depends_on_every_part_of_the_place_and_on_the_bytes() {
        let keys = MasterKey::from_bytes([1; 32]).derive(&[2; 32]);
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
        let mut tags: Vec<_> = places.iter().map(|p| shard_tag(&keys, p, &[5; 32])).collect();
        tags.push(shard_tag(&keys, &place, &[6; 32]));
        assert!(shard_tag_is(&keys, &place, &[5; 32], &tags[0]));
        assert!(!shard_tag_is(&keys, &place, &[5; 32], &tags[1]));
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), places.len() + 1);
    }

    /// RFC 4231, test case 2, through `ring` as [`shard_tag`] calls it.
    #[test]
    fn hmac_gives_what_rfc_4231_says() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        let tag = tag_of(&hmac::sign(&key, b"what do ya want for nothing?"));
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(super::super::to_hex(&tag), expected);
    }
}
