//! SHA-256 and HMAC-SHA256 (RFC 2104) of the same bytes in one pass.
//!
//! Where the CPU has SHA instructions the two messages advance side by side, which takes little longer
//! than one of them; elsewhere both go through `ring`. The results are the same.

use ring::digest::{Context, SHA256};
use ring::hmac;
use zeroize::{Zeroize, Zeroizing};

use super::simd::{BLOCK, ShaInstructions};
use super::{Hash, hash_of, tag_of};

/// The hash of the bytes, and the tag of a prefix and the bytes.
pub struct TwoHashes(Way);

enum Way {
    SideBySide(Box<SideBySide>),
    OneByOne(Box<(Context, hmac::Context)>),
}

impl TwoHashes {
    /// Messages that advance side by side where the CPU can do that.
    pub fn new(key: &[u8], prefix: &[u8]) -> Self {
        match ShaInstructions::find() {
            Some(cpu) => Self(Way::SideBySide(Box::new(SideBySide::new(cpu, key, prefix)))),
            None => Self::portable(key, prefix),
        }
    }

    /// One after the other, on any CPU.
    pub fn portable(key: &[u8], prefix: &[u8]) -> Self {
        let mut tag = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        tag.update(prefix);
        Self(Way::OneByOne(Box::new((Context::new(&SHA256), tag))))
    }

    /// Takes the next bytes of both.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Way::SideBySide(both) => both.update(bytes),
            Way::OneByOne(both) => {
                // A piece small enough for the first cache goes through both, so that it comes from memory once.
                for piece in bytes.chunks(16 << 10) {
                    both.0.update(piece);
                    both.1.update(piece);
                }
            }
        }
    }

    /// Hash and tag.
    pub fn finish(self) -> (Hash, Hash) {
        match self.0 {
            Way::SideBySide(both) => both.finish(),
            Way::OneByOne(both) => (hash_of(&both.0.finish()), tag_of(&both.1.sign())),
        }
    }
}

struct SideBySide {
    hash: Message,
    /// HMAC's inner message: key, prefix, bytes.
    inner: Message,
    /// The outer message, so far its key alone.
    outer: Message,
}

/// A SHA-256 in the making. Overwritten when dropped: it may have begun with a key.
struct Message {
    cpu: ShaInstructions,
    state: [u32; 8],
    /// What came since the last whole block.
    carry: [u8; BLOCK],
    carried: usize,
    /// Bytes so far.
    length: u64,
}

impl Drop for Message {
    fn drop(&mut self) {
        self.state.zeroize();
        self.carry.zeroize();
    }
}

impl Message {
    fn new(cpu: ShaInstructions) -> Self {
        // First 32 bits of the fractional parts of the square roots of the first 8 primes.
        let state = [
            0x6a09_e667,
            0xbb67_ae85,
            0x3c6e_f372,
            0xa54f_f53a,
            0x510e_527f,
            0x9b05_688c,
            0x1f83_d9ab,
            0x5be0_cd19,
        ];
        Self { cpu, state, carry: [0; BLOCK], carried: 0, length: 0 }
    }

    /// Completes the block begun, if `bytes` can; returns the whole blocks after it and the rest.
    fn begin<'a>(&mut self, bytes: &'a [u8]) -> (&'a [[u8; BLOCK]], &'a [u8]) {
        self.length += bytes.len() as u64;
        let mut bytes = bytes;
        if self.carried > 0 {
            let (missing, after) = bytes.split_at(bytes.len().min(BLOCK - self.carried));
            self.carry_on(missing);
            bytes = after;
        }
        bytes.as_chunks()
    }

    /// Adds to the block begun and, when it is whole, takes it in.
    fn carry_on(&mut self, bytes: &[u8]) {
        let end = self.carried + bytes.len();
        self.carry[self.carried..end].copy_from_slice(bytes);
        self.carried = end % BLOCK;
        if end == BLOCK {
            self.cpu.compress([&mut self.state], [std::slice::from_ref(&self.carry)]);
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.begin(bytes);
        self.cpu.compress([&mut self.state], [blocks]);
        self.carry_on(rest);
    }

    /// Pads with a one, zeros and the length in bits.
    fn finish(mut self) -> Hash {
        let bits = self.length * 8;
        let zeros = (BLOCK + 55 - self.carried) % BLOCK;
        let mut padding = [0; BLOCK + 8];
        padding[0] = 0x80;
        padding[1 + zeros..9 + zeros].copy_from_slice(&bits.to_be_bytes());
        self.update(&padding[..9 + zeros]);
        let mut hash = Hash::default();
        for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        hash
    }
}

impl SideBySide {
    fn new(cpu: ShaInstructions, key: &[u8], prefix: &[u8]) -> Self {
        let mut block = Zeroizing::new([0; BLOCK]);
        if key.len() > BLOCK {
            let mut hash = Message::new(cpu);
            hash.update(key);
            block[..32].copy_from_slice(&*Zeroizing::new(hash.finish()));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let keyed = |pad: u8| {
            let mut message = Message::new(cpu);
            message.update(&*Zeroizing::new(block.map(|b| b ^ pad)));
            message
        };
        let mut inner = keyed(0x36);
        inner.update(prefix);
        Self { hash: Message::new(cpu), inner, outer: keyed(0x5c) }
    }

    /// The blocks of the two messages begin at different bytes: each completes its own, then they go in step.
    fn update(&mut self, bytes: &[u8]) {
        let (ours, our_rest) = self.hash.begin(bytes);
        let (theirs, their_rest) = self.inner.begin(bytes);
        let n = ours.len().min(theirs.len());
        let ((ours, our_last), (theirs, their_last)) = (ours.split_at(n), theirs.split_at(n));
        let (hash, inner) = (&mut self.hash.state, &mut self.inner.state);
        self.hash.cpu.compress([hash, inner], [ours, theirs]);
        self.hash.cpu.compress([&mut self.hash.state], [our_last]);
        self.hash.cpu.compress([&mut self.inner.state], [their_last]);
        self.hash.carry_on(our_rest);
        self.inner.carry_on(their_rest);
    }

    fn finish(self: Box<Self>) -> (Hash, Hash) {
        let Self { hash, inner, mut outer } = *self;
        outer.update(&inner.finish());
        (hash.finish(), outer.finish())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::digest::digest;

    use super::super::to_hex;
    use super::*;

    /// Both ways; on a CPU without the instructions, and where they are switched off, the same one twice.
    fn ways(key: &[u8], prefix: &[u8]) -> [TwoHashes; 2] {
        [TwoHashes::new(key, prefix), TwoHashes::portable(key, prefix)]
    }

    fn hash_and_tag(mut way: TwoHashes, pieces: &[&[u8]]) -> (String, String) {
        pieces.iter().for_each(|p| way.update(p));
        let (hash, tag) = way.finish();
        (to_hex(&hash), to_hex(&tag))
    }

    /// The examples of FIPS 180-4.
    #[test]
    fn the_hash_is_what_nist_says() {
        let million = "a".repeat(1_000_000);
        let cases = [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
                "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
            ),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ];
        for (text, expected) in cases {
            for way in ways(b"key", b"prefix") {
                assert_eq!(hash_and_tag(way, &[text.as_bytes()]).0, expected, "{} bytes", text.len());
            }
        }
    }

    /// Test cases 1 to 7 (5 gives the truncated tag); the data cut into prefix and bytes anywhere.
    #[test]
    fn the_tag_is_what_rfc_4231_says() {
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
            for cut in 0..=data.len() {
                for way in ways(key, &data[..cut]) {
                    assert!(hash_and_tag(way, &[&data[cut..]]).1.starts_with(expected), "{expected}, {cut}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_what_ring_gives(
            key in prop::collection::vec(any::<u8>(), 0..100),
            prefix in prop::collection::vec(any::<u8>(), 0..200),
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let ring_key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            let expected = (
                to_hex(digest(&SHA256, &bytes).as_ref()),
                to_hex(hmac::sign(&ring_key, &[prefix.clone(), bytes.clone()].concat()).as_ref()),
            );
            for way in ways(&key, &prefix) {
                prop_assert_eq!(&hash_and_tag(way, &pieces), &expected);
            }
        }
    }
}
