//! BF16: the upper half of an f32, little endian.

use super::simd_basic::{self, Kernel};
use crate::simd_level::{Level, level};

/// The largest weight that does not round to infinity: just below the middle between BF16's largest
/// number and the next power of two.
pub const MAX_ABS: f32 = f32::from_bits(0x7F7F_7FFF);

/// Rounds to nearest, ties to even. A NaN stays one and is made quiet.
#[inline(always)]
pub fn encode(w: f32) -> u16 {
    let bits = w.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    let is_nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
    (if is_nan { bits | 0x0040_0000 } else { rounded } >> 16) as u16
}

/// Exact.
#[inline(always)]
pub fn decode(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds every weight; see [`encode`].
pub fn quantize(rows: &[f32], out: &mut [u8]) {
    quantize_at(level(), rows, out);
}

fn quantize_at(level: Level, rows: &[f32], out: &mut [u8]) {
    simd_basic::run(level, Quantize { rows, out });
}

/// Widens every weight.
pub fn dequantize(bytes: &[u8], out: &mut [f32]) {
    simd_basic::run(level(), Dequantize { bytes, out });
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

    #[test]
    fn ties_go_to_even_and_nans_become_quiet() {
        let cases = [
            (0x3F80_8000, 0x3F80),
            (0x3F81_8000, 0x3F82),
            (0x3F80_8001, 0x3F81),
            (0x7F7F_7FFF, 0x7F7F),
            (0x7F7F_8000, 0x7F80),
            (0x7F80_0001, 0x7FC0),
            (0xFF80_0000, 0xFF80),
            (0x8000_0001, 0x8000),
        ];
        for (from, to) in cases {
            assert_eq!(encode(f32::from_bits(from)), to, "{from:#x}");
        }
    }

    #[test]
    fn every_level_gives_the_bits_of_the_half_crate() {
        let rows: Vec<f32> = (0..1 << 20).map(|i: u32| f32::from_bits(i.wrapping_mul(0x9E37_79B1))).collect();
        for level in available() {
            let mut out = vec![0; rows.len() * 2];
            quantize_at(level, &rows, &mut out);
            for (&w, bytes) in rows.iter().zip(out.as_chunks().0) {
                assert_eq!(u16::from_le_bytes(*bytes), half::bf16::from_f32(w).to_bits(), "{w:e} {level:?}");
            }
        }
    }
}
