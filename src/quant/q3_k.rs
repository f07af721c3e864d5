//! Q3_K: 256 weights in 110 bytes, 3.4375 bits per weight.
//!
//! A block has sixteen sub-blocks of 16 weights. A weight is `d * (scale - 32) * (q - 4)` with a scale of 6 bits and a code
//! `q` of 3 bits.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..32 | third bits of the codes: bit `j` of byte `l` belongs to weight `32 j + l` |
//! | 32..96 | low two bits of the codes, see [`two_bits`] |
//! | 96..104 | low four bits of the scales: byte `j` holds those of the scales `j` and `j + 8` |
//! | 104..108 | high two bits: byte `j` holds those of the scales `j`, `j + 4`, `j + 8` and `j + 12` |
//! | 108..110 | `d`, f16 |

use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::k_symmetric::{self, KSymmetric};
use super::two_bits;
use super::weighting::{Columns, by_weight, normalize};
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// Weights in a sub-block.
const SUB: usize = 16;
/// What a stored scale is above the scale.
const BIAS: f32 = 32.0;

/// The format.
pub struct Q3K;

impl BlockFormat for Q3K {
    const TYPE: GgmlType = GgmlType::Q3_K;
    /// The largest magnitude that `d`, a scale of 31 and a level of 3 can express.
    const MAX_ABS: f32 = f16::MAX * 31.0 * 3.0;
    const SUB: usize = SUB;
    const LEVELS: (f32, f32) = (-4.0, 3.0);
    const SCALES: Option<(f32, f32)> = Some((-32.0, 31.0));
    const MINS: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        let mut scales = Scales::one(f16::read(&block[108..]));
        let bytes: &[u8; 12] = block[96..].first_chunk().expect("12 bytes of scales");
        for (j, scale) in scales.scales.iter_mut().enumerate() {
            let low = bytes[j % 8] >> (j / 8 * 4) & 15;
            let high = bytes[8 + j % 4] >> (j / 4 * 2) & 3;
            *scale = f32::from(low | high << 4) - BIAS;
        }
        scales
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        two_bits::read(&block[32..96], codes);
        let third: &[u8; 32] = block.first_chunk().expect("32 bytes of third bits");
        for (j, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for l in 0..32 {
                codes[l] |= (third[l] >> j & 1) << 2;
            }
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        let codes: &[u8; MAX_BLOCK] = codes.first_chunk().expect("256 codes");
        let third: &mut [u8; 32] = block.first_chunk_mut().expect("32 bytes of third bits");
        for l in 0..32 {
            let bit = |j: usize| (codes[32 * j + l] >> 2 & 1) << j;
            third[l] = bit(0) | bit(1) | bit(2) | bit(3) | bit(4) | bit(5) | bit(6) | bit(7);
        }
        two_bits::write(codes, &mut block[32..96]);
        let mut stored = [0; SUB];
        stored.iter_mut().zip(&scales.scales).for_each(|(to, scale)| *to = (scale + BIAS) as u8);
        let out: &mut [u8; 12] = block[96..].first_chunk_mut().expect("12 bytes of scales");
        for j in 0..8 {
            out[j] = (stored[j] & 15) | stored[j + 8] << 4;
        }
        for j in 0..4 {
            let high = |k: usize| (stored[j + 4 * k] >> 4) << (2 * k);
            out[8 + j] = high(0) | high(1) | high(2) | high(3);
        }
        f16::write(scales.d, &mut block[108..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(by_weight::<MAX_BLOCK>(normalize(importance)?, SUB))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        k_symmetric::quantize::<Self, S, SUB>(simd, rows, columns, out);
    }
}

impl KSymmetric for Q3K {
    const SMALLEST_SCALE: f32 = -32.0;
    const EXTREME_LEVELS: &'static [f32] = &[4.15, 3.25, 3.85, 4.6, 3.0];
    const MORE_EXTREME_LEVELS: &'static [f32] =
        &[4.0, 3.7, 3.55, 3.4, 3.1, 2.8, 2.5, 4.3, 4.45, 4.8, 5.0, 5.4, -3.0, -3.3, -3.6, -2.7, -2.4];
    const SCALE_CANDIDATES: &'static [f32] = &[32.0, 31.4, 30.8, 30.2];
}
