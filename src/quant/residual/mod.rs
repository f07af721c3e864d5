//! The residual plane: what the base lost, `r = w - v`, at 2 to 4 bits a weight with subtractive dither.
//!
//! A sub-block is 32 weights of a row: a scale byte `s`, then 32 codes of `b` bits, packed from the low
//! bits of each byte up. With `t` the step of the base under these weights ([`steps`]) and `u` the noise
//! of each weight ([`Noise`]):
//!
//! - `D = t * s / 2^(5+b)`, so that the codes reach about 3 base steps at most;
//! - `code = round(r/D + u + (2^b-1)/2)`, clipped to `0 ..= 2^b - 1`: levels half a step off zero, so that
//!   an even number of them is symmetric;
//! - reconstruction `r' = (code - (2^b-1)/2 - u) * D`.
//!
//! Subtractive dither: where nothing is clipped, `r' - r` is uniform in half a step either way and
//! independent of `r` (Schuchman's condition holds for uniform `u`). `s` follows from the root mean square and the
//! largest magnitude of the sub-block's residuals, clipping some of the tail ([`Bits::reach`]).

use std::marker::PhantomData;

use crate::dtype::{GgmlType, QK_K};
use crate::noise::Noise;
use crate::quant::simd_basic::{self, Kernel};
use crate::quant::{f16, q4_k, q5_k, search};
use crate::simd_level::Level;
use lanes::Lanes;

#[cfg(target_arch = "x86_64")]
mod avx2;
mod lanes;

/// Weights of a sub-block.
pub const SUB: usize = 32;

/// Bits of a residual code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bits {
    Two,
    Three,
    Four,
}

impl Bits {
    pub fn new(bits: u64) -> Option<Self> {
        match bits {
            2 => Some(Self::Two),
            3 => Some(Self::Three),
            4 => Some(Self::Four),
            _ => None,
        }
    }

    pub fn get(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// Bytes of a sub-block.
    pub fn sub_bytes(self) -> usize {
        1 + SUB / 8 * self.get()
    }

    /// Bytes of the plane of `n` weights, whole sub-blocks; `None` if they are not, or on overflow.
    pub fn plane_bytes(self, n: u64) -> Option<u64> {
        n.is_multiple_of(SUB as u64).then(|| (n / SUB as u64).checked_mul(self.sub_bytes() as u64)).flatten()
    }

    /// Number of codes.
    fn levels(self) -> f32 {
        (1u32 << self.get()) as f32
    }

    /// How far the outermost codes reach: `.0` root mean squares of the residuals and `.1` of their largest magnitude.
    /// Fitted to residuals of the plain search (flat) and of feedback (bell-shaped): docs/decisions/0006-residual-scale.md.
    fn reach(self) -> (f32, f32) {
        match self {
            Self::Two => (0.8, 0.3),
            Self::Three => (0.5, 0.6),
            Self::Four => (0.0, 0.95),
        }
    }

    /// `D = t * s * unit`.
    fn unit(self) -> f32 {
        1.0 / (32.0 * self.levels())
    }
}

/// Whether tensors of this base type carry a residual: those with fewer bits than Q6_K.
pub fn wanted(ty: GgmlType) -> bool {
    matches!(
        ty,
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K
    )
}

/// The base's step under each sub-block, from its blocks; never negative.
///
/// Q4_K and Q5_K: `d * scale` of the sub-block; where that is 0, `|d|`; where that is 0 too, `|dmin|`.
/// Q4_0, Q4_1, Q5_0, Q5_1: `|d|`. A step of 0 leaves the residual 0.
///
/// # Panics
/// If [`wanted`] is false for the type or `blocks` are no whole blocks for `out`.
pub fn steps(ty: GgmlType, blocks: &[u8], out: &mut [f32]) {
    assert_eq!(blocks.len() / ty.block_bytes() * (ty.block_len() / SUB), out.len(), "a step per sub-block");
    match ty {
        GgmlType::Q4_K => k_steps(blocks.as_chunks::<{ q4_k::BYTES }>().0, out),
        GgmlType::Q5_K => k_steps(blocks.as_chunks::<{ q5_k::BYTES }>().0, out),
        _ if wanted(ty) => {
            for (block, t) in blocks.chunks_exact(ty.block_bytes()).zip(out) {
                *t = half_at(block, 0).abs();
            }
        }
        _ => panic!("{} carries no residual", ty.name()),
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::decode(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Both K-quants begin with `d`, `dmin` and the packed scales.
fn k_steps<const BYTES: usize>(blocks: &[[u8; BYTES]], out: &mut [f32]) {
    const SUBS: usize = QK_K / SUB;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<SUBS>().0) {
        let (d, dmin) = (half_at(block, 0).abs(), half_at(block, 2).abs());
        let (scales, _) = search::unpack_scales(block[4..16].try_into().expect("12 bytes"));
        for (t, scale) in out.iter_mut().zip(scales) {
            let step = d * f32::from(scale);
            *t = [step, d, dmin].into_iter().find(|&t| t > 0.0).unwrap_or(0.0);
        }
    }
}

/// A run of weights of one tensor, whole sub-blocks, within which rows end where they end.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub noise: &'a Noise,
    pub bits: Bits,
    /// Flat index of the first weight, and weights in a row: both multiples of 32.
    pub start: u64,
    pub row: u64,
    /// Of the base, one per sub-block.
    pub steps: &'a [f32],
}

/// Weights whose noise is made at a time.
const PIECE: usize = 16 * SUB;

impl Run<'_> {
    /// Fills `noise` for the weights from `at` of `n`, up to the end of their row or of the buffer, and
    /// returns for how many.
    #[inline(always)]
    fn piece(&self, at: usize, n: usize, noise: &mut [f32; PIECE]) -> usize {
        let (row, column) = ((self.start + at as u64) / self.row, (self.start + at as u64) % self.row);
        let len = (self.row - column).min((n - at) as u64).min(PIECE as u64) as usize;
        self.noise.fill(row, column, &mut noise[..len]);
        len
    }
}

/// Encodes the residuals `r` of a run into `out`.
pub fn encode(run: Run, r: &[f32], out: &mut [u8]) {
    encode_at(crate::simd_level::level(), run, r, out);
}

/// As [`encode`], at a level of SIMD: all give the same bytes.
pub fn encode_at(level: Level, run: Run, r: &[f32], out: &mut [u8]) {
    assert_eq!(Some(out.len() as u64), run.bits.plane_bytes(r.len() as u64), "whole sub-blocks");
    #[cfg(target_arch = "x86_64")]
    if level.min(simd_basic::supported()) >= Level::Avx2 {
        let lanes = PhantomData::<avx2::Eight>;
        return simd_basic::run(level, Encode { run, r, out, lanes });
    }
    simd_basic::run(level, Encode { run, r, out, lanes: PhantomData::<[f32; 8]> });
}

/// Reconstructs the residuals of a run.
pub fn decode(run: Run, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(Some(bytes.len() as u64), run.bits.plane_bytes(out.len() as u64), "whole sub-blocks");
    simd_basic::run(crate::simd_level::level(), Decode { run, bytes, out });
}

struct Encode<'a, V> {
    run: Run<'a>,
    r: &'a [f32],
    out: &'a mut [u8],
    lanes: PhantomData<V>,
}

// Plain loops, no closures: a closure is compiled for the base CPU unless it happens to be inlined.
impl<V: Lanes> Kernel for Encode<'_, V> {
    #[inline(always)]
    fn run(self) {
        let (bits, bytes, n) = (self.run.bits, self.run.bits.sub_bytes(), self.r.len());
        let r = self.r.as_chunks::<SUB>().0;
        let mut noise = [0.0; PIECE];
        let mut at = 0;
        while at < n {
            let len = self.run.piece(at, n, &mut noise);
            let first = at / SUB;
            for (i, u) in noise[..len].as_chunks::<SUB>().0.iter().enumerate() {
                let block = first + i;
                let (scale, codes) = encoded::<V>(bits, &r[block], u, self.run.steps[block]);
                let out = &mut self.out[block * bytes..(block + 1) * bytes];
                out[0] = scale;
                match bits {
                    Bits::Two => pack::<2>(&codes, &mut out[1..]),
                    Bits::Three => pack::<3>(&codes, &mut out[1..]),
                    Bits::Four => pack::<4>(&codes, &mut out[1..]),
                }
            }
            at += len;
        }
    }
}

/// Scale and codes. Without a step, or without a residual, code 0 and scale 0.
#[inline(always)]
fn encoded<V: Lanes>(bits: Bits, r: &[f32; SUB], u: &[f32; SUB], step: f32) -> (u8, [u8; SUB]) {
    let unit = step * bits.unit();
    let top = bits.levels() - 1.0;
    let sub = Sub::<V>::load(r, u, top);
    let (of_rms, of_largest) = bits.reach();
    let rms = (sub.squares() * (1.0 / SUB as f32)).sqrt();
    let reach = (rms * of_rms + sub.largest() * of_largest) / (top * 0.5 * unit);
    // 0/0 is NaN.
    if reach.is_nan() || reach == 0.0 || unit < f32::MIN_POSITIVE {
        return (0, [0; SUB]);
    }
    // Rounded up; 254 and a bit is the last that fits.
    let scale = search::least(reach, 254.0).floor() + 1.0;
    (scale as u8, V::bytes(sub.codes(1.0 / (unit * scale))))
}

/// 2^23: adding it to a number from 0 to 2^22 and taking it off again rounds that to the nearest integer, ties
/// to even.
const ROUND: f32 = 8_388_608.0;

/// A sub-block in registers.
struct Sub<V> {
    r: [V; SUB / 8],
    /// Noise and centre of the codes.
    u: [V; SUB / 8],
    top: V,
}

impl<V: Lanes> Sub<V> {
    #[inline(always)]
    fn load(r: &[f32; SUB], u: &[f32; SUB], top: f32) -> Self {
        let (r, u, centre) = (r.as_chunks::<8>().0, u.as_chunks::<8>().0, V::splat(top * 0.5));
        Self {
            r: [V::load(&r[0]), V::load(&r[1]), V::load(&r[2]), V::load(&r[3])],
            u: [
                V::load(&u[0]).add(centre),
                V::load(&u[1]).add(centre),
                V::load(&u[2]).add(centre),
                V::load(&u[3]).add(centre),
            ],
            top: V::splat(top),
        }
    }

    /// Largest magnitude of the residuals.
    #[inline(always)]
    fn largest(&self) -> f32 {
        let [a, b, c, d] = self.r;
        let zero = V::splat(0.0);
        let (a, b) = (a.max(zero.sub(a)), b.max(zero.sub(b)));
        let (c, d) = (c.max(zero.sub(c)), d.max(zero.sub(d)));
        a.max(b).max(c.max(d)).largest()
    }

    /// Sum of the squares of the residuals.
    #[inline(always)]
    fn squares(&self) -> f32 {
        let [a, b, c, d] = self.r;
        a.mul(a).add(b.mul(b)).add(c.mul(c).add(d.mul(d))).sum()
    }

    /// Codes of the register `i` for a step of 1 / `inverse`.
    #[inline(always)]
    fn code(&self, i: usize, inverse: V) -> V {
        let (zero, round) = (V::splat(0.0), V::splat(ROUND));
        let x = self.r[i].mul(inverse).add(self.u[i]);
        x.max(zero).min(self.top).add(round).sub(round)
    }

    #[inline(always)]
    fn codes(&self, inverse: f32) -> [V; SUB / 8] {
        let inverse = V::splat(inverse);
        [self.code(0, inverse), self.code(1, inverse), self.code(2, inverse), self.code(3, inverse)]
    }
}

/// Eight codes fill `B` bytes whatever `B` is: neighbours are joined, then pairs, then fours.
#[inline(always)]
fn pack<const B: usize>(codes: &[u8; SUB], out: &mut [u8]) {
    for (eight, out) in codes.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<B>().0) {
        let mut word = u64::from_le_bytes(*eight);
        word = (word | word >> (8 - B)) & 0x00ff_00ff_00ff_00ff;
        word = (word | word >> (16 - 2 * B)) & 0x0000_ffff_0000_ffff;
        word |= word >> (32 - 4 * B);
        out.copy_from_slice(&word.to_le_bytes()[..B]);
    }
}

/// The eight codes of `B` bytes.
#[inline(always)]
fn unpack<const B: usize>(packed: &[u8; B]) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..B].copy_from_slice(packed);
    let code = (1u64 << B) - 1;
    let mut word = u64::from_le_bytes(bytes);
    word = (word | word << (32 - 4 * B)) & (((1 << (4 * B)) - 1) * 0x0000_0001_0000_0001);
    word = (word | word << (16 - 2 * B)) & (((1 << (2 * B)) - 1) * 0x0001_0001_0001_0001);
    word = (word | word << (8 - B)) & (code * 0x0101_0101_0101_0101);
    word.to_le_bytes()
}

struct Decode<'a> {
    run: Run<'a>,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    #[inline(always)]
    fn run(self) {
        match self.run.bits {
            Bits::Two => self.unpack::<2>(),
            Bits::Three => self.unpack::<3>(),
            Bits::Four => self.unpack::<4>(),
        }
    }
}

impl Decode<'_> {
    #[inline(always)]
    fn unpack<const B: usize>(self) {
        let (bits, bytes, n) = (self.run.bits, self.run.bits.sub_bytes(), self.out.len());
        let centre = (bits.levels() - 1.0) * 0.5;
        let out = self.out.as_chunks_mut::<SUB>().0;
        let mut noise = [0.0; PIECE];
        let mut at = 0;
        while at < n {
            let len = self.run.piece(at, n, &mut noise);
            let first = at / SUB;
            for (i, u) in noise[..len].as_chunks::<SUB>().0.iter().enumerate() {
                let block = first + i;
                let packed = &self.bytes[block * bytes..(block + 1) * bytes];
                let d = self.run.steps[block] * bits.unit() * f32::from(packed[0]);
                let out = &mut out[block];
                for (k, packed) in packed[1..].as_chunks::<B>().0.iter().enumerate() {
                    let codes = unpack(packed);
                    for j in 0..8 {
                        out[k * 8 + j] = (f32::from(codes[j]) - centre - u[k * 8 + j]) * d;
                    }
                }
            }
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quant;

    /// Bell-shaped weights from the noise itself (the sum of eight uniforms), sigma 0.02.
    fn weights(n: usize) -> Vec<f32> {
        let mut sum = vec![0.0; n];
        let mut draw = vec![0.0; n];
        for seed in 0..8 {
            Noise::new(seed, "weights").fill(0, 0, &mut draw);
            sum.iter_mut().zip(&draw).for_each(|(s, u)| *s += u * 0.02 / (8.0f32 / 12.0).sqrt());
        }
        sum
    }

    struct Coded {
        /// `r` and its reconstruction.
        r: Vec<f32>,
        back: Vec<f32>,
    }

    fn base(ty: GgmlType, w: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let mut blocks = vec![0; ty.row_bytes(w.len() as u64).unwrap() as usize];
        quant::quantize(ty, w, w.len(), None, &mut blocks);
        let mut v = vec![0.0; w.len()];
        quant::dequantize(ty, &blocks, &mut v);
        (blocks, v)
    }

    fn coded(ty: GgmlType, bits: Bits, w: &[f32]) -> Coded {
        let (blocks, v) = base(ty, w);
        let r: Vec<f32> = w.iter().zip(&v).map(|(w, v)| w - v).collect();
        let mut t = vec![0.0; w.len() / SUB];
        steps(ty, &blocks, &mut t);
        let noise = Noise::new(1, "t");
        let run = Run { noise: &noise, bits, start: 0, row: 1024, steps: &t };
        let mut plane = vec![0; bits.plane_bytes(w.len() as u64).unwrap() as usize];
        encode(run, &r, &mut plane);
        let mut back = vec![f32::NAN; w.len()];
        decode(run, &plane, &mut back);
        Coded { r, back }
    }

    fn power(x: impl Iterator<Item = f32>) -> f64 {
        x.map(|x| f64::from(x * x)).sum()
    }

    /// Squared error of base plus residual over that of the base alone.
    fn remaining(c: &Coded) -> f64 {
        power(c.r.iter().zip(&c.back).map(|(r, b)| r - b)) / power(c.r.iter().copied())
    }

    #[test]
    fn the_scales_leave_little() {
        let w = weights(1 << 18);
        for (bits, most) in [(Bits::Two, 0.10), (Bits::Three, 0.022), (Bits::Four, 0.0055)] {
            let part = remaining(&coded(GgmlType::Q4_K, bits, &w));
            println!("{bits:?}: {part:.5}");
            assert!(part < most, "{bits:?}: {part}");
        }
    }

    #[test]
    fn base_and_residual_beat_the_wider_types_of_the_recipes() {
        let w = weights(1 << 18);
        let error = |ty| {
            let (_, v) = base(ty, &w);
            power(w.iter().zip(&v).map(|(w, v)| w - v))
        };
        let left = |bits| {
            let c = coded(GgmlType::Q4_K, bits, &w);
            power(c.r.iter().zip(&c.back).map(|(r, b)| r - b))
        };
        println!(
            "Q5_K {} Q6_K {} 2 bits {} 3 bits {}",
            error(GgmlType::Q5_K),
            error(GgmlType::Q6_K),
            left(Bits::Two),
            left(Bits::Three)
        );
        assert!(left(Bits::Two) < error(GgmlType::Q5_K));
        assert!(left(Bits::Three) < error(GgmlType::Q6_K));
    }

    #[test]
    fn the_error_is_white_and_independent_of_the_weights() {
        let c = coded(GgmlType::Q4_K, Bits::Three, &weights(1 << 18));
        let e: Vec<f32> = c.r.iter().zip(&c.back).map(|(r, b)| b - r).collect();
        let correlation = |a: &[f32], b: &[f32]| {
            let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum();
            dot / (power(a.iter().copied()) * power(b.iter().copied())).sqrt()
        };
        assert!(correlation(&e[1..], &e[..e.len() - 1]).abs() < 0.01);
        // Clipping takes a little of the largest residuals, as far as that lessens the squared error: the
        // only dependence there is.
        let clipped = correlation(&e, &c.r);
        assert!((-0.2..0.01).contains(&clipped), "{clipped}");
    }

    /// How fast, on this machine: `cargo test --release -- --ignored speed --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn speed() {
        let (r, t) = (weights(1 << 15), vec![0.01; 1 << 10]);
        let noise = Noise::new(1, "t");
        for level in crate::simd_level::available() {
            let run = Run { noise: &noise, bits: Bits::Two, start: 0, row: 1 << 15, steps: &t };
            let mut plane = vec![0; 9 << 10];
            // The best of many: other processes run, too.
            let seconds = (0..300)
                .map(|_| {
                    let start = std::time::Instant::now();
                    encode_at(level, run, &r, &mut plane);
                    start.elapsed().as_secs_f64()
                })
                .fold(f64::INFINITY, f64::min);
            println!("{}: {:.3} ns per weight", level.name(), seconds * 1e9 / r.len() as f64);
        }
    }

    #[test]
    fn blocks_of_zeros_and_of_one_value_stay_finite() {
        for ty in
            [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q4_K, GgmlType::Q5_K]
        {
            for value in [0.0, 1e-30, 0.37, -3.0] {
                let c = coded(ty, Bits::Two, &[value; 1024]);
                assert!(c.back.iter().all(|b| b.is_finite() && b.abs() <= 4.0 * c.r[0].abs() + 1e-3));
            }
        }
    }

    proptest! {
        /// Rows cut into pieces give the bytes of the whole, at every level of SIMD.
        #[test]
        fn pieces_and_levels_agree(cut in 1u64..31, bits in 2u64..5) {
            let (bits, w) = (Bits::new(bits).unwrap(), weights(1024));
            let noise = Noise::new(3, "x");
            let t = vec![0.004; 32];
            let run = Run { noise: &noise, bits, start: 0, row: 512, steps: &t };
            let mut whole = vec![0; bits.plane_bytes(1024).unwrap() as usize];
            encode_at(Level::Scalar, run, &w, &mut whole);
            for level in crate::simd_level::available() {
                let mut parts = vec![0; whole.len()];
                let (a, b) = (cut as usize * SUB, cut as usize * bits.sub_bytes());
                encode_at(level, run, &w[..a], &mut parts[..b]);
                let rest = Run { start: cut * 32, steps: &t[cut as usize..], ..run };
                encode_at(level, rest, &w[a..], &mut parts[b..]);
                prop_assert_eq!(&parts, &whole);
            }
        }
    }
}
