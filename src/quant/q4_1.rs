//! Q4_1: blocks of 32 weights, 20 bytes, 5 bits per weight.
//!
//! Layout: scale f16, offset f16, 16 bytes of nibbles, see [`block32::write_nibbles`].
//! A weight is `scale * code + offset` with a code in 0..=15.

use super::block32::{self, Block32};
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Q41;

impl BlockFormat for Q41 {
    const TYPE: GgmlType = GgmlType::Q4_1;
    /// The offset, which may be as large as the largest weight, is an f16.
    const MAX_ABS: f32 = f16::MAX;
    const SUB: usize = block32::BLOCK;
    const LEVELS: (f32, f32) = (0.0, 15.0);
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::with_offset(f16::read(block), f16::read(&block[2..]))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        block32::read_nibbles(&block[4..], codes);
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        f16::write(scales.d, block);
        f16::write(-scales.dmin, &mut block[2..]);
        block32::write_nibbles(codes, &mut block[4..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(block32::weights(importance))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        block32::quantize::<Self, S>(simd, rows, columns, out);
    }
}

impl Block32 for Q41 {
    const CANDIDATES: &'static [(f32, f32)] = &[
        (0.0, 0.0),
        (0.2, 0.25),
        (0.4, -0.5),
        (0.2, -0.25),
        (0.4, 0.0),
        (-0.8, 0.0),
        (-0.8, -0.25),
        (1.2, -0.25),
        (1.0, -0.5),
        (-1.6, 0.75),
        (1.4, -1.0),
    ];
}
