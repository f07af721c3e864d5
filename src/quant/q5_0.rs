//! Q5_0: blocks of 32 weights, 22 bytes, 5.5 bits per weight.
//!
//! Layout: scale f16, 4 bytes of fifth bits, see [`block32::write_fifth_bits`], and 16 bytes of nibbles, see
//! [`block32::write_nibbles`].
//! A weight is `scale * (code - 16)` with a code in 0..=31.

use super::block32::{self, Block32};
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Q50;

impl BlockFormat for Q50 {
    const TYPE: GgmlType = GgmlType::Q5_0;
    /// The scale is an f16, and the weight of largest magnitude takes the level farthest from 0.
    const MAX_ABS: f32 = f16::MAX * 16.0;
    const SUB: usize = block32::BLOCK;
    const LEVELS: (f32, f32) = (-16.0, 15.0);
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::one(f16::read(block))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        block32::read_nibbles(&block[6..], codes);
        block32::read_fifth_bits(&block[2..], codes);
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        f16::write(scales.d, block);
        block32::write_fifth_bits(codes, &mut block[2..]);
        block32::write_nibbles(codes, &mut block[6..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(block32::weights(importance))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        block32::quantize::<Self, S>(simd, rows, columns, out);
    }
}

impl Block32 for Q50 {
    const CANDIDATES: &'static [(f32, f32)] = &[
        (16.0, 0.0),
        (15.3, 0.0),
        (16.6, 0.0),
        (14.2, 0.0),
        (17.6, 0.0),
        (16.3, 0.0),
        (15.7, 0.0),
        (13.6, 0.0),
        (14.9, 0.0),
        (17.0, 0.0),
    ];
}
