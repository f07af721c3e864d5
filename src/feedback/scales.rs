//! The scales of a block format, for one block of each of [`ROWS`] rows side by side, and what feedback has to know of
//! the format.

use super::vector::{F32x16, ROWS, rows_from_vectors};
use crate::dtype::GgmlType;
use crate::quant::format::{self, BlockFormat, MAX_SUBS};
use crate::quant::{self, with_block_format};
use crate::simd::Vector;

/// The scales of one block for each lane. Code q of sub-block `i` stands for the weight
/// `(d * scale[i]) * q - dmin * min[i]`, computed in f32 and rounded where ggml rounds, so that the weight is the very
/// value that the packed block decodes to.
#[derive(Clone, Copy, Default)]
pub(super) struct Scales {
    /// Scale of the scales, an f16.
    pub d: F32x16,
    /// Scale of the mins, an f16.
    pub dmin: F32x16,
    /// Integer scales within [`Format::scales`]; 1 if the format has none.
    pub scale: [F32x16; MAX_SUBS],
    /// Integer mins within [`Format::scales`]; 1 if the format has an offset but no integers, 0 if it has no offset.
    pub min: [F32x16; MAX_SUBS],
}

/// A search of scales: takes the format, [`ROWS`] rows one after another, the importance of their columns and scratch memory,
/// and writes the scales of each block.
pub(super) type Search = fn(&Format, &[f32], &[f32], &mut Vec<u8>, &mut [Scales]);

/// A block format, as feedback sees it. The solver reads the properties of a format at run time, so that it is compiled once
/// for each instruction set and not once more for each format.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub ty: GgmlType,
    /// Number of weights in a block.
    pub block: usize,
    /// Number of weights in a sub-block, which share a scale.
    pub sub: usize,
    /// Smallest and largest level; the solver calls the levels codes.
    pub codes: (f32, f32),
    /// The levels, if they are not consecutive integers; else empty.
    pub table: &'static [f32],
    /// Smallest and largest integer scale; `None` if a block has a single f16 scale.
    pub scales: Option<(f32, f32)>,
    /// True if sub-blocks have a min (an offset).
    pub mins: bool,
    /// True if the scale of a block may be any f16.
    pub scale_is_f16: bool,
    /// Searches the scales of [`ROWS`] rows, one after another, with the importance of their columns. The buffer is scratch
    /// memory.
    pub search: Search,
    /// Reads the scales of a block into a lane.
    pub read: fn(block: &[u8], scales: &mut Scales, lane: usize),
    /// Packs the block of a lane with its codes.
    pub write: fn(scales: &Scales, lane: usize, codes: &[f32], block: &mut [u8]),
}

/// Returns the format of a type; `None` if the type is no block format that feedback can quantize to.
pub(super) fn format(ty: GgmlType) -> Option<&'static Format> {
    with_block_format!(ty, F => {
        const FORMAT: &Format = &Format::of::<F>();
        F::FEEDBACK.then_some(FORMAT)
    })
    .flatten()
}

impl Format {
    const fn of<F: BlockFormat>() -> Self {
        Self {
            ty: F::TYPE,
            block: F::BLOCK,
            sub: F::SUB,
            codes: F::LEVELS,
            table: F::TABLE,
            scales: F::SCALES,
            mins: F::MINS,
            scale_is_f16: F::SCALE_IS_F16,
            search: search_by_quantizing,
            read: read::<F>,
            write: write::<F>,
        }
    }
}

/// Reads the scales of a block into a lane.
fn read<F: BlockFormat>(block: &[u8], to: &mut Scales, lane: usize) {
    let from = F::scales(block);
    to.d.0[lane] = from.d;
    to.dmin.0[lane] = from.dmin;
    for i in 0..F::BLOCK / F::SUB {
        to.scale[i].0[lane] = from.scales[i];
        to.min[i].0[lane] = from.mins[i];
    }
}

/// Packs the block of a lane with its levels.
fn write<F: BlockFormat>(from: &Scales, lane: usize, levels: &[f32], block: &mut [u8]) {
    let mut to = format::Scales { dmin: from.dmin.0[lane], ..format::Scales::one(from.d.0[lane]) };
    for i in 0..F::BLOCK / F::SUB {
        to.scales[i] = from.scale[i].0[lane];
        to.mins[i] = from.min[i].0[lane];
    }
    if F::MINS && F::SCALES.is_none() {
        // The stored offset is the negative of `dmin`. An offset of 0 is stored as +0.
        to.dmin = -(0.0 - to.dmin);
    }
    let mut codes = [0; format::MAX_BLOCK];
    for (code, &level) in codes.iter_mut().zip(levels) {
        *code = F::code(level);
    }
    F::pack(&to, &codes[..F::BLOCK], block);
}

/// Searches scales by quantizing the rows with the search of [`quant::quantize`], whose codes are not used.
fn search_by_quantizing(
    format: &Format,
    rows: &[f32],
    importance: &[f32],
    blocks: &mut Vec<u8>,
    to: &mut [Scales],
) {
    let size = format.ty.block_bytes();
    blocks.resize(ROWS * to.len() * size, 0);
    quant::quantize(format.ty, rows, importance.len(), Some(importance), blocks);
    for (lane, row) in blocks.chunks_exact(to.len() * size).enumerate() {
        for (block, scales) in row.chunks_exact(size).zip(to.iter_mut()) {
            (format.read)(block, scales, lane);
        }
    }
}

/// Searches the scales of the blocks for the weights `x`, with the importance `h` of the columns. `rows` and `blocks` are
/// scratch memory.
#[inline(always)]
pub(super) fn search_block_scales<V: Vector>(
    v: V,
    format: &Format,
    x: &[F32x16],
    h: &[f32],
    rows: &mut Vec<f32>,
    blocks: &mut Vec<u8>,
    to: &mut [Scales],
) {
    rows.resize(ROWS * x.len(), 0.0);
    rows_from_vectors(v, x, rows);
    (format.search)(format, rows, h, blocks, to);
}
