//! The traits of the encodings of a tensor, and what all block formats share.
//!
//! ```
//! use srd_rs::quant::format::Scales;
//!
//! // A block of Q4_1 with the scale 0.5 and the offset -3: its code 4 stands for -1.
//! let scales = Scales::with_offset(0.5, -3.0);
//! assert_eq!((scales.d * scales.scales[0]) * 4.0 - scales.dmin * scales.mins[0], -1.0);
//! ```

use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, Vector};

/// What is needed to read a type. Every [`Encoding`] can be read; a type that is only read implements this trait alone.
pub trait Decoding {
    /// The type, which names the encoding and gives the weights and the bytes of a block.
    const TYPE: GgmlType;

    /// Reads whole blocks, in ggml's order of operations, so that the bits are ggml's.
    fn dequantize<S: Simd>(simd: S, bytes: &[u8], out: &mut [f32]);
}

impl<F: Encoding> Decoding for F {
    const TYPE: GgmlType = <F as Encoding>::TYPE;

    #[inline(always)]
    fn dequantize<S: Simd>(simd: S, bytes: &[u8], out: &mut [f32]) {
        <F as Encoding>::dequantize(simd, bytes, out);
    }
}

/// An encoding of weights as bytes: a plain number type or a block format.
///
/// The functions are compiled once per instruction set, see [`dispatch!`](crate::simd::dispatch), and must be
/// `#[inline(always)]`.
pub trait Encoding {
    /// The type, which names the encoding and gives the weights and the bytes of a block.
    const TYPE: GgmlType;
    /// The largest `|w|` for which the scales of a block, or the weight itself, are sure to stay finite.
    const MAX_ABS: f32;

    /// Prepares the importances of columns for [`Encoding::quantize`]; see [`Weighting`](super::Weighting). Returns
    /// `None` if the encoding has no use for them or if they say nothing.
    fn weights(_importance: &[f32]) -> Option<Vec<f32>> {
        None
    }

    /// Writes whole blocks. `columns` holds the weights of the columns of a row; rows follow one after another.
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]);

    /// Whether [`Encoding::steps`] knows the steps of the type.
    const HAS_STEPS: bool = false;

    /// Writes the mean distance of neighboring values, for each 32 weights of whole blocks: the unit of the residual plane.
    fn steps(_blocks: &[u8], _out: &mut [f32]) {
        unreachable!("a type without steps carries no residual")
    }

    /// Reads whole blocks, in ggml's order of operations, so that the bits are ggml's.
    fn dequantize<S: Simd>(simd: S, bytes: &[u8], out: &mut [f32]);
}

/// The number of weights that one step of [`Encoding::steps`] belongs to.
pub const RUN: usize = 32;
/// The largest number of sub-blocks in a block.
pub const MAX_SUBS: usize = 16;
/// The largest number of weights in a block.
pub const MAX_BLOCK: usize = 256;

/// The scales of a block: a weight of sub-block `i` is `(d * scales[i]) * level - dmin * mins[i]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// The scale of the block, an f16.
    pub d: f32,
    /// The scale of the mins, an f16; 0 in a format without mins. In a format with one scale it is the negative of the
    /// stored offset.
    pub dmin: f32,
    /// Integers within [`BlockFormat::SCALES`]; 1 in a format with one scale.
    pub scales: [f32; MAX_SUBS],
    /// Integers within [`BlockFormat::SCALES`]; 1 in a format with one scale and an offset, 0 without mins.
    pub mins: [f32; MAX_SUBS],
}

impl Scales {
    /// Returns the scales of a format with one scale per block.
    #[inline(always)]
    pub fn one(d: f32) -> Self {
        Self { d, dmin: 0.0, scales: [1.0; MAX_SUBS], mins: [0.0; MAX_SUBS] }
    }

    /// Returns the scales of a format with one scale and one offset per block.
    #[inline(always)]
    pub fn with_offset(d: f32, offset: f32) -> Self {
        Self { d, dmin: -offset, scales: [1.0; MAX_SUBS], mins: [1.0; MAX_SUBS] }
    }
}

/// A block format of ggml. One file of `quant/` implements the trait, and one line of the registry adds the format; the
/// rest of the crate is generic over the trait.
///
/// A block holds scales and one code per weight. A code stands for a level, and a weight is
/// `(d * scale) * level - dmin * min` with the scales of its sub-block.
pub trait BlockFormat {
    /// The type, which names the format.
    const TYPE: GgmlType;
    /// See [`Encoding::MAX_ABS`].
    const MAX_ABS: f32;
    /// Weights in a block.
    const BLOCK: usize = Self::TYPE.block_len();
    /// Bytes of a block.
    const BYTES: usize = Self::TYPE.block_bytes();
    /// Weights in a sub-block, which share one scale.
    const SUB: usize;
    /// The lowest and the highest level.
    const LEVELS: (f32, f32);
    /// The code of level 0. A code is a level plus this number: a byte as [`BlockFormat::codes`] and [`BlockFormat::pack`]
    /// exchange them with the rest of the crate, whatever bits a block stores.
    const ZERO: f32 = -Self::LEVELS.0;
    /// The levels in ascending order, in a format whose levels are not consecutive integers. Empty in the others.
    const TABLE: &'static [f32] = &[];
    /// The mean distance of neighboring levels.
    const STEP: f32 = 1.0;
    /// The smallest and the largest integer scale. `None` in a format whose block has one f16 scale and no others.
    const SCALES: Option<(f32, f32)>;
    /// Whether sub-blocks have a min (an offset).
    const MINS: bool;
    /// Whether the scale of a block may be any f16. Where it may not, coordinate descent leaves the scale as it is.
    const SCALE_IS_F16: bool = true;
    /// Whether residual feedback can quantize to the format.
    const FEEDBACK: bool = true;

    /// Reads the scales of a block.
    fn scales(block: &[u8]) -> Scales;

    /// Reads the codes of a block into the first [`BlockFormat::BLOCK`] values of `codes`.
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]);

    /// Writes a block. `codes` holds [`BlockFormat::BLOCK`] codes.
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]);

    /// Prepares importances; see [`Encoding::weights`].
    fn weights(importance: &[f32]) -> Option<Vec<f32>>;

    /// Searches scales and codes and writes whole blocks; see [`Encoding::quantize`].
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]);

    /// Returns the code of a level.
    #[inline(always)]
    fn code(level: f32) -> u8 {
        (level + Self::ZERO) as u8
    }

    /// Returns the level nearest to `t`; the lowest one for a NaN.
    #[inline(always)]
    fn nearest<V: Vector>(v: V, t: V::F) -> V::F {
        nearest_level(v, t, Self::LEVELS, Self::TABLE)
    }
}

/// Returns the level nearest to `t`, ties to even, or of two levels of a table the lower one. A NaN gives the lowest level.
/// See [`BlockFormat::LEVELS`] and [`BlockFormat::TABLE`].
#[inline(always)]
pub fn nearest_level<V: Vector>(v: V, t: V::F, levels: (f32, f32), table: &[f32]) -> V::F {
    if table.is_empty() {
        return v.round_ties_even(v.min_bits(v.max(t, v.splat(levels.0)), v.splat(levels.1)));
    }
    let mut level = v.splat(levels.0);
    for pair in table.windows(2) {
        let middle = v.splat((pair[0] + pair[1]) * 0.5);
        level = v.select(v.gt(t, middle), v.splat(pair[1]), level);
    }
    level
}

impl<F: BlockFormat> Encoding for F {
    const TYPE: GgmlType = F::TYPE;
    const MAX_ABS: f32 = F::MAX_ABS;

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        F::weights(importance)
    }

    const HAS_STEPS: bool = true;

    /// The step is `|d * scale|` times the mean distance of levels. Where that is 0 in a format with integer scales, the
    /// step is `|d|`, and where that is 0 too, `|dmin|`.
    #[inline(always)]
    fn steps(blocks: &[u8], out: &mut [f32]) {
        for (block, out) in blocks.chunks_exact(F::BYTES).zip(out.chunks_exact_mut(F::BLOCK / RUN)) {
            let scales = F::scales(block);
            let (d, dmin) = (scales.d.abs(), scales.dmin.abs());
            for (i, t) in out.iter_mut().enumerate() {
                *t = (scales.d * scales.scales[i * RUN / F::SUB]).abs() * F::STEP;
                if F::SCALES.is_some() {
                    *t = [*t, d, dmin].into_iter().find(|&t| t > 0.0).unwrap_or(0.0);
                }
            }
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        F::quantize(simd, rows, columns, out);
    }

    #[inline(always)]
    fn dequantize<S: Simd>(simd: S, bytes: &[u8], out: &mut [f32]) {
        let v = simd.x16();
        let mut codes = [0; MAX_BLOCK];
        for (block, out) in bytes.chunks_exact(F::BYTES).zip(out.chunks_exact_mut(F::BLOCK)) {
            let scales = F::scales(block);
            F::codes(block, &mut codes);
            for (i, (out, codes)) in
                out.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<16>().0).enumerate()
            {
                let sub = i * 16 / F::SUB;
                let step = v.splat(scales.d * scales.scales[sub]);
                let level = v.sub(v.from_i32(v.load_bytes(codes)), v.splat(F::ZERO));
                let value = v.mul(step, level);
                let offset = v.splat(scales.dmin * scales.mins[sub]);
                v.store(if F::MINS { v.sub(value, offset) } else { value }, out);
            }
        }
    }
}
