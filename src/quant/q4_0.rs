//! Q4_0: blocks of 32 weights, 18 bytes, 4.5 bits per weight.
//!
//! Layout: scale f16, 16 bytes of nibbles, see [`block32::write_nibbles`].
//! A weight is `scale * (code - 8)` with a code in 0..=15.

use super::block32::{self, Block32};
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Q40;

impl BlockFormat for Q40 {
    const TYPE: GgmlType = GgmlType::Q4_0;
    /// The scale is an f16, and the weight of largest magnitude takes the level farthest from 0.
    const MAX_ABS: f32 = f16::MAX * 8.0;
    const SUB: usize = block32::BLOCK;
    const LEVELS: (f32, f32) = (-8.0, 7.0);
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::one(f16::read(block))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        block32::read_nibbles(&block[2..], codes);
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        f16::write(scales.d, block);
        block32::write_nibbles(codes, &mut block[2..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(block32::weights(importance))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        block32::quantize::<Self, S>(simd, rows, columns, out);
    }
}

impl Block32 for Q40 {
    const CANDIDATES: &'static [(f32, f32)] = &[
        (8.2, 0.0),
        (7.3, 0.0),
        (8.8, 0.0),
        (7.7, 0.0),
        (9.5, 0.0),
        (7.0, 0.0),
        (8.5, 0.0),
        (6.2, 0.0),
        (8.0, 0.0),
        (-8.7, 0.0),
        (-8.1, 0.0),
    ];
}
