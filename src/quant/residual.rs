//! The residual plane: the residuals `r = w - v` of a quantized tensor, at 2 to 4 bits per weight with subtractive dither.
//! `w` is a weight, `v` is what the base (the quantized tensor) decodes to.
//!
//! A sub-block holds 32 weights of a row: a scale byte `s`, then 32 codes of `b` bits, packed from the low bits of each
//! byte up. `t` is the step of the base under these weights ([`steps`]), `u` is the noise of each weight ([`Noise`]):
//!
//! - `D = t * s / 2^(5+b)`, so that the outermost codes stand for at most about 3 steps of the base;
//! - `code = round(r/D + u + (2^b-1)/2)`, clipped to `0 ..= 2^b - 1`. The levels lie half a step off zero, so that an even
//!   number of levels is symmetric;
//! - the reconstruction is `r' = (code - (2^b-1)/2 - u) * D`.
//!
//! The dither is subtractive: where no code is clipped, `r' - r` is uniform in half a step either way and independent of
//! `r` (Schuchman's condition holds for uniform `u`). `s` follows from the root mean square and the largest magnitude of
//! the residuals of the sub-block, and clips some of the tail ([`Bits::clipping`]).
//!
//! ```
//! use srd_rs::noise::Noise;
//! use srd_rs::quant::residual::{Bits, Run, decode, encode};
//!
//! let noise = Noise::new(7, "blk.0.attn_q.weight");
//! let run = Run { noise: &noise, bits: Bits::Four, start: 0, row: 32, steps: &[0.1] };
//! let residuals: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) * 0.003).collect();
//! let (mut plane, mut back) = ([0; 17], [0.0; 32]);
//! encode(run, &residuals, &mut plane);
//! decode(run, &plane, &mut back);
//! assert!(residuals.iter().zip(back).all(|(r, b)| (r - b).abs() < 0.004));
//! ```

use crate::dtype::GgmlType;
use crate::noise::Noise;
use crate::quant::format::{Encoding, RUN};
use crate::quant::{self, with_encoding};
use crate::simd::{Isa, Vector, dispatch};

/// The number of weights in a sub-block.
pub const SUB: usize = RUN;

/// The width of a residual code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bits {
    /// Two bits.
    Two,
    /// Three bits.
    Three,
    /// Four bits.
    Four,
}

impl Bits {
    /// Returns the width of 2, 3 or 4 bits, `None` for another number.
    pub fn new(bits: u64) -> Option<Self> {
        match bits {
            2 => Some(Self::Two),
            3 => Some(Self::Three),
            4 => Some(Self::Four),
            _ => None,
        }
    }

    /// Returns the number of bits.
    pub fn get(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// Returns the number of bytes of a sub-block.
    pub fn sub_bytes(self) -> usize {
        1 + SUB / 8 * self.get()
    }

    /// Returns the number of bytes of the plane of `n` weights. `None` if these are not whole sub-blocks, or on overflow.
    pub fn plane_bytes(self, n: u64) -> Option<u64> {
        n.is_multiple_of(SUB as u64).then(|| (n / SUB as u64).checked_mul(self.sub_bytes() as u64)).flatten()
    }

    /// Returns the number of codes.
    fn levels(self) -> f32 {
        (1u32 << self.get()) as f32
    }

    /// Returns the coefficients of the largest residual that is not clipped: `.0` times the root mean square plus `.1` times
    /// the largest magnitude. They are fitted to residuals of the plain search (flat) and of feedback (bell-shaped), see
    /// docs/decisions/0006-residual-scale.md.
    fn clipping(self) -> (f32, f32) {
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

/// Returns whether tensors of this base type carry a residual: types of blocks with fewer bits than Q6_K do.
pub fn wanted(ty: GgmlType) -> bool {
    quant::can_quantize(ty)
        && ty.bpw() < GgmlType::Q6_K.bpw()
        && with_encoding!(ty, F => <F as Encoding>::HAS_STEPS)
}

/// Writes the step of the base under each sub-block, from the blocks of the base; see [`Encoding::steps`]. A step is never
/// negative, and a step of 0 leaves the residual 0.
///
/// # Panics
/// If [`wanted`] is false for the type, or if `blocks` are not the whole blocks of `out`.
pub fn steps(ty: GgmlType, blocks: &[u8], out: &mut [f32]) {
    assert!(wanted(ty), "{} carries no residual", ty.name());
    assert_eq!(blocks.len() / ty.block_bytes() * (ty.block_len() / SUB), out.len(), "a step per sub-block");
    with_encoding!(ty, F => steps_of::<F>(Isa::detect(), blocks, out));
}

dispatch! {
    fn steps_of<F: Encoding>(_simd: S, blocks: &[u8], out: &mut [f32]) {
        F::steps(blocks, out);
    }
}

/// A run of weights of one tensor: whole sub-blocks, which may span several rows.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The dither.
    pub noise: &'a Noise,
    /// Bits of a residual.
    pub bits: Bits,
    /// Flat index of the first weight, a multiple of 32.
    pub start: u64,
    /// Number of weights in a row, a multiple of 32.
    pub row: u64,
    /// Step of each sub-block of the base.
    pub steps: &'a [f32],
}

/// The number of weights whose noise is made at a time.
const PIECE: usize = 16 * SUB;

impl Run<'_> {
    /// Fills `noise` for the weights from number `at` of `n` on, up to the end of their row or of the buffer. Returns the
    /// number of weights.
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
    encode_at(Isa::detect(), run, r, out);
}

/// Does the same as [`encode`] with a given instruction set. All give the same bytes.
pub fn encode_at(isa: Isa, run: Run, r: &[f32], out: &mut [u8]) {
    assert_eq!(Some(out.len() as u64), run.bits.plane_bytes(r.len() as u64), "whole sub-blocks");
    encode_run(isa, run, r, out);
}

/// Reconstructs the residuals of a run.
pub fn decode(run: Run, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(Some(bytes.len() as u64), run.bits.plane_bytes(out.len() as u64), "whole sub-blocks");
    decode_run(Isa::detect(), run, bytes, out);
}

dispatch! {
    fn encode_run(simd: S, run: Run<'_>, r: &[f32], out: &mut [u8]) {
        let (v, bits, bytes, n) = (simd.x8(), run.bits, run.bits.sub_bytes(), r.len());
        let r = r.as_chunks::<SUB>().0;
        let mut noise = [0.0; PIECE];
        let mut at = 0;
        while at < n {
            let len = run.piece(at, n, &mut noise);
            let first = at / SUB;
            for (i, u) in noise[..len].as_chunks::<SUB>().0.iter().enumerate() {
                let block = first + i;
                let (scale, codes) = encoded(v, bits, &r[block], u, run.steps[block]);
                let out = &mut out[block * bytes..(block + 1) * bytes];
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

    fn decode_run(simd: S, run: Run<'_>, bytes: &[u8], out: &mut [f32]) {
        match run.bits {
            Bits::Two => unpack_run::<_, 2>(simd.x16(), run, bytes, out),
            Bits::Three => unpack_run::<_, 3>(simd.x16(), run, bytes, out),
            Bits::Four => unpack_run::<_, 4>(simd.x16(), run, bytes, out),
        }
    }
}

/// Returns the scale and the codes of a sub-block. Without a step, or without a residual, both are 0.
#[inline(always)]
fn encoded<V: Vector>(v: V, bits: Bits, r: &[f32; SUB], u: &[f32; SUB], step: f32) -> (u8, [u8; SUB]) {
    let unit = step * bits.unit();
    let top = bits.levels() - 1.0;
    let r = [v.load(r), v.load(&r[8..]), v.load(&r[16..]), v.load(&r[24..])];
    let squares =
        v.add(v.add(v.mul(r[0], r[0]), v.mul(r[1], r[1])), v.add(v.mul(r[2], r[2]), v.mul(r[3], r[3])));
    let largest = v.max(v.max(v.abs(r[0]), v.abs(r[1])), v.max(v.abs(r[2]), v.abs(r[3])));
    let (of_rms, of_largest) = bits.clipping();
    let rms = (v.reduce_sum(squares) * (1.0 / SUB as f32)).sqrt();
    let scale = (rms * of_rms + v.reduce_max(largest) * of_largest) / (top * 0.5 * unit);
    // 0/0 is NaN.
    if scale.is_nan() || scale == 0.0 || unit < f32::MIN_POSITIVE {
        return (0, [0; SUB]);
    }
    // The scale is rounded up. Anything above 254 becomes 255, the largest scale of a byte.
    let scale = scale.min(254.0).floor() + 1.0;
    let inverse = v.splat(1.0 / (unit * scale));
    let (center, zero, top) = (v.splat(top * 0.5), v.splat(0.0), v.splat(top));
    let mut words = [v.splat_u32(0); SUB / 8];
    for i in 0..SUB / 8 {
        let t = v.add(v.mul(r[i], inverse), v.add(v.load(&u[8 * i..]), center));
        words[i] = v.to_i32(v.round_ties_even(v.clamp(t, zero, top)));
    }
    let mut codes = [0; SUB];
    v.store_low_bytes(words, &mut codes);
    (scale as u8, codes)
}

/// Packs codes of `B` bits. Eight codes fill `B` bytes whatever `B` is: neighbors are joined, then pairs, then fours.
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

/// Returns the eight codes of `B` bytes.
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

#[inline(always)]
fn unpack_run<V: Vector, const B: usize>(v: V, run: Run<'_>, bytes: &[u8], out: &mut [f32]) {
    let (bits, sub_bytes, n) = (run.bits, run.bits.sub_bytes(), out.len());
    let center = v.splat((bits.levels() - 1.0) * 0.5);
    let out = out.as_chunks_mut::<SUB>().0;
    let mut noise = [0.0; PIECE];
    let mut at = 0;
    while at < n {
        let len = run.piece(at, n, &mut noise);
        let first = at / SUB;
        for (i, u) in noise[..len].as_chunks::<SUB>().0.iter().enumerate() {
            let block = first + i;
            let packed = &bytes[block * sub_bytes..(block + 1) * sub_bytes];
            let d = run.steps[block] * bits.unit() * f32::from(packed[0]);
            let out = &mut out[block];
            let mut codes = [[0; 8]; SUB / 8];
            for (codes, packed) in codes.iter_mut().zip(packed[1..].as_chunks::<B>().0) {
                *codes = unpack(packed);
            }
            let (codes, d) = (codes.as_flattened(), v.splat(d));
            for i in (0..SUB).step_by(16) {
                let level = v.sub(v.from_i32(v.load_bytes(&codes[i..])), center);
                v.store(v.mul(v.sub(level, v.load(&u[i..])), d), &mut out[i..]);
            }
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    #[test]
    fn blocks_of_zeros_and_of_one_value_stay_finite() {
        for ty in quant::QUANTIZABLE.iter().copied().filter(|&ty| wanted(ty)) {
            for value in [0.0, 1e-30, 0.37, -3.0] {
                let c = coded(ty, Bits::Two, &[value; 1024]);
                let largest = c.r.iter().fold(0.0f32, |a, r| a.max(r.abs()));
                // Where a block leaves nothing, what comes back is noise of at most a step of the block.
                let most = 4.0 * largest + value.abs() + 1e-3;
                assert!(c.back.iter().all(|b| b.is_finite() && b.abs() <= most), "{ty:?}");
            }
        }
    }

    proptest! {
        /// Rows cut into pieces give the bytes of the whole, on every instruction set.
        #[test]
        fn pieces_and_levels_agree(cut in 1u64..31, bits in 2u64..5) {
            let (bits, w) = (Bits::new(bits).unwrap(), weights(1024));
            let noise = Noise::new(3, "x");
            let t = vec![0.004; 32];
            let run = Run { noise: &noise, bits, start: 0, row: 512, steps: &t };
            let mut whole = vec![0; bits.plane_bytes(1024).unwrap() as usize];
            encode_at(Isa::PORTABLE, run, &w, &mut whole);
            for isa in Isa::available() {
                let mut parts = vec![0; whole.len()];
                let (a, b) = (cut as usize * SUB, cut as usize * bits.sub_bytes());
                encode_at(isa, run, &w[..a], &mut parts[..b]);
                let rest = Run { start: cut * 32, steps: &t[cut as usize..], ..run };
                encode_at(isa, rest, &w[a..], &mut parts[b..]);
                prop_assert_eq!(&parts, &whole);
            }
        }
    }
}
