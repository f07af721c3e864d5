//! Noise that depends only on its place: seed, tensor name, row and column. Any thread can make any part of the noise at
//! any time, and a reader of the format makes the same noise.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11). It is
//! counter based, passes BigCrush, takes ten lines in any language, and its rounds run side by side in the lanes of a
//! vector. One call gives the noise of 16 weights, a byte each, so the ten rounds cost a few cycles per weight. ChaCha from
//! `rand_chacha` would cost several times as much, for a strength that rounding noise does not need.
//!
//! ```
//! use srd_rs::noise::Noise;
//!
//! let noise = Noise::new(7, "blk.0.attn_q.weight");
//! let (mut row, mut part) = ([0.0; 64], [0.0; 16]);
//! noise.fill(3, 0, &mut row);
//! noise.fill(3, 32, &mut part);
//! assert_eq!(part, row[32..48]);
//! ```

use ring::digest;

use crate::simd::{Isa, Portable, Simd, Vector, dispatch};

/// Weights that share one call of the generator.
pub const GROUP: usize = 16;
/// Calls made side by side, one in each lane.
const LANES: usize = 16;
/// Weights that [`LANES`] calls give noise for.
const DRAW: usize = GROUP * LANES;

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
    /// Makes the noise of a tensor. The key is the first 8 bytes of SHA-256(domain | seed | name), where numbers are little
    /// endian.
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

    /// Fills `out` with uniform noise in (-1/2, 1/2), the odd multiples of 1/512, for the columns from `column` on of a
    /// row. Both `column` and `out.len()` are multiples of [`GROUP`].
    pub fn fill(&self, row: u64, column: u64, out: &mut [f32]) {
        assert!(column.is_multiple_of(GROUP as u64) && out.len().is_multiple_of(GROUP), "whole groups");
        fill(Isa::detect(), self, row, column, out);
    }

    /// Returns word `index` of a stream of uniform 32-bit words. Each word takes one call of the generator.
    pub fn word(&self, index: u64) -> u32 {
        let v = Portable.x16();
        philox(v, self.key, counters(v, index, 0))[0][0][0]
    }
}

dispatch! {
    // LLVM 22 crashes where this code is inlined into that of the residual plane.
    #[inline(never)]
    fn fill(simd: S, noise: &Noise, row: u64, column: u64, out: &mut [f32]) {
        let v = simd.x16();
        let mut first = (column / GROUP as u64) as u32;
        let (whole, rest) = out.as_chunks_mut::<DRAW>();
        for out in whole {
            spread(v, philox(v, noise.key, counters(v, row, first)), out);
            first = first.wrapping_add(LANES as u32);
        }
        if !rest.is_empty() {
            let mut last = [0.0; DRAW];
            spread(v, philox(v, noise.key, counters(v, row, first)), &mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

/// Returns the counters (group, row low, row high, 0) of [`LANES`] calls, one vector per word.
#[inline(always)]
fn counters<V: Vector>(v: V, row: u64, first: u32) -> [V::U; 4] {
    let mut groups = [0; LANES];
    for (j, group) in groups.iter_mut().enumerate() {
        *group = first.wrapping_add(j as u32);
    }
    [v.load_u32(&groups), v.splat_u32(row as u32), v.splat_u32((row >> 32) as u32), v.splat_u32(0)]
}

/// Runs the ten rounds of the generator on the counters `c`.
#[inline(always)]
fn philox<V: Vector>(v: V, mut key: [u32; 2], mut c: [V::U; 4]) -> [V::U; 4] {
    let (m0, m1) = (v.splat_u32(MULTIPLIERS[0]), v.splat_u32(MULTIPLIERS[1]));
    for _ in 0..ROUNDS {
        let (low0, high0) = v.widening_mul(c[0], m0);
        let (low1, high1) = v.widening_mul(c[2], m1);
        let (k0, k1) = (v.splat_u32(key[0]), v.splat_u32(key[1]));
        c = [v.xor(v.xor(high1, c[1]), k0), low1, v.xor(v.xor(high0, c[3]), k1), low0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

/// Turns the bytes of the words, little endian, into noise: byte `x` becomes `(2 x - 255) / 512`, without a rounding.
#[inline(always)]
fn spread<V: Vector>(v: V, words: [V::U; 4], out: &mut [f32; DRAW]) {
    let mut bytes = [0; DRAW];
    let mut calls = [0u32; DRAW / 4];
    v.store_transposed_u32(words, &mut calls, GROUP / 4);
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(calls) {
        *bytes = word.to_le_bytes();
    }
    let (scale, offset) = (v.splat(1.0 / 256.0), v.splat(255.0 / 512.0));
    for (bytes, out) in bytes.as_chunks::<LANES>().0.iter().zip(out.as_chunks_mut::<LANES>().0) {
        v.store(v.sub(v.mul(v.from_i32(v.load_bytes(bytes)), scale), offset), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers() {
        // Known-answer tests of the Random123 distribution: philox4x32 10 rounds.
        let v = Portable.x16();
        let zero = philox(v, [0, 0], [v.splat_u32(0); 4]);
        assert_eq!(zero.map(|w| w[0][0]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox(v, [u32::MAX; 2], [v.splat_u32(u32::MAX); 4]);
        assert_eq!(ones.map(|w| w[1][3]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
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
    fn every_instruction_set_gives_the_same_noise() {
        let noise = Noise::new(9, "blk.1.ffn_up.weight");
        for (row, column, n) in [(0, 0, 4096), ((7 << 32) + 3, 16 * 0xffff_fffc, 256), (1, 48, 80)] {
            let mut expected = vec![0.0; n];
            fill(Isa::PORTABLE, &noise, row, column, &mut expected);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; n];
                fill(isa, &noise, row, column, &mut out);
                assert_eq!(out, expected, "{isa:?}");
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
