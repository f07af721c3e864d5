//! Q4_0: blocks of 32 weights, 18 bytes, 4.5 bits per weight.
//!
//! Layout: scale f16, 16 bytes of low nibbles: weight i below, weight i + 16 above.
//! `w = scale * (code - 8)`, code in 0..=15.

use super::block32::{self, Block, Format, Grid, Model, Searched, Words};
use super::f16;
use crate::simd_level::{Level, level};

/// The scale is an f16, and the weight of largest magnitude takes the code farthest from 8.
pub const MAX_ABS: f32 = f16::MAX * 8.0;

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
    const BYTES: usize = 18;

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut Block) {
        let scale = block32::scale_at(bytes);
        let codes = block32::unpack_nibbles(&bytes[2..]);
        for (w, code) in out.iter_mut().zip(codes) {
            *w = (f32::from(code) - 8.0) * scale;
        }
    }
}

impl Searched for Blocks {
    const MODEL: Model =
        Model::Symmetric { half: 8.0, reaches: &[8.2, 7.3, 8.8, 7.7, 9.5, 7.0, 8.5, 6.2, 8.0, -8.7, -8.1] };

    #[inline(always)]
    fn pack(grid: Grid, codes: &Words, out: &mut [u8]) {
        out[..2].copy_from_slice(&block32::scale_bytes(grid.scale));
        block32::pack_nibbles(codes, &mut out[2..]);
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
        let w: Block = std::array::from_fn(|i| 0.5 * ((i % 16) as f32 - 8.0));
        let mut out = [0; Blocks::BYTES];
        quantize(&w, QK, None, &mut out);
        assert_eq!(out[..2], [0x00, 0x38]); // 0.5
        assert_eq!(out[2..], std::array::from_fn::<u8, 16, _>(|i| (i | i << 4) as u8));
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
