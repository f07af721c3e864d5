//! Q2_0: 64 weights in 18 bytes, 2.25 bits per weight. Blocks are read, not written.
//!
//! Layout: `d`, f16, then two bits for each weight from the lowest bits up. A weight is `(code - 1) * d`: one of
//! `-d`, 0, `d` and `2 d`.

use super::format::Decoding;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Q20;

impl Decoding for Q20 {
    const TYPE: GgmlType = GgmlType::Q2_0;

    #[inline(always)]
    fn dequantize<S: Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
        const BYTES: usize = GgmlType::Q2_0.block_bytes();
        const BLOCK: usize = GgmlType::Q2_0.block_len();
        for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(BLOCK)) {
            let d = f16::read(block);
            for (out, &codes) in out.as_chunks_mut::<4>().0.iter_mut().zip(&block[2..]) {
                for (i, w) in out.iter_mut().enumerate() {
                    *w = (f32::from(codes >> (2 * i) & 3) - 1.0) * d;
                }
            }
        }
    }
}
