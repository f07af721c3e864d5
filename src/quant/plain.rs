//! The plain number types: F32, F16 and BF16, little endian.

use super::format::Encoding;
use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// F32: the weights as they are, bit patterns kept.
pub struct F32;

impl Encoding for F32 {
    const TYPE: GgmlType = GgmlType::F32;
    const MAX_ABS: f32 = f32::MAX;

    #[inline(always)]
    fn quantize<S: Simd>(_simd: S, rows: &[f32], _columns: Option<Columns<'_>>, out: &mut [u8]) {
        for (bytes, w) in out.as_chunks_mut().0.iter_mut().zip(rows) {
            *bytes = w.to_le_bytes();
        }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
        for (w, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *w = f32::from_le_bytes(*bytes);
        }
    }
}

/// F16: IEEE half precision. See [`f16`] for the rounding.
pub struct F16;

impl Encoding for F16 {
    const TYPE: GgmlType = GgmlType::F16;
    const MAX_ABS: f32 = f16::MAX_ABS;

    #[inline(always)]
    fn quantize<S: Simd>(_simd: S, rows: &[f32], _columns: Option<Columns<'_>>, out: &mut [u8]) {
        for (bytes, &w) in out.as_chunks_mut().0.iter_mut().zip(rows) {
            *bytes = f16::encode(w).to_le_bytes();
        }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
        for (w, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *w = f16::decode(u16::from_le_bytes(*bytes));
        }
    }
}

/// BF16: the upper half of an f32.
pub struct Bf16;

impl Bf16 {
    /// Rounds to nearest, ties to even. A NaN stays one and becomes quiet.
    #[inline(always)]
    fn encode(w: f32) -> u16 {
        let bits = w.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
        let is_nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
        (if is_nan { bits | 0x0040_0000 } else { rounded } >> 16) as u16
    }
}

impl Encoding for Bf16 {
    const TYPE: GgmlType = GgmlType::BF16;
    /// Just below the middle between the largest BF16 and the next power of two: the last weight that does not round to
    /// infinity.
    const MAX_ABS: f32 = f32::from_bits(0x7F7F_7FFF);

    #[inline(always)]
    fn quantize<S: Simd>(_simd: S, rows: &[f32], _columns: Option<Columns<'_>>, out: &mut [u8]) {
        for (bytes, &w) in out.as_chunks_mut().0.iter_mut().zip(rows) {
            *bytes = Self::encode(w).to_le_bytes();
        }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
        for (w, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *w = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{dequantize_at, quantize_at};
    use crate::simd::Isa;

    #[test]
    fn bf16_ties_go_to_even_and_nans_become_quiet() {
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
            assert_eq!(Bf16::encode(f32::from_bits(from)), to, "{from:#x}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_half_crate() {
        let rows: Vec<f32> = (0..1 << 20).map(|i: u32| f32::from_bits(i.wrapping_mul(0x9E37_79B1))).collect();
        for isa in Isa::available() {
            let mut out = vec![0; rows.len() * 2];
            quantize_at(isa, GgmlType::BF16, &rows, None, &mut out);
            for (&w, bytes) in rows.iter().zip(out.as_chunks().0) {
                assert_eq!(u16::from_le_bytes(*bytes), half::bf16::from_f32(w).to_bits(), "{w:e} {isa:?}");
            }
            quantize_at(isa, GgmlType::F16, &rows, None, &mut out);
            for (&w, bytes) in rows.iter().zip(out.as_chunks().0) {
                assert_eq!(u16::from_le_bytes(*bytes), f16::encode(w), "{w:e} {isa:?}");
            }
            let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut back = vec![0.0; 1 << 16];
            dequantize_at(isa, GgmlType::F16, &halves, &mut back);
            for (h, w) in back.iter().enumerate() {
                assert_eq!(w.to_bits(), f16::decode(h as u16).to_bits(), "{h:#x} {isa:?}");
            }
        }
    }
}
