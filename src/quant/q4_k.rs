//! Q4_K: 256 weights in 144 bytes, 4.5 bits per weight.
//!
//! A block has eight sub-blocks of 32 weights. A weight is `d * scale * q - dmin * min` with a code `q` of 4 bits.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..4 | `dmin`, f16 |
//! | 4..16 | eight scales and eight mins of 6 bits, see [`k_affine::read_scales`] |
//! | 16..144 | codes, see [`k_affine::read_low_bits`] |

use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::k_affine::{self, KAffine};
use super::weighting::{Columns, by_weight, normalize};
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Q4K;

impl BlockFormat for Q4K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    /// The largest magnitude that a min can express.
    const MAX_ABS: f32 = f16::MAX * k_affine::MAX_SCALE;
    const SUB: usize = k_affine::SUB;
    const LEVELS: (f32, f32) = (0.0, 15.0);
    const SCALES: Option<(f32, f32)> = Some((0.0, k_affine::MAX_SCALE));
    const MINS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        k_affine::read_scales(block)
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        k_affine::read_low_bits(&block[16..Self::BYTES], codes);
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        k_affine::write_scales(scales, block);
        k_affine::write_low_bits(codes, &mut block[16..Self::BYTES]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(by_weight::<MAX_BLOCK>(normalize(importance)?, Self::SUB))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        k_affine::quantize::<Self, S, { k_affine::SUB }>(simd, rows, columns, out);
    }
}

impl KAffine for Q4K {
    const MAX_SCALE: f32 = k_affine::MAX_SCALE;
    const SCALE_CANDIDATES: &'static [f32] = k_affine::SIX_BIT_CANDIDATES;
    const SPREAD: f32 = 2.0;
    const CANDIDATES: &'static [(f32, f32)] =
        &[(0.0, 0.0), (-0.4, 0.0), (-0.8, 0.0), (-1.2, 0.0), (0.4, 0.0), (0.8, 0.0), (0.3, -0.5)];
}
