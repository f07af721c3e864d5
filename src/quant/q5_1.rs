//! Q5_1: blocks of 32 weights, 24 bytes, 6 bits per weight.
//!
//! Layout: scale f16, offset f16, 4 bytes of fifth bits, see [`block32::write_fifth_bits`], and 16 bytes of nibbles, see
//! [`block32::write_nibbles`].
//! A weight is `scale * code + offset` with a code in 0..=31.

use super::block32::{self, Block32};
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Q51;

impl BlockFormat for Q51 {
    const TYPE: GgmlType = GgmlType::Q5_1;
    /// The offset, which may be as large as the largest weight, is an f16.
    const MAX_ABS: f32 = f16::MAX;
    const SUB: usize = block32::BLOCK;
    const LEVELS: (f32, f32) = (0.0, 31.0);
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::with_offset(f16::read(block), f16::read(&block[2..]))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        block32::read_nibbles(&block[8..], codes);
        block32::read_fifth_bits(&block[4..], codes);
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        f16::write(scales.d, block);
        f16::write(-scales.dmin, &mut block[2..]);
        block32::write_fifth_bits(codes, &mut block[4..]);
        block32::write_nibbles(codes, &mut block[8..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(block32::weights(importance))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        block32::quantize::<Self, S>(simd, rows, columns, out);
    }
}

impl Block32 for Q51 {
    const CANDIDATES: &'static [(f32, f32)] = &[
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
    ];
}
