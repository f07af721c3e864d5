//! What a tag covers, to the byte. `docs/axm-format.md` has the same in words.

use ring::digest::{Context, SHA256};
use ring::hmac;

use super::keys::ContainerKeys;
use super::{Hash, hash_of};

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
pub struct ShardHasher {
    hash: Context,
    tag: Option<hmac::Context>,
}

impl ShardHasher {
    pub fn new(keys: Option<&ContainerKeys>, place: &ShardPlace) -> Self {
        let tag = keys.map(|keys| {
            let mut context = hmac::Context::with_key(&keys.shard);
            context.update(&place.prefix());
            context
        });
        Self { hash: Context::new(&SHA256), tag }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        // A block small enough for the first cache goes through both, so that it comes from memory once.
        for piece in bytes.chunks(16 << 10) {
            self.hash.update(piece);
            if let Some(tag) = &mut self.tag {
                tag.update(piece);
            }
        }
    }

    pub fn finish(self) -> (Hash, Option<Hash>) {
        (hash_of(&self.hash.finish()), self.tag.map(|t| tag_of(&t.sign())))
    }
}

fn tag_of(tag: &hmac::Tag) -> Hash {
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
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
    use super::super::to_hex;
    use super::*;

    /// RFC 4231, test cases 1 to 7 (5 gives the truncated tag).
    #[test]
    fn hmac_gives_what_rfc_4231_says() {
        let long = "This is a test using a larger than block-size key and a larger than block-size data. \
                    The key needs to be hashed before being used by the HMAC algorithm.";
        let counting: Vec<u8> = (1..=25).collect();
        let cases: [(&[u8], &[u8], &str); 7] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (&counting, &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
            (&[0x0c; 20], b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &[0xaa; 131],
                long.as_bytes(),
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, data, expected) in cases {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            let mut context = hmac::Context::with_key(&key);
            data.chunks(7).for_each(|piece| context.update(piece));
            assert!(to_hex(&tag_of(&context.sign())).starts_with(expected), "{expected}");
        }
    }

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
