//! Dequantisers of the K-quants as loops over bytes of known number, which the compiler turns into
//! vectors: they give the bits of the scalar references in `q4_k`, `q5_k` and `q6_k`.

use crate::dtype::QK_K;
use crate::quant::simd_basic::{self, Kernel};
use crate::quant::{f16, q4_k, q5_k, q6_k, search};
use crate::simd_level::Level;

/// Weights of a sub-block of Q4_K and Q5_K.
const SUB: usize = search::SUB;

/// A block type, and how one of its blocks is read.
pub(in crate::quant) trait Blocks {
    const BYTES: usize;
    /// `#[inline(always)]`; see [`Kernel`].
    fn read(block: &[u8], out: &mut [f32; QK_K]);
}

/// Writes the weights of whole blocks to `out`, with the instructions of `level`.
pub(in crate::quant) fn rows<B: Blocks>(level: Level, bytes: &[u8], out: &mut [f32]) {
    assert!(out.len().is_multiple_of(QK_K) && bytes.len() == out.len() / QK_K * B::BYTES, "whole blocks");
    simd_basic::run(level, Read::<B> { bytes, out, blocks: std::marker::PhantomData });
}

struct Read<'a, B> {
    bytes: &'a [u8],
    out: &'a mut [f32],
    blocks: std::marker::PhantomData<B>,
}

impl<B: Blocks> Kernel for Read<'_, B> {
    #[inline(always)]
    fn run(self) {
        let blocks = self.bytes.chunks_exact(B::BYTES).zip(self.out.as_chunks_mut::<QK_K>().0);
        for (block, out) in blocks {
            B::read(block, out);
        }
    }
}

#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::decode(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Steps and offsets of the eight sub-blocks of Q4_K or Q5_K.
#[inline(always)]
fn affine(block: &[u8]) -> [(f32, f32); QK_K / SUB] {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let packed = block[4..16].try_into().expect("12 bytes");
    let (scales, mins) = search::unpack_scales(packed);
    let mut out = [(0.0, 0.0); QK_K / SUB];
    for j in 0..out.len() {
        out[j] = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
    }
    out
}

pub(in crate::quant) struct Q4K;

impl Blocks for Q4K {
    const BYTES: usize = q4_k::BYTES;

    #[inline(always)]
    fn read(block: &[u8], out: &mut [f32; QK_K]) {
        let steps = affine(block);
        let codes = block[16..].as_chunks::<SUB>().0;
        for (c, out) in out.as_chunks_mut::<{ 2 * SUB }>().0.iter_mut().enumerate() {
            let codes = &codes[c];
            let (step, offset) = steps[2 * c];
            for l in 0..SUB {
                out[l] = step * f32::from(codes[l] & 15) - offset;
            }
            let (step, offset) = steps[2 * c + 1];
            for l in 0..SUB {
                out[SUB + l] = step * f32::from(codes[l] >> 4) - offset;
            }
        }
    }
}

pub(in crate::quant) struct Q5K;

impl Blocks for Q5K {
    const BYTES: usize = q5_k::BYTES;

    #[inline(always)]
    fn read(block: &[u8], out: &mut [f32; QK_K]) {
        let steps = affine(block);
        let high: &[u8; SUB] = block[16..48].try_into().expect("32 bytes");
        let codes = block[48..].as_chunks::<SUB>().0;
        for (j, out) in out.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
            let ((step, offset), codes) = (steps[j], &codes[j / 2]);
            let shift = j % 2 * 4;
            for l in 0..SUB {
                let code = codes[l] >> shift & 15 | (high[l] >> j & 1) << 4;
                out[l] = step * f32::from(code) - offset;
            }
        }
    }
}

pub(in crate::quant) struct Q6K;

impl Blocks for Q6K {
    const BYTES: usize = q6_k::BYTES;

    #[inline(always)]
    fn read(block: &[u8], out: &mut [f32; QK_K]) {
        let d = half_at(block, 208);
        // Runs of 32 weights: four to each half, which has 64 bytes of low and 32 of high bits.
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, part) = (j / 4, j % 4);
            let low: &[u8; 32] = block[64 * half + part % 2 * 32..][..32].try_into().expect("32 bytes");
            let high: &[u8; 32] = block[128 + 32 * half..][..32].try_into().expect("32 bytes");
            let (low_shift, high_shift) = (part / 2 * 4, part * 2);
            let step = |k: usize| d * f32::from(block[192 + 2 * j + k] as i8);
            let steps = [step(0), step(1)];
            let mut codes = [0; 32];
            for l in 0..32 {
                codes[l] = low[l] >> low_shift & 15 | (high[l] >> high_shift & 3) << 4;
            }
            for l in 0..32 {
                out[l] = steps[l / 16] * (f32::from(codes[l]) - 32.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simd_level::available;

    type Reference = fn(&[u8], &mut [f32]);

    fn agree<B: Blocks>(bytes: &[u8], reference: Reference) -> Result<(), TestCaseError> {
        let blocks = bytes.len() / B::BYTES;
        let bytes = &bytes[..blocks * B::BYTES];
        let mut expected = vec![f32::NAN; blocks * QK_K];
        reference(bytes, &mut expected);
        for level in available() {
            let mut out = vec![f32::NAN; expected.len()];
            rows::<B>(level, bytes, &mut out);
            let same = out
                .iter()
                .zip(&expected)
                .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
            prop_assert!(same, "{level:?}");
        }
        Ok(())
    }

    proptest! {
        /// Any bytes: also infinite and subnormal scales, and those that are not numbers.
        #[test]
        fn every_level_gives_the_bits_of_the_reference(bytes in prop::collection::vec(any::<u8>(), 640)) {
            agree::<Q4K>(&bytes, q4_k::dequantize_row)?;
            agree::<Q5K>(&bytes, q5_k::dequantize_row)?;
            agree::<Q6K>(&bytes, q6_k::dequantize_row)?;
        }
    }

    /// How fast, on this machine: `cargo test --release -- --ignored dequant --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn dequant_speed() {
        fn time(name: &str, bytes: usize, run: impl Fn(&[u8], &mut [f32])) {
            let blocks: Vec<u8> = (0..bytes * 32).map(|i| (i * 7 % 61) as u8).collect();
            let mut out = vec![0.0; 32 * QK_K];
            let best = (0..200)
                .map(|_| {
                    let start = std::time::Instant::now();
                    run(&blocks, &mut out);
                    start.elapsed().as_secs_f64()
                })
                .fold(f64::INFINITY, f64::min);
            println!("{name}: {:.3} ns per weight", best * 1e9 / out.len() as f64);
        }
        time("Q4_K reference", q4_k::BYTES, q4_k::dequantize_row);
        time("Q5_K reference", q5_k::BYTES, q5_k::dequantize_row);
        time("Q6_K reference", q6_k::BYTES, q6_k::dequantize_row);
        for level in available() {
            time(&format!("Q4_K {}", level.name()), q4_k::BYTES, |b, o| rows::<Q4K>(level, b, o));
            time(&format!("Q5_K {}", level.name()), q5_k::BYTES, |b, o| rows::<Q5K>(level, b, o));
            time(&format!("Q6_K {}", level.name()), q6_k::BYTES, |b, o| rows::<Q6K>(level, b, o));
        }
    }
}
