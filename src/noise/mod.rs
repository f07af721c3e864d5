//! Noise that depends on nothing but its place: seed, tensor name, row and column. Any part of it can be
//! made at any time by any thread, and a reader of the format makes the same.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
//! 1, 2, 3", SC11): counter based, passes BigCrush, ten lines in any language, and its rounds run in
//! SIMD lanes side by side. One call gives the noise of 16 weights, a byte each, so the ten rounds cost
//! a few cycles per weight; ChaCha from `rand_chacha` would cost several times that for a strength
//! that rounding noise has no use for.

use ring::digest;

#[cfg(target_arch = "x86_64")]
use crate::quant::simd_basic::supported;
use crate::simd_level::{Level, level};
#[cfg(target_arch = "x86_64")]
mod philox;

/// Weights that share one call of the generator.
pub const GROUP: usize = 16;
/// Calls made side by side: enough vectors to work on one while another waits for its product.
pub(crate) const LANES: usize = 8;
/// Weights that they give noise for.
pub(crate) const DRAW: usize = GROUP * LANES;

pub(crate) const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
pub(crate) const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
pub(crate) const ROUNDS: usize = 10;
const DOMAIN: &[u8] = b"srd residual noise v1\0";

/// The noise of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    key: [u32; 2],
}

impl Noise {
    /// The key is the first 8 bytes of SHA-256(domain | seed | name), numbers little endian.
    pub fn new(seed: u64, tensor: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(DOMAIN);
        context.update(&seed.to_le_bytes());
        context.update(tensor.as_bytes());
        let hash = context.finish();
        let hash = hash.as_ref();
        let word = |i: usize| u32::from_le_bytes([hash[i], hash[i + 1], hash[i + 2], hash[i + 3]]);
        Self { key: [word(0), word(4)] }
    }

    /// Uniform noise in (-1/2, 1/2) for the columns `column ..` of a row: the odd multiples of 1/512.
    /// `column` and `out.len()` are multiples of [`GROUP`].
    pub fn fill(&self, row: u64, column: u64, out: &mut [f32]) {
        self.fill_at(level(), row, column, out);
    }

    /// As [`Noise::fill`], at a level of SIMD: all give the same bits.
    pub fn fill_at(&self, level: Level, row: u64, column: u64, out: &mut [f32]) {
        assert!(column.is_multiple_of(GROUP as u64) && out.len().is_multiple_of(GROUP), "whole groups");
        let mut first = (column / GROUP as u64) as u32;
        let (whole, rest) = out.as_chunks_mut::<DRAW>();
        for out in whole {
            self.draw(level, row, first, out);
            first = first.wrapping_add(LANES as u32);
        }
        if !rest.is_empty() {
            let mut last = [0.0; DRAW];
            self.draw(level, row, first, &mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    fn draw(&self, level: Level, row: u64, first: u32, out: &mut [f32; DRAW]) {
        #[cfg(target_arch = "x86_64")]
        if level.min(supported()) >= Level::Avx2 {
            // SAFETY: `supported` found AVX2 on this CPU.
            return unsafe { philox::draw(self.key, row, first, out) };
        }
        let _ = level;
        spread(&self.groups(row, first), out);
    }

    /// The `index`-th of a stream of uniform 32-bit words, one call of the generator each.
    pub fn word(&self, index: u64) -> u32 {
        self.groups(index, 0)[0][0] as u32
    }

    /// [`LANES`] calls with the counters (group, row low, row high, 0); word-wise, each word in the low
    /// half of its 64 bits, what lies above is left over from the products.
    #[inline(always)]
    fn groups(&self, row: u64, first: u32) -> [[u64; LANES]; 4] {
        let mut c = [[0; LANES]; 4];
        for (j, c0) in c[0].iter_mut().enumerate() {
            *c0 = u64::from(first.wrapping_add(j as u32));
        }
        c[1] = [row & LOW; LANES];
        c[2] = [row >> 32; LANES];
        rounds(c, self.key)
    }
}

const LOW: u64 = 0xffff_ffff;

/// Numbers of 32 bits kept in 64, so that a product needs no rearranging: where there are vectors, two
/// multiplications and six simple operations make a round of a register full of calls.
#[inline(always)]
fn rounds(mut c: [[u64; LANES]; 4], mut key: [u32; 2]) -> [[u64; LANES]; 4] {
    for _ in 0..ROUNDS {
        let (k0, k1) = (u64::from(key[0]), u64::from(key[1]));
        #[expect(clippy::needless_range_loop, reason = "the lanes of four words, side by side")]
        for j in 0..LANES {
            let p0 = (c[0][j] & LOW) * u64::from(MULTIPLIERS[0]);
            let p1 = (c[2][j] & LOW) * u64::from(MULTIPLIERS[1]);
            c[0][j] = (p1 >> 32) ^ c[1][j] ^ k0;
            c[1][j] = p1;
            c[2][j] = (p0 >> 32) ^ c[3][j] ^ k1;
            c[3][j] = p0;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

/// The bytes of the words, little endian, as noise: byte `x` is `(2 x - 255) / 512`.
#[inline(always)]
fn spread(words: &[[u64; LANES]; 4], out: &mut [f32; DRAW]) {
    let mut bytes = [0; DRAW];
    for (j, group) in bytes.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let halves = group.as_chunks_mut::<8>().0;
        halves[0] = (words[0][j] & LOW | words[1][j] << 32).to_le_bytes();
        halves[1] = (words[2][j] & LOW | words[3][j] << 32).to_le_bytes();
    }
    for i in 0..DRAW {
        out[i] = (i32::from(bytes[i]) * 2 - 255) as f32 * (1.0 / 512.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers() {
        // Known-answer tests of the Random123 distribution: philox4x32 10 rounds.
        let zero = Noise { key: [0, 0] }.groups(0, 0);
        assert_eq!(zero.map(|w| w[0] as u32), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = rounds([[LOW; LANES]; 4], [u32::MAX; 2]);
        assert_eq!(ones.map(|w| w[3] as u32), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
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
    fn every_level_gives_the_same_noise() {
        let noise = Noise::new(9, "blk.1.ffn_up.weight");
        for (row, column, n) in [(0, 0, 4096), ((7 << 32) + 3, 16 * 0xffff_fffc, 256), (1, 48, 80)] {
            let mut expected = vec![0.0; n];
            noise.fill_at(Level::Scalar, row, column, &mut expected);
            for level in crate::simd_level::available() {
                let mut out = vec![f32::NAN; n];
                noise.fill_at(level, row, column, &mut out);
                assert_eq!(out, expected, "{level:?}");
            }
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
