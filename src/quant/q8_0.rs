//! Q8_0: blocks of 32 weights, 34 bytes, 8.5 bits per weight.
//!
//! Layout: scale f16, 32 signed codes. `w = scale * code`.
//!
//! The quantiser gives the bytes of ggml's, except for tiny blocks: where the scale is so small that
//! f16 has only coarse steps left, it is rounded up and the codes are taken against it, which
//! keeps weights that ggml flushes to zero. At 8 bits a search gains less than 0.1 % of the squared
//! error, so the importance of the columns is not looked at; ggml does not either.

use super::block32::{self, Block, Format};
use super::f16;
use super::simd_basic;
use crate::simd_level::{Level, level};

/// The scale is an f16, and the weight of largest magnitude takes the code 127.
pub const MAX_ABS: f32 = f16::MAX * 127.0;

/// Below 2^-14 f16 is subnormal.
const SMALLEST_NORMAL: f32 = 1.0 / (1 << 14) as f32;

/// Quantises whole rows; see [`super::quantize`].
pub fn quantize(rows: &[f32], n_per_row: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    quantize_at(level(), rows, n_per_row, None, out);
}

fn quantize_at(level: Level, rows: &[f32], _n_per_row: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    if !simd_basic::quantize_q8_0(level, rows, out) {
        let out = out.as_chunks_mut::<{ Blocks::BYTES }>().0;
        rows.as_chunks().0.iter().zip(out).for_each(|(w, out)| encode(w, out));
    }
}

/// Reads whole blocks; see [`super::dequantize`].
pub fn dequantize(bytes: &[u8], out: &mut [f32]) {
    dequantize_at(level(), bytes, out);
}

fn dequantize_at(level: Level, bytes: &[u8], out: &mut [f32]) {
    block32::dequantize::<Blocks>(level, bytes, out);
}

struct Blocks;

impl Format for Blocks {
    const BYTES: usize = 34;

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut Block) {
        let scale = block32::scale_at(bytes);
        for (w, &code) in out.iter_mut().zip(&bytes[2..34]) {
            *w = f32::from(code as i8) * scale;
        }
    }
}

fn encode(w: &Block, out: &mut [u8; Blocks::BYTES]) {
    let (scale, inverse) = scale_and_inverse(largest(w) / 127.0);
    pack(scale, &w.map(|w| round_half_away(w * inverse)), out);
}

/// The block of a scale and codes.
#[inline(always)]
pub(crate) fn pack(scale: f32, codes: &[i8; block32::QK], out: &mut [u8; Blocks::BYTES]) {
    out[..2].copy_from_slice(&f16::encode(scale).to_le_bytes());
    for (out, code) in out[2..].iter_mut().zip(codes) {
        *out = *code as u8;
    }
}

/// The largest magnitude: for finite floats the order of the bit patterns is that of the values.
#[inline(always)]
fn largest(w: &Block) -> f32 {
    f32::from_bits(w.iter().fold(0, |a, w| a.max(w.to_bits() & 0x7FFF_FFFF)))
}

/// What is stored, and what the weights are multiplied with.
#[inline(always)]
pub(super) fn scale_and_inverse(exact: f32) -> (f32, f32) {
    if exact >= SMALLEST_NORMAL {
        return (exact, 1.0 / exact);
    }
    if exact == 0.0 {
        return (0.0, 0.0);
    }
    let steps = exact / f16::MIN_POSITIVE;
    let up = if steps > steps as u32 as f32 { steps as u32 + 1 } else { steps as u32 };
    let scale = up as f32 * f16::MIN_POSITIVE;
    (scale, 1.0 / scale)
}

/// The largest float below one half.
pub(super) const BELOW_HALF: f32 = 0.499_999_97;

/// C's `roundf` for `|x|` below 2^22: added to the magnitude, [`BELOW_HALF`] carries exactly the ties.
#[inline(always)]
fn round_half_away(x: f32) -> i8 {
    (x + BELOW_HALF.copysign(x)) as i32 as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::block32::QK;
    use crate::quant::block32::tests::{check_levels_agree, weights};
    use proptest::prelude::*;

    #[test]
    fn layout_is_scale_then_codes() {
        let mut w: Block = std::array::from_fn(|i| 0.5 * i as f32);
        w[31] = -63.5;
        let mut out = [0; Blocks::BYTES];
        quantize(&w, QK, None, &mut out);
        assert_eq!(out[..2], [0x00, 0x38]);
        assert_eq!(out[2..6], [0, 1, 2, 3]);
        assert_eq!(out[33] as i8, -127);
    }

    #[test]
    fn rounding_is_that_of_c() {
        for x in [0.5f32, -0.5, 1.5, 2.5, -2.5, 0.499_999_97, 126.5, 2.499_999_8, -127.0, 0.0, 1e-40] {
            assert_eq!(f32::from(round_half_away(x)), x.round(), "{x}");
        }
    }

    #[test]
    fn tiny_weights_are_not_flushed() {
        let mut w = [0.0; QK];
        w[0] = 1e-6;
        let mut out = [0; Blocks::BYTES];
        quantize(&w, QK, None, &mut out);
        let mut back = [0.0; QK];
        dequantize(&out, &mut back);
        assert!((back[0] - 1e-6).abs() < f16::MIN_POSITIVE);
    }

    proptest! {
        #[test]
        fn every_level_gives_the_same_bytes(w in weights(MAX_ABS), h in weights(1e10)) {
            check_levels_agree(Blocks::BYTES, &w, &h, quantize_at, dequantize_at);
        }
    }
}
