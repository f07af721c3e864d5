//! Q1_0: 128 weights in 18 bytes, 1.125 bits per weight. Blocks are read, not written.
//!
//! Layout: `d`, f16, then one bit for each weight from the lowest bit up. A weight is `d` where its bit is set, else `-d`.

use super::format::Decoding;
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// The format.
pub struct Q10;

impl Decoding for Q10 {
    const TYPE: GgmlType = GgmlType::Q1_0;

    #[inline(always)]
    fn dequantize<S: Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
        const BYTES: usize = GgmlType::Q1_0.block_bytes();
        const BLOCK: usize = GgmlType::Q1_0.block_len();
        for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(BLOCK)) {
            let d = f16::read(block);
            for (out, &bits) in out.as_chunks_mut::<8>().0.iter_mut().zip(&block[2..]) {
                for (i, w) in out.iter_mut().enumerate() {
                    *w = if bits >> i & 1 == 1 { d } else { -d };
                }
            }
        }
    }
}
