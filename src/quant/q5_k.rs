//! Q5_K: 256 weights in 176 bytes, 5.5 bits per weight.
//!
//! A block has eight sub-blocks of 32 weights. A weight is `d * scale * q - dmin * min` with a code `q` of 5 bits.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..4 | `dmin`, f16 |
//! | 4..16 | eight scales and eight mins of 6 bits, see [`k_affine::read_scales`] |
//! | 16..48 | fifth bits of the codes: bit `j` of byte `l` belongs to weight `32 j + l` |
//! | 48..176 | low four bits of the codes, see [`k_affine::read_low_bits`] |

use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::k_affine::{self, KAffine, SUB};
use super::weighting::{Columns, by_weight, normalize};
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Q5K;

impl BlockFormat for Q5K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    /// The largest magnitude that a min can express.
    const MAX_ABS: f32 = f16::MAX * k_affine::MAX_SCALE;
    const SUB: usize = SUB;
    const LEVELS: (f32, f32) = (0.0, 31.0);
    const SCALES: Option<(f32, f32)> = Some((0.0, k_affine::MAX_SCALE));
    const MINS: bool = true;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        k_affine::read_scales(block)
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        k_affine::read_low_bits(&block[48..Self::BYTES], codes);
        let fifth: &[u8; SUB] = block[16..].first_chunk().expect("32 bytes of fifth bits");
        for (j, codes) in codes.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
            for l in 0..SUB {
                codes[l] |= (fifth[l] >> j & 1) << 4;
            }
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        k_affine::write_scales(scales, block);
        // Four codes a word: there are no shifts of bytes.
        let mut fifth = [0u32; SUB / 4];
        for (j, codes) in codes.as_chunks::<SUB>().0.iter().enumerate() {
            for (bits, codes) in fifth.iter_mut().zip(codes.as_chunks::<4>().0) {
                *bits |= (u32::from_le_bytes(*codes) >> 4 & 0x0101_0101) << j;
            }
        }
        for (out, bits) in block[16..48].as_chunks_mut::<4>().0.iter_mut().zip(fifth) {
            *out = bits.to_le_bytes();
        }
        k_affine::write_low_bits(codes, &mut block[48..Self::BYTES]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(by_weight::<MAX_BLOCK>(normalize(importance)?, Self::SUB))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        k_affine::quantize::<Self, S, SUB>(simd, rows, columns, out);
    }
}

impl KAffine for Q5K {
    const MAX_SCALE: f32 = k_affine::MAX_SCALE;
    const SCALE_CANDIDATES: &'static [f32] = k_affine::SIX_BIT_CANDIDATES;
    const SPREAD: f32 = 2.0;
    const CANDIDATES: &'static [(f32, f32)] = &[(0.0, 0.0), (-0.8, 0.0), (-1.6, 0.0), (0.3, -0.5)];
}
