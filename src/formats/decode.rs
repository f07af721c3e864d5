//! Decodes the element types of a checkpoint to f32, and checks raw weights without decoding them.
//!
//! All types but F64 widen to f32 without rounding: the result is the stored number. F64 is rounded to the nearest f32,
//! ties to even. Bytes are little endian and need not be aligned. The loops are compiled once per instruction set and give the same bits on all of them, because they hold no
//! operation whose result depends on the width of a vector.
//!
//! ```
//! use srd_rs::dtype::SourceType;
//! use srd_rs::formats::decode::{decode_row, scan};
//!
//! let bytes = [0x80, 0x3f, 0x20, 0xc1]; // 1 and -10 as BF16
//! let mut row = [0.0; 2];
//! decode_row(SourceType::BF16, &bytes, &mut row);
//! assert_eq!(row, [1.0, -10.0]);
//! assert_eq!(scan(SourceType::BF16, &bytes).max_abs, 10.0);
//! ```

use crate::dtype::SourceType;
use crate::simd::{Isa, dispatch, f16};

/// The result of [`scan`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scan {
    /// The largest |w| of the run: infinite if the run holds a NaN or an infinity, 0 if the run is empty.
    pub max_abs: f32,
    /// Whether the run holds a NaN or an infinity.
    pub non_finite: bool,
}

/// Decodes `bytes` to f32. A NaN stays a NaN with the same sign.
///
/// # Panics
/// If `bytes.len() != out.len() * ty.bytes()`: the caller cuts both from the same plan.
pub fn decode_row(ty: SourceType, bytes: &[u8], out: &mut [f32]) {
    decode_row_at(Isa::detect(), ty, bytes, out);
}

/// Does the same as [`decode_row`] with a given instruction set.
pub fn decode_row_at(isa: Isa, ty: SourceType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * ty.bytes(), "the bytes and the row differ in length");
    match ty {
        SourceType::F64 => decode_f64(isa, bytes.as_chunks().0, out),
        SourceType::F32 => decode_f32(isa, bytes.as_chunks().0, out),
        SourceType::F16 => decode_f16(isa, bytes.as_chunks().0, out),
        SourceType::BF16 => decode_bf16(isa, bytes.as_chunks().0, out),
        SourceType::F8E4M3 => decode_e4m3(isa, bytes, out),
        SourceType::F8E5M2 => decode_e5m2(isa, bytes, out),
    }
}

/// Finds the largest magnitude of a run of raw weights, and whether all are finite, at the speed of reading the weights.
/// Bytes after the last whole weight are ignored.
///
/// The bit patterns of IEEE-like floats without their sign order as the magnitudes do, with infinity and NaN above all.
pub fn scan(ty: SourceType, bytes: &[u8]) -> Scan {
    scan_at(Isa::detect(), ty, bytes)
}

/// Does the same as [`scan`] with a given instruction set.
pub fn scan_at(isa: Isa, ty: SourceType, bytes: &[u8]) -> Scan {
    let largest = match ty {
        SourceType::F64 => f64::from_bits(max_bits_64(isa, bytes.as_chunks().0)) as f32,
        SourceType::F32 => f32::from_bits(max_bits_32(isa, bytes.as_chunks().0)),
        SourceType::F16 | SourceType::BF16 => {
            decode_one(ty, &max_bits_16(isa, bytes.as_chunks().0).to_le_bytes())
        }
        SourceType::F8E4M3 | SourceType::F8E5M2 => decode_one(ty, &[max_bits_8(isa, bytes)]),
    };
    let non_finite = !largest.is_finite();
    Scan { max_abs: if non_finite { f32::INFINITY } else { largest }, non_finite }
}

/// Returns the index of the first weight that is a NaN, infinite, or larger than `limit` in magnitude. This is slow: call
/// the function where [`scan`] has found something.
pub fn first_bad(ty: SourceType, bytes: &[u8], limit: f32) -> Option<usize> {
    let is_bad = |raw: &[u8]| {
        let w = decode_one(ty, raw);
        !w.is_finite() || w.abs() > limit
    };
    bytes.chunks_exact(ty.bytes()).position(is_bad)
}

dispatch! {
    /// Rounds F64 to the nearest f32, ties to even.
    fn decode_f64(_simd: S, src: &[[u8; 8]], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f64::from_le_bytes(*s) as f32;
        }
    }

    /// Reads little-endian F32.
    fn decode_f32(_simd: S, src: &[[u8; 4]], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f32::from_le_bytes(*s);
        }
    }

    /// Widens BF16, which is the upper half of an f32.
    fn decode_bf16(_simd: S, src: &[[u8; 2]], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f32::from_bits(u32::from(u16::from_le_bytes(*s)) << 16);
        }
    }

    /// Widens IEEE half precision.
    fn decode_f16(_simd: S, src: &[[u8; 2]], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f16::decode(u16::from_le_bytes(*s));
        }
    }

    /// Widens F8_E5M2, which is the upper byte of an IEEE half.
    fn decode_e5m2(_simd: S, src: &[u8], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f16::decode(u16::from(*s) << 8);
        }
    }

    /// Widens F8_E4M3 (finite only, as torch's float8_e4m3fn).
    fn decode_e4m3(_simd: S, src: &[u8], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = e4m3_to_f32(*s);
        }
    }

    /// Returns the largest bit pattern, with the sign removed, of 64-bit floats.
    fn max_bits_64(_simd: S, src: &[[u8; 8]]) -> u64 {
        src.iter().fold(0, |m, s| m.max(u64::from_le_bytes(*s) & (u64::MAX >> 1)))
    }

    /// Returns the largest bit pattern, with the sign removed, of 32-bit floats.
    fn max_bits_32(_simd: S, src: &[[u8; 4]]) -> u32 {
        src.iter().fold(0, |m, s| m.max(u32::from_le_bytes(*s) & 0x7fff_ffff))
    }

    /// Returns the largest bit pattern, with the sign removed, of 16-bit floats.
    fn max_bits_16(_simd: S, src: &[[u8; 2]]) -> u16 {
        src.iter().fold(0, |m, s| m.max(u16::from_le_bytes(*s) & 0x7fff))
    }

    /// Returns the largest bit pattern, with the sign removed, of 8-bit floats.
    fn max_bits_8(_simd: S, src: &[u8]) -> u8 {
        src.iter().fold(0, |m, s| m.max(s & 0x7f))
    }
}

/// Widens an F8_E4M3: the bias is 7, a subnormal is m * 2^-9, there is no infinity, and only the number whose seven low
/// bits are all set is a NaN.
#[inline(always)]
fn e4m3_to_f32(b: u8) -> f32 {
    let sign = u32::from(b & 0x80) << 24;
    let magnitude = u32::from(b & 0x7f) << 20;
    let normal = magnitude + (120 << 23);
    let subnormal = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(121 << 23)).to_bits();
    let finite = if magnitude < (1 << 23) { subnormal } else { normal };
    f32::from_bits(sign | if b & 0x7f == 0x7f { 0x7fc0_0000 } else { finite })
}

fn decode_one(ty: SourceType, raw: &[u8]) -> f32 {
    let mut out = [0.0];
    decode_row_at(Isa::PORTABLE, ty, raw, &mut out);
    out[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [SourceType; 6] = [
        SourceType::F64,
        SourceType::F32,
        SourceType::F16,
        SourceType::BF16,
        SourceType::F8E4M3,
        SourceType::F8E5M2,
    ];

    /// Every bit pattern of the type (F32 and F64: a spread of them), in order.
    fn all_patterns(ty: SourceType) -> Vec<u8> {
        match ty.bytes() {
            1 => (0..=u8::MAX).collect(),
            2 => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
            4 => (0..=u16::MAX).flat_map(|h| u32::from(h).wrapping_mul(0x1_0003).to_le_bytes()).collect(),
            // Spread over all exponents, most of which have no f32.
            _ => (0..=u16::MAX)
                .flat_map(|h| u64::from(h).wrapping_mul(0x1_0003_0000_0007).to_le_bytes())
                .collect(),
        }
    }

    /// `2^(e - bias) * 1.m`, or `2^(1 - bias) * 0.m` where e is 0, from the definition of the format.
    fn by_definition(bits: u32, exponent_bits: u32, mantissa_bits: u32) -> f64 {
        let sign = if bits >> (exponent_bits + mantissa_bits) == 0 { 1.0 } else { -1.0 };
        let e = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
        let m = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1u32 << mantissa_bits);
        let bias = (1 << (exponent_bits - 1)) - 1;
        let (lead, power) = if e == 0 { (0.0, 1 - bias) } else { (1.0, e as i32 - bias) };
        sign * (lead + m) * 2f64.powi(power)
    }

    fn check_against_definition(ty: SourceType, e: u32, m: u32, is_finite: impl Fn(u32) -> bool) {
        let bytes = all_patterns(ty);
        let mut out = vec![0.0; bytes.len() / ty.bytes()];
        decode_row(ty, &bytes, &mut out);
        for (bits, &w) in (0u32..).zip(&out) {
            assert_eq!(w.is_finite(), is_finite(bits), "{ty:?} {bits:#x} gives {w}");
            if w.is_finite() {
                let want = by_definition(bits, e, m);
                assert_eq!(
                    (f64::from(w), w.is_sign_negative()),
                    (want, want.is_sign_negative()),
                    "{bits:#x}"
                );
            }
        }
    }

    #[test]
    fn every_pattern_has_the_value_its_format_defines() {
        check_against_definition(SourceType::F16, 5, 10, |b| b & 0x7c00 != 0x7c00);
        check_against_definition(SourceType::BF16, 8, 7, |b| b & 0x7f80 != 0x7f80);
        check_against_definition(SourceType::F8E5M2, 5, 2, |b| b & 0x7c != 0x7c);
        check_against_definition(SourceType::F8E4M3, 4, 3, |b| b & 0x7f != 0x7f);
    }

    #[test]
    fn infinity_and_nan_keep_their_kind_and_sign() {
        let one = |ty, raw: &[u8]| decode_one(ty, raw);
        assert_eq!(one(SourceType::F16, &0xfc00u16.to_le_bytes()), f32::NEG_INFINITY);
        assert_eq!(one(SourceType::F8E5M2, &[0x7c]), f32::INFINITY);
        assert_eq!(one(SourceType::BF16, &0x7f80u16.to_le_bytes()), f32::INFINITY);
        assert!(
            one(SourceType::F8E4M3, &[0xff]).is_nan() && one(SourceType::F8E4M3, &[0xff]).is_sign_negative()
        );
        assert!(one(SourceType::F16, &0x7c01u16.to_le_bytes()).is_nan());
        assert!(one(SourceType::BF16, &0x7f81u16.to_le_bytes()).is_nan());
        assert_eq!(one(SourceType::F8E4M3, &[0x7e]), 448.0);
    }

    #[test]
    fn f64_is_rounded_to_the_nearest_f32_and_what_is_too_large_is_infinite() {
        let one = |w: f64| decode_one(SourceType::F64, &w.to_le_bytes());
        assert_eq!(one(-0.1), -0.1f32);
        let (low, high) = (1.0f64, f64::from(1.0f32.next_up()));
        assert_eq!(one((low + high) / 2.0), 1.0, "a tie goes to the even f32");
        assert_eq!(one(((low + high) / 2.0).next_up()), 1.0f32.next_up());
        assert_eq!(one(1e300), f32::INFINITY);
        assert!(one(f64::NAN).is_nan());
        let bytes: Vec<u8> = [0.5, -1e300].iter().flat_map(|w: &f64| w.to_le_bytes()).collect();
        assert!(scan(SourceType::F64, &bytes).non_finite);
        assert_eq!(first_bad(SourceType::F64, &bytes, f32::MAX), Some(1));
    }

    /// The instruction sets agree in every bit, NaN payloads included, at every alignment and tail length.
    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        for ty in TYPES {
            let mut bytes = vec![0x5a];
            bytes.extend(all_patterns(ty));
            for (start, drop) in [(0, 0), (1, 0), (1, 1), (1, 7), (1, 31)] {
                let n = (bytes.len() - start) / ty.bytes() - drop;
                let raw = &bytes[start..start + n * ty.bytes()];
                let (mut want, mut got) = (vec![0.0; n], vec![0.0; n]);
                decode_row_at(Isa::PORTABLE, ty, raw, &mut want);
                for isa in Isa::available() {
                    decode_row_at(isa, ty, raw, &mut got);
                    let same = want.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{ty:?} at {isa:?}, start {start}, {n} weights");
                }
            }
        }
    }

    #[test]
    fn half_agrees_with_the_half_crate() {
        for h in 0..=u16::MAX {
            let want = half::f16::from_bits(h).to_f32();
            let got = decode_one(SourceType::F16, &h.to_le_bytes());
            assert!(want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(), "{h:#x}");
        }
    }

    #[test]
    fn scan_sees_each_single_pattern() {
        for ty in TYPES {
            let zero = vec![0; ty.bytes() * 70];
            for raw in all_patterns(ty).chunks_exact(ty.bytes()).step_by(ty.bytes() * 3 - 2) {
                let mut bytes = zero.clone();
                bytes[ty.bytes() * 37..][..ty.bytes()].copy_from_slice(raw);
                let w = decode_one(ty, raw);
                for isa in Isa::available() {
                    let found = scan_at(isa, ty, &bytes);
                    assert_eq!(found.non_finite, !w.is_finite(), "{ty:?} {raw:x?}");
                    assert_eq!(found.max_abs, if w.is_finite() { w.abs() } else { f32::INFINITY });
                }
                let bad = (!w.is_finite() || w.abs() > 1.0).then_some(37);
                assert_eq!(first_bad(ty, &bytes, 1.0), bad, "{ty:?} {raw:x?}");
            }
        }
    }

    #[test]
    fn an_empty_run_has_nothing_to_report() {
        for ty in TYPES {
            assert_eq!(scan(ty, &[]), Scan { max_abs: 0.0, non_finite: false });
            assert_eq!(first_bad(ty, &[], 1.0), None);
        }
    }
}
