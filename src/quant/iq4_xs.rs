//! IQ4_XS: 256 weights in 136 bytes, 4.25 bits per weight, with levels that are not evenly spaced.
//!
//! A block has eight sub-blocks of 32 weights. A weight is `d * (scale - 32) * TABLE[nibble]` with a scale of 6 bits and
//! the table of [`iq4_nl`].
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..4 | high two bits of the scales, from the low bits up |
//! | 4..8 | low four bits of the scales, two in a byte |
//! | 8..136 | nibbles: 16 bytes for each sub-block, see [`block32::read_nibbles`] |

use super::block32;
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::iq4_nl::{self, CODES, NIBBLES, TABLE};
use super::k_symmetric::{self, KSymmetric};
use super::weighting::{Columns, by_weight, normalize};
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// Weights in a sub-block.
const SUB: usize = 32;
/// What a stored scale is above the scale.
const BIAS: f32 = 32.0;

/// The format.
pub struct Iq4Xs;

impl BlockFormat for Iq4Xs {
    const TYPE: GgmlType = GgmlType::IQ4_XS;
    /// The largest magnitude that `d`, a scale of 31 and the outermost level of the shorter side can express.
    const MAX_ABS: f32 = f16::MAX * 31.0 * TABLE[15];
    const SUB: usize = SUB;
    const LEVELS: (f32, f32) = (TABLE[0], TABLE[15]);
    const ZERO: f32 = iq4_nl::ZERO;
    const TABLE: &'static [f32] = &TABLE;
    const STEP: f32 = iq4_nl::STEP;
    const SCALES: Option<(f32, f32)> = Some((-32.0, 31.0));
    const MINS: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        let mut scales = Scales::one(f16::read(block));
        let high = u16::from_le_bytes([block[2], block[3]]);
        for j in 0..8 {
            let low = block[4 + j / 2] >> (j % 2 * 4) & 15;
            scales.scales[j] = f32::from(low | ((high >> (2 * j) & 3) as u8) << 4) - BIAS;
        }
        scales
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        for (bytes, codes) in block[8..].as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<SUB>().0) {
            block32::read_nibbles(bytes, codes);
            for code in codes {
                *code = CODES[usize::from(*code & 15)];
            }
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        let (mut high, mut low) = (0u16, [0u8; 4]);
        for j in 0..8 {
            let scale = (scales.scales[j] + BIAS) as u8;
            high |= u16::from(scale >> 4) << (2 * j);
            low[j / 2] |= (scale & 15) << (j % 2 * 4);
        }
        f16::write(scales.d, block);
        block[2..4].copy_from_slice(&high.to_le_bytes());
        block[4..8].copy_from_slice(&low);
        for (bytes, codes) in block[8..].as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<SUB>().0) {
            block32::write_nibbles(&codes.map(|code| NIBBLES[usize::from(code)]), bytes);
        }
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(by_weight::<MAX_BLOCK>(normalize(importance)?, SUB))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        k_symmetric::quantize::<Self, S, SUB>(simd, rows, columns, out);
    }
}

impl KSymmetric for Iq4Xs {
    const SMALLEST_SCALE: f32 = -32.0;
    const EXTREME_LEVELS: &'static [f32] =
        &[127.0, 122.5, 131.5, 118.0, 136.0, 113.5, 141.0, 109.0, -113.0, -108.0, -118.5, -103.0];
    const SCALE_CANDIDATES: &'static [f32] = &[32.0, 31.5, 31.0, 30.5, 30.0];
}
