//! Q5_1: blocks of 32 weights, 24 bytes, 6 bits per weight.
//!
//! Layout: scale f16, offset f16, fifth bits, 32 (weight i at bit i), 16 bytes of low nibbles: weight i below, weight i + 16 above.
//! `w = scale * code + offset`, code in 0..=31.

use super::block32::{self, Block, Format, Grid, Model, Searched, Words};
use super::f16;
use crate::simd_level::{Level, level};

/// The offset, up to the largest weight itself, is an f16.
pub const MAX_ABS: f32 = f16::MAX;

/// Quantises whole rows; see [`super::quantize`].
pub fn quantize(rows: &[f32], n_per_row: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    quantize_at(level(), rows, n_per_row, importance, out);
}

fn quantize_at(level: Level, rows: &[f32], n_per_row: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    block32::quantize::<Blocks>(level, rows, n_per_row, importance, out);
}

/// Reads whole blocks; see [`super::dequantize`].
pub fn dequantize(bytes: &[u8], out: &mut [f32]) {
    dequantize_at(level(), bytes, out);
}

fn dequantize_at(level: Level, bytes: &[u8], out: &mut [f32]) {
    block32::dequantize::<Blocks>(level, bytes, out);
}

pub(crate) struct Blocks;

impl Format for Blocks {
    const BYTES: usize = 24;

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut Block) {
        let scale = block32::scale_at(bytes);
        let offset = block32::scale_at(&bytes[2..]);
        let mut codes = block32::unpack_nibbles(&bytes[8..]);
        block32::add_fifth_bits(&mut codes, &bytes[4..]);
        for (w, code) in out.iter_mut().zip(codes) {
            *w = f32::from(code) * scale + offset;
        }
    }
}

impl Searched for Blocks {
    const MODEL: Model = Model::Affine {
        top: 31.0,
        tries: &[
            (0.0, 0.0),
            (0.6, -0.25),
            (0.2, -0.25),
            (-0.2, 0.25),
            (-0.8, -0.25),
            (0.6, 0.0),
            (-1.0, 0.25),
            (-2.0, 0.0),
            (0.6, -0.75),
            (-1.0, 1.0),
        ],
    };

    #[inline(always)]
    fn pack(grid: Grid, codes: &Words, out: &mut [u8]) {
        out[..2].copy_from_slice(&block32::scale_bytes(grid.scale));
        out[2..4].copy_from_slice(&block32::scale_bytes(grid.offset));
        out[4..8].copy_from_slice(&block32::pack_fifth_bits(codes));
        block32::pack_nibbles(codes, &mut out[8..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::block32::QK;
    use crate::quant::block32::tests::{check_levels_agree, weights};
    use crate::quant::simd_basic::blocks::tests::check_generic;
    use proptest::prelude::*;

    #[test]
    fn a_block_on_the_grid_is_kept_exactly_and_laid_out_as_documented() {
        let w: Block = std::array::from_fn(|i| 0.5 * (i % 32) as f32 - 3.0);
        let mut out = [0; Blocks::BYTES];
        quantize(&w, QK, None, &mut out);
        assert_eq!(out[..2], [0x00, 0x38]); // 0.5
        assert_eq!(out[2..4], [0x00, 0xC2]); // -3
        assert_eq!(out[4..8], [0, 0, 0xFF, 0xFF]);
        assert_eq!(out[8..], std::array::from_fn::<u8, 16, _>(|i| (i | i << 4) as u8));
        let mut back = [0.0; QK];
        dequantize(&out, &mut back);
        assert_eq!(back, w);
    }

    proptest! {
        #[test]
        fn every_level_gives_the_same_bytes(w in weights(MAX_ABS), h in weights(1e10)) {
            check_levels_agree(Blocks::BYTES, &w, &h, quantize_at, dequantize_at);
            check_generic::<Blocks>(&w, &h);
        }
    }
}
