//! Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight.
//!
//! A block has sixteen sub-blocks of 16 weights. A weight is `d * scale * (q - 32)` with a signed byte `scale` and a code
//! `q` of 6 bits.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..128 | low four bits: in each half of 128 weights, byte `l` of 64 holds weight `l` and, in its high half, `l + 64` |
//! | 128..192 | high two bits: in each half, byte `l` of 32 holds those of `l`, `l + 32`, `l + 64` and `l + 96` |
//! | 192..208 | sixteen signed scales |
//! | 208..210 | `d`, f16 |

use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::k_symmetric::{self, KSymmetric};
use super::weighting::{Columns, by_weight, normalize};
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// Weights in a sub-block.
const SUB: usize = 16;
/// Half the number of codes: the code of level 0.
const HALF: f32 = 32.0;

/// The format.
pub struct Q6K;

impl BlockFormat for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    /// The largest magnitude that `d`, a scale of 127 and a level of 31 can express.
    const MAX_ABS: f32 = f16::MAX * 127.0 * 31.0;
    const SUB: usize = SUB;
    const LEVELS: (f32, f32) = (-HALF, HALF - 1.0);
    const SCALES: Option<(f32, f32)> = Some((-128.0, 127.0));
    const MINS: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        let mut scales = Scales::one(f16::read(&block[208..]));
        let bytes: &[u8; SUB] = block[192..].first_chunk().expect("16 bytes of scales");
        scales.scales.iter_mut().zip(bytes).for_each(|(scale, &byte)| *scale = f32::from(byte as i8));
        scales
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        // Runs of 32 weights: four to each half, which has 64 bytes of low and 32 of high bits.
        for (j, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, part) = (j / 4, j % 4);
            let low: &[u8; 32] = block[64 * half + part % 2 * 32..].first_chunk().expect("low bits");
            let high: &[u8; 32] = block[128 + 32 * half..].first_chunk().expect("high bits");
            let (low_shift, high_shift) = (part / 2 * 4, part * 2);
            for l in 0..32 {
                codes[l] = low[l] >> low_shift & 15 | (high[l] >> high_shift & 3) << 4;
            }
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        for (half, q) in codes.as_chunks::<128>().0.iter().enumerate() {
            let low: &mut [u8; 64] = block[64 * half..].first_chunk_mut().expect("low bits");
            for l in 0..64 {
                low[l] = (q[l] & 15) | (q[l + 64] & 15) << 4;
            }
            let high: &mut [u8; 32] = block[128 + 32 * half..].first_chunk_mut().expect("high bits");
            for l in 0..32 {
                high[l] = q[l] >> 4 | (q[l + 32] >> 4) << 2 | (q[l + 64] >> 4) << 4 | (q[l + 96] >> 4) << 6;
            }
        }
        for (out, &scale) in block[192..208].iter_mut().zip(&scales.scales) {
            *out = scale as i8 as u8;
        }
        f16::write(scales.d, &mut block[208..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(by_weight::<MAX_BLOCK>(normalize(importance)?, SUB))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        k_symmetric::quantize::<Self, S, SUB>(simd, rows, columns, out);
    }
}

impl KSymmetric for Q6K {
    const SMALLEST_SCALE: f32 = -128.0;
    const EXTREME_LEVELS: &'static [f32] = &[32.0, 31.5, 31.0, 30.5, 30.0, 32.5];
    const SCALE_CANDIDATES: &'static [f32] = &[128.0, 126.3, 124.7, 123.1];
}
