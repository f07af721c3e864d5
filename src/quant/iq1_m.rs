//! IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight. See [`iq1`] for what the parts mean.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..32 | low eight bits of the points |
//! | 32..48 | a nibble for each point: its high three bits and the sign of the shift |
//! | 48..56 | four words of 16 bits, each with four scales for 16 weights, from the low bits up; the high nibbles of the four words are `d`, f16 |

use super::format::Decoding;
use super::iq1;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Iq1M;

impl Decoding for Iq1M {
    const TYPE: GgmlType = GgmlType::IQ1_M;

    #[inline(always)]
    fn dequantize<S: Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
        const BYTES: usize = GgmlType::IQ1_M.block_bytes();
        const BLOCK: usize = GgmlType::IQ1_M.block_len();
        for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(BLOCK)) {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(block[48..56].as_chunks::<2>().0) {
                *word = u16::from_le_bytes(*bytes);
            }
            let d = (0..4).fold(0, |d, i| d | words[i] >> 12 << (4 * i));
            let d = f16::decode(d);
            for (i, out) in out.as_chunks_mut::<{ iq1::GROUP }>().0.iter_mut().enumerate() {
                let nibble = block[32 + i / 2] >> (i % 2 * 4);
                let point = u16::from(block[i]) | u16::from(nibble & 7) << 8;
                iq1::group(d, words[i / 8] >> (i % 8 / 2 * 3) & 7, point, nibble >> 3 & 1 == 1, out);
            }
        }
    }
}
