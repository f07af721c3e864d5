//! Q4_0: blocks of 32 weights, 18 bytes, 4.5 bits per weight.
//!
//! Layout: scale f16, 16 bytes of low nibbles: weight i below, weight i + 16 above.
//! `w = scale * (code - 8)`, code in 0..=15.

use super::block32::{self, Block, Format};
use super::f16;
use super::simd_basic::Lanes;
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

struct Blocks;

impl Format for Blocks {
    const BYTES: usize = 18;

    #[inline(always)]
    fn encode<V: Lanes>(w: &Block, h: &Block, out: &mut [u8]) {
        let fit = block32::fit_symmetric::<V>(w, h, 8.0);
        let codes = block32::to_bytes(&fit.codes, 8.0);
        out[..2].copy_from_slice(&f16::encode(fit.scale).to_le_bytes());
        block32::pack_nibbles(&codes, &mut out[2..]);
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut Block) {
        let scale = block32::scale_at(bytes);
        let codes = block32::unpack_nibbles(&bytes[2..]);
        for (w, code) in out.iter_mut().zip(codes) {
            *w = (f32::from(code) - 8.0) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::block32::QK;
    use crate::quant::block32::tests::{check_levels_agree, weights};
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
        }
    }
}
