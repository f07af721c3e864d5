//! IQ4_NL: blocks of 32 weights, 18 bytes, 4.5 bits per weight, with levels that are not evenly spaced.
//!
//! Layout: scale f16, 16 bytes of nibbles, see [`block32::write_nibbles`]. A weight is `scale * TABLE[nibble]`. The table
//! is denser around zero, where a bell-shaped distribution has most of its weights.

use super::block32::{self, Block32};
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The levels of the nibbles 0 to 15: ggml's `kvalues_iq4nl`.
pub(super) const TABLE: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// The code of level 0.
pub(super) const ZERO: f32 = 128.0;
/// The mean distance of neighboring levels.
pub(super) const STEP: f32 = (TABLE[15] - TABLE[0]) / 15.0;

/// The code of each nibble.
pub(super) const CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = (TABLE[i] + ZERO) as u8;
        i += 1;
    }
    codes
};

/// The nibble of each code: the inverse of [`CODES`].
pub(super) const NIBBLES: [u8; 256] = {
    let mut nibbles = [0; 256];
    let mut i = 0;
    while i < 16 {
        nibbles[CODES[i] as usize] = i as u8;
        i += 1;
    }
    nibbles
};

/// The format.
pub struct Iq4Nl;

impl BlockFormat for Iq4Nl {
    const TYPE: GgmlType = GgmlType::IQ4_NL;
    /// The scale is an f16, and the weight of largest magnitude takes the outermost level of its side at the worst.
    const MAX_ABS: f32 = f16::MAX * 113.0;
    const SUB: usize = block32::BLOCK;
    const LEVELS: (f32, f32) = (TABLE[0], TABLE[15]);
    const ZERO: f32 = ZERO;
    const TABLE: &'static [f32] = &TABLE;
    const STEP: f32 = STEP;
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::one(f16::read(block))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        block32::read_nibbles(&block[2..], codes);
        for code in &mut codes[..block32::BLOCK] {
            *code = CODES[usize::from(*code & 15)];
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        let mut nibbles = [0; block32::BLOCK];
        for (nibble, &code) in nibbles.iter_mut().zip(codes) {
            *nibble = NIBBLES[usize::from(code)];
        }
        f16::write(scales.d, block);
        block32::write_nibbles(&nibbles, &mut block[2..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(block32::weights(importance))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        block32::quantize::<Self, S>(simd, rows, columns, out);
    }
}

impl Block32 for Iq4Nl {
    const CANDIDATES: &'static [(f32, f32)] = &[
        (127.0, 0.0),
        (122.5, 0.0),
        (131.5, 0.0),
        (118.0, 0.0),
        (136.0, 0.0),
        (113.5, 0.0),
        (141.0, 0.0),
        (109.0, 0.0),
        (-113.0, 0.0),
        (-108.0, 0.0),
        (-118.5, 0.0),
        (-103.0, 0.0),
    ];
}
