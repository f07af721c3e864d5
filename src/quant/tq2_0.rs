//! TQ2_0: 256 weights in 66 bytes, 2.0625 bits per weight, for models that were trained with ternary weights.
//!
//! Layout: codes of two bits, see [`two_bits`], then the scale, an f16. A weight is `scale * (code - 1)`.

use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::{Columns, normalize};
use super::{ternary, two_bits};
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Tq20;

impl BlockFormat for Tq20 {
    const TYPE: GgmlType = GgmlType::TQ2_0;
    const MAX_ABS: f32 = f16::MAX;
    const SUB: usize = MAX_BLOCK;
    const LEVELS: (f32, f32) = (-1.0, 1.0);
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;
    const FEEDBACK: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::one(f16::read(&block[64..]))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        two_bits::read(&block[..64], codes);
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        two_bits::write(codes, &mut block[..64]);
        f16::write(scales.d, &mut block[64..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        normalize(importance)
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        ternary::quantize::<Self, S>(simd, rows, columns, out);
    }
}
