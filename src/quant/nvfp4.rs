//! NVFP4: 64 weights in 36 bytes, 4.5 bits per weight. Blocks are read and kept, not searched.
//!
//! Layout: four scales, one for each 16 weights, then for each scale 8 bytes of nibbles: the low nibbles are its first 8
//! weights, the high nibbles its last 8. A scale is a number of 4 exponent and 3 fraction bits without a sign, and a weight
//! is half of the scale times one of the levels of [`mxfp4`]. A GGUF has one more scale for the whole tensor, in a tensor
//! of its own.

use super::format::Decoding;
use super::mxfp4;
use crate::dtype::GgmlType;
use crate::simd::Simd;

/// Weights that share a scale.
pub const SUB: usize = 16;
/// Scales of a block.
const SUBS: usize = GgmlType::NVFP4.block_len() / SUB;

/// The format.
pub struct Nvfp4;

/// Returns half of the value of a scale. The byte 0x7F, which is NaN in the format of 8 bits, is 0, as in ggml.
#[inline(always)]
const fn half_scale(byte: u8) -> f32 {
    let magnitude = byte & 0x7F;
    if byte == 0x7F {
        return 0.0;
    }
    // The bias of the exponent is 7, and one more halves the value.
    let (exponent, fraction) = ((magnitude >> 3) as u32, (magnitude & 7) as u32);
    if exponent == 0 {
        return fraction as f32 / 1024.0;
    }
    f32::from_bits((exponent + 127 - 8) << 23 | fraction << 20)
}

impl Decoding for Nvfp4 {
    const TYPE: GgmlType = GgmlType::NVFP4;

    #[inline(always)]
    fn dequantize<S: Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
        const BYTES: usize = GgmlType::NVFP4.block_bytes();
        const BLOCK: usize = GgmlType::NVFP4.block_len();
        for (block, out) in bytes.chunks_exact(BYTES).zip(out.chunks_exact_mut(BLOCK)) {
            let (scales, nibbles) = block.split_at(SUBS);
            let subs = nibbles.as_chunks::<{ SUB / 2 }>().0.iter().zip(out.as_chunks_mut::<SUB>().0);
            for (&scale, (nibbles, out)) in scales.iter().zip(subs) {
                let d = half_scale(scale);
                let (low, high) = out.split_at_mut(SUB / 2);
                for ((low, high), byte) in low.iter_mut().zip(high).zip(nibbles) {
                    *low = mxfp4::level(byte & 15) * d;
                    *high = mxfp4::level(byte >> 4) * d;
                }
            }
        }
    }
}
