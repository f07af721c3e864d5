//! IQ1_S: 256 weights in 50 bytes, 1.5625 bits per weight. See [`iq1`] for what the parts mean.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..34 | low eight bits of the points |
//! | 34..50 | a word of 16 bits for each 32 weights: four times the high three bits of a point, the scale, the sign of the shift |

use super::format::Decoding;
use super::iq1;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Iq1S;

impl Decoding for Iq1S {
    const TYPE: GgmlType = GgmlType::IQ1_S;

    #[inline(always)]
    fn dequantize<S: Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
        const BYTES: usize = GgmlType::IQ1_S.block_bytes();
        const BLOCK: usize = GgmlType::IQ1_S.block_len();
        for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(BLOCK)) {
            let d = f16::read(block);
            for (i, out) in out.as_chunks_mut::<{ iq1::GROUP }>().0.iter_mut().enumerate() {
                let at = 34 + i / 4 * 2;
                let word = u16::from_le_bytes([block[at], block[at + 1]]);
                let point = u16::from(block[2 + i]) | (word >> (i % 4 * 3) & 7) << 8;
                iq1::group(d, word >> 12 & 7, point, word >> 15 == 1, out);
            }
        }
    }
}
