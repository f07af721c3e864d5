//! Noise that depends on nothing but its place: seed, tensor name, row and column. Any part of it can be
//! made at any time by any thread, and a reader of the format makes the same.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
//! 1, 2, 3", SC11): counter based, passes BigCrush, ten lines in any language, and its rounds run in
//! SIMD lanes side by side. One call gives the noise of 16 weights, a byte each, so the ten rounds cost
//! a few cycles per weight; ChaCha from `rand_chacha` would cost several times that for a strength
//! that rounding noise has no use for.

use crate::sign;

/// Weights that share one call of the generator.
pub const GROUP: usize = 16;
/// Calls made side by side: what fills the widest vectors.
const LANES: usize = 16;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
const DOMAIN: &[u8] = b"srd residual noise v1\0";

/// The noise of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    key: [u32; 2],
}

impl Noise {
    /// The key is the first 8 bytes of SHA-256(domain | seed | name), numbers little endian.
    pub fn new(seed: u64, tensor: &str) -> Self {
        let hash = sign::sha256(&[DOMAIN, &seed.to_le_bytes(), tensor.as_bytes()]);
        let word = |i: usize| u32::from_le_bytes([hash[i], hash[i + 1], hash[i + 2], hash[i + 3]]);
        Self { key: [word(0), word(4)] }
    }

    /// Uniform noise in (-1/2, 1/2) for the columns `column ..` of a row: the odd multiples of 1/512.
    /// `column` and `out.len()` are multiples of [`GROUP`].
    #[inline(always)]
    pub fn fill(&self, row: u64, column: u64, out: &mut [f32]) {
        debug_assert!(column.is_multiple_of(GROUP as u64) && out.len().is_multiple_of(GROUP));
        for (i, out) in out.chunks_mut(GROUP * LANES).enumerate() {
            let first = (column / GROUP as u64) as u32 + (i * LANES) as u32;
            let words = self.groups(row, first);
            for (j, out) in out.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                for k in 0..GROUP {
                    let byte = (words[k / 4][j] >> (8 * (k % 4))) & 0xff;
                    out[k] = (byte as i32 * 2 - 255) as f32 * (1.0 / 512.0);
                }
            }
        }
    }

    /// The `index`-th of a stream of uniform 32-bit words, one call of the generator each.
    pub fn word(&self, index: u64) -> u32 {
        self.groups(index, 0)[0][0]
    }

    /// [`LANES`] calls with the counters (group, row low, row high, 0); word-wise.
    #[inline(always)]
    fn groups(&self, row: u64, first: u32) -> [[u32; LANES]; 4] {
        let mut c = [[0u32; LANES]; 4];
        for (j, c0) in c[0].iter_mut().enumerate() {
            *c0 = first.wrapping_add(j as u32);
        }
        c[1] = [row as u32; LANES];
        c[2] = [(row >> 32) as u32; LANES];
        let mut key = self.key;
        for _ in 0..ROUNDS {
            c = round(&c, key);
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        c
    }
}

#[inline(always)]
fn round(c: &[[u32; LANES]; 4], key: [u32; 2]) -> [[u32; LANES]; 4] {
    let mut out = [[0; LANES]; 4];
    for j in 0..LANES {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0][j]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2][j]);
        out[0][j] = (p1 >> 32) as u32 ^ c[1][j] ^ key[0];
        out[1][j] = p1 as u32;
        out[2][j] = (p0 >> 32) as u32 ^ c[3][j] ^ key[1];
        out[3][j] = p0 as u32;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers() {
        // Known-answer tests of the Random123 distribution: philox4x32 10 rounds.
        let zero = Noise { key: [0, 0] }.groups(0, 0);
        assert_eq!(zero.map(|w| w[0]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let mut c = [[u32::MAX; LANES]; 4];
        let mut key = [u32::MAX; 2];
        for _ in 0..ROUNDS {
            c = round(&c, key);
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        assert_eq!(c.map(|w| w[3]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn any_piece_of_a_row_equals_that_piece_of_the_whole() {
        let noise = Noise::new(7, "blk.0.attn_q.weight");
        let mut whole = vec![0.0; 1024];
        noise.fill(1 << 33, 0, &mut whole);
        for (from, to) in [(0, 16), (32, 1024), (256, 544), (1008, 1024)] {
            let mut piece = vec![0.0; to - from];
            noise.fill(1 << 33, from as u64, &mut piece);
            assert_eq!(piece, whole[from..to]);
        }
    }

    #[test]
    fn seed_name_and_row_matter_and_the_noise_is_uniform() {
        let draw = |seed, name: &str, row| {
            let mut out = vec![0.0; 1 << 16];
            Noise::new(seed, name).fill(row, 0, &mut out);
            out
        };
        let one = draw(0, "a", 0);
        for other in [draw(1, "a", 0), draw(0, "b", 0), draw(0, "a", 1), draw(0, "a", 1 << 32)] {
            let n = one.len() as f64;
            let dot: f64 = one.iter().zip(&other).map(|(a, b)| f64::from(a * b)).sum();
            assert!((dot / n).abs() < 5.0 / 12.0 / n.sqrt(), "noise is correlated");
        }
        let (mean, square) =
            one.iter().fold((0.0, 0.0), |(m, s), &u| (m + f64::from(u), s + f64::from(u * u)));
        let n = one.len() as f64;
        assert!((mean / n).abs() < 0.006 && (square / n - 1.0 / 12.0).abs() < 0.002);
        assert!(one.iter().all(|u| u.abs() < 0.5));
    }
}
