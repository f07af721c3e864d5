//! F16: IEEE half precision, little endian. Also the scales inside the blocks.
//!
//! The conversions are branch-free integer code, so that they are the same on every CPU and can be
//! compiled into vectors; hardware conversions differ from each other in NaN payloads only.

use super::simd_basic::{self, Kernel};
use crate::simd_level::{Level, level};

/// The largest weight that does not round to infinity: just below the middle between 65504 and 65536.
pub const MAX_ABS: f32 = f32::from_bits(0x477F_EFFF);

/// The smallest positive f16, 2^-24.
pub const MIN_POSITIVE: f32 = 1.0 / (1 << 24) as f32;

/// The largest finite f16.
pub const MAX: f32 = 65504.0;

/// Rounds to nearest, ties to even; what is too large becomes infinite, a NaN becomes `0x7E00` with
/// its sign, as ggml has it.
#[inline(always)]
pub fn encode(w: f32) -> u16 {
    const INFINITE: u32 = 0x7C00;
    let bits = w.to_bits();
    let abs = bits & 0x7FFF_FFFF;
    // Exponent bias 127 -> 15 after dropping 13 bits of the mantissa; the carry may raise the exponent.
    let normal = (abs.wrapping_add(0x0FFF + (abs >> 13 & 1)) >> 13).wrapping_sub(112 << 10);
    // Adding 1/2, whose last bit is worth 2^-24, rounds to f16's subnormal steps.
    let subnormal = (f32::from_bits(abs) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if abs < 0x3880_0000 { subnormal } else { normal };
    let finite = if abs > MAX_ABS.to_bits() { INFINITE } else { finite };
    let nonsign = if abs > 0x7F80_0000 { 0x7E00 } else { finite };
    (bits >> 16 & 0x8000 | nonsign) as u16
}

/// Exact. A NaN is made quiet.
#[inline(always)]
pub fn decode(half: u16) -> f32 {
    let abs = u32::from(half & 0x7FFF) << 13;
    let normal = abs + (112 << 23);
    // One exponent step above the subnormals' own, less the implicit one that this adds.
    let smallest_normal = f32::from_bits(113 << 23);
    let subnormal = (f32::from_bits(abs + (113 << 23)) - smallest_normal).to_bits();
    let quiet = if abs > 0x0F80_0000 { 0x0040_0000 } else { 0 };
    let special = abs | 0x7F80_0000 | quiet;
    let finite = if abs < 0x0080_0000 { subnormal } else { normal };
    let nonsign = if abs < 0x0F80_0000 { finite } else { special };
    f32::from_bits(nonsign | u32::from(half & 0x8000) << 16)
}

/// `w` as an f16 sees it.
#[inline(always)]
pub fn round(w: f32) -> f32 {
    decode(encode(w))
}

/// Rounds every weight; see [`encode`].
pub fn quantize(rows: &[f32], out: &mut [u8]) {
    quantize_at(level(), rows, out);
}

fn quantize_at(level: Level, rows: &[f32], out: &mut [u8]) {
    simd_basic::run(level, Quantize { rows, out });
}

/// Widens every weight; see [`decode`].
pub fn dequantize(bytes: &[u8], out: &mut [f32]) {
    dequantize_at(level(), bytes, out);
}

fn dequantize_at(level: Level, bytes: &[u8], out: &mut [f32]) {
    simd_basic::run(level, Dequantize { bytes, out });
}

struct Quantize<'a> {
    rows: &'a [f32],
    out: &'a mut [u8],
}

impl Kernel for Quantize<'_> {
    #[inline(always)]
    fn run(self) {
        for (bytes, &w) in self.out.as_chunks_mut().0.iter_mut().zip(self.rows) {
            *bytes = encode(w).to_le_bytes();
        }
    }
}

struct Dequantize<'a> {
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Dequantize<'_> {
    #[inline(always)]
    fn run(self) {
        for (w, bytes) in self.out.iter_mut().zip(self.bytes.as_chunks().0) {
            *w = decode(u16::from_le_bytes(*bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd_level::available;

    /// Every 1021st bit pattern, and the neighbours of every f16 and of every midpoint between two.
    fn patterns() -> Vec<f32> {
        let spread = (0..u32::MAX / 1021).map(|i| i * 1021);
        let halves = (0..=u16::MAX).map(|h| half::f16::from_bits(h).to_f32().to_bits());
        let around = halves.flat_map(|b| [-1, 0, 1].map(|d: i32| b.wrapping_add_signed(d)));
        let midpoints = (0..u32::MAX >> 12).map(|i| i << 12).filter(|b| b >> 23 & 0xFF > 100);
        spread.chain(around).chain(midpoints).map(f32::from_bits).collect()
    }

    #[test]
    fn encoding_rounds_as_the_half_crate_does_at_every_level() {
        let rows = patterns();
        for level in available() {
            let mut out = vec![0; rows.len() * 2];
            quantize_at(level, &rows, &mut out);
            for (&w, bytes) in rows.iter().zip(out.as_chunks().0) {
                let ours = u16::from_le_bytes(*bytes);
                let nan = 0x7E00 | if w.is_sign_negative() { 0x8000 } else { 0 };
                let theirs = if w.is_nan() { nan } else { half::f16::from_f32_const(w).to_bits() };
                assert_eq!(ours, theirs, "{w:e} {level:?}");
            }
        }
    }

    #[test]
    fn decoding_is_exact_at_every_level() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for level in available() {
            let mut out = vec![0.0; 1 << 16];
            dequantize_at(level, &bytes, &mut out);
            for (h, w) in out.iter().enumerate() {
                let theirs = half::f16::from_bits(h as u16).to_f32_const();
                assert_eq!(w.to_bits(), theirs.to_bits(), "{h:#x} {level:?}");
            }
        }
    }

    #[test]
    fn the_limit_is_the_last_finite_one() {
        assert_eq!(round(MAX_ABS), MAX);
        assert!(round(MAX_ABS.next_up()).is_infinite());
    }
}
