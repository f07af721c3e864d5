//! Q2_K: 256 weights in 84 bytes, 2.625 bits per weight.
//!
//! A block has sixteen sub-blocks of 16 weights. A weight is `d * scale * q - dmin * min` with a code `q` of 2 bits.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..16 | sixteen bytes: a scale in the low and a min in the high four bits |
//! | 16..80 | codes, see [`two_bits`] |
//! | 80..82 | `d`, f16 |
//! | 82..84 | `dmin`, f16 |

use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::k_affine::{self, KAffine};
use super::two_bits;
use super::weighting::{Columns, by_weight, normalize};
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// Weights in a sub-block.
const SUB: usize = 16;
/// The largest 4-bit scale or min.
const MAX_SCALE: f32 = 15.0;

/// The format.
pub struct Q2K;

impl BlockFormat for Q2K {
    const TYPE: GgmlType = GgmlType::Q2_K;
    /// The largest magnitude that a min can express.
    const MAX_ABS: f32 = f16::MAX * MAX_SCALE;
    const SUB: usize = SUB;
    const LEVELS: (f32, f32) = (0.0, 3.0);
    const SCALES: Option<(f32, f32)> = Some((0.0, MAX_SCALE));
    const MINS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        let mut scales =
            Scales { d: f16::read(&block[80..]), dmin: f16::read(&block[82..]), ..Scales::one(0.0) };
        for (j, byte) in block[..SUB].iter().enumerate() {
            scales.scales[j] = f32::from(byte & 15);
            scales.mins[j] = f32::from(byte >> 4);
        }
        scales
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        two_bits::read(&block[16..80], codes);
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        for (j, byte) in block[..SUB].iter_mut().enumerate() {
            *byte = scales.scales[j] as u8 | (scales.mins[j] as u8) << 4;
        }
        two_bits::write(codes, &mut block[16..80]);
        f16::write(scales.d, &mut block[80..]);
        f16::write(scales.dmin, &mut block[82..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(by_weight::<MAX_BLOCK>(normalize(importance)?, SUB))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        k_affine::quantize::<Self, S, SUB>(simd, rows, columns, out);
    }
}

impl KAffine for Q2K {
    const MAX_SCALE: f32 = MAX_SCALE;
    const SCALE_CANDIDATES: &'static [f32] = &[15.0, 14.6, 14.2, 13.8, 13.4, 15.4, 15.8];
    const SPREAD: f32 = 1.0;
    const CANDIDATES: &'static [(f32, f32)] = &[
        (0.0, 0.0),
        (-0.3, 0.0),
        (-0.6, 0.0),
        (-0.9, 0.0),
        (0.3, 0.0),
        (0.6, 0.0),
        (0.3, -0.15),
        (0.6, -0.3),
        (0.9, -0.45),
        (1.2, -0.6),
        (0.4, -0.4),
        (0.8, -0.7),
    ];
    const MORE_CANDIDATES: &'static [(f32, f32)] = &[
        (-1.05, 0.0),
        (-0.75, 0.0),
        (-0.45, 0.0),
        (-0.15, 0.0),
        (0.15, 0.0),
        (0.45, 0.0),
        (0.75, 0.0),
        (0.9, 0.0),
        (1.1, 0.0),
        (1.4, 0.0),
        (-1.3, 0.0),
        (-0.3, 0.15),
        (0.5, -0.25),
        (0.2, -0.35),
        (0.7, -0.5),
    ];
}
