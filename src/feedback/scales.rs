//! The scales of a block format, for one block of each of [`ROWS`] rows side by side, and what feedback has to know of
//! the format.

use half::f16;

use super::vector::{F32x16, ROWS, rows_from_vectors};
use crate::dtype::{GgmlType, QK_K};
use crate::quant::block32::{self, Searched};
use crate::quant::{self, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, search};
use crate::simd::Vector;

/// Largest number of sub-blocks in a block.
pub(super) const MAX_SUB_BLOCKS: usize = 16;

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
    pub scale: [F32x16; MAX_SUB_BLOCKS],
    /// Integer mins within [`Format::scales`]; 1 if the format has an offset but no integers, 0 if it has no offset.
    pub min: [F32x16; MAX_SUB_BLOCKS],
}

/// A block format, as feedback sees it. The solver reads the properties of a format at run time, so that it is compiled once
/// for each instruction set and not once more for each format.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub ty: GgmlType,
    /// Number of weights in a block.
    pub block: usize,
    /// Number of weights in a sub-block, which share a scale.
    pub sub: usize,
    /// Smallest and largest code.
    pub codes: (f32, f32),
    /// Smallest and largest integer scale; `None` if a block has a single f16 scale.
    pub scales: Option<(f32, f32)>,
    /// True if sub-blocks have a min (an offset).
    pub mins: bool,
    /// Searches the scales of [`ROWS`] rows, one after another, with the importance of their columns. The buffer is scratch
    /// memory.
    pub search: fn(&Format, rows: &[f32], importance: &[f32], blocks: &mut Vec<u8>, to: &mut [Scales]),
    /// Reads the scales of a block into a lane.
    pub read: fn(block: &[u8], scales: &mut Scales, lane: usize),
    /// Packs the block of a lane with its codes.
    pub write: fn(scales: &Scales, lane: usize, codes: &[f32], block: &mut [u8]),
}

/// Returns the format of a type; `None` if the solver does not know the type.
pub(super) fn format(ty: GgmlType) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.ty == ty)
}

static FORMATS: [Format; 8] = [
    Format::of::<Q4K>(),
    Format::of::<Q5K>(),
    Format::of::<Q6K>(),
    Format::of::<Q40>(),
    Format::of::<Q41>(),
    Format::of::<Q50>(),
    Format::of::<Q51>(),
    Format::of::<Q80>(),
];

impl Format {
    const fn of<L: Layout>() -> Self {
        Self {
            ty: L::TYPE,
            block: L::BLOCK,
            sub: L::SUB,
            codes: L::CODES,
            scales: L::SCALES,
            mins: L::MINS,
            search: search_by_quantizing,
            read: L::read,
            write: L::write,
        }
    }
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

/// What [`Format`] takes from a block format; see there.
trait Layout {
    const TYPE: GgmlType;
    const BLOCK: usize;
    const SUB: usize;
    const CODES: (f32, f32);
    const SCALES: Option<(f32, f32)>;
    const MINS: bool;

    fn read(block: &[u8], scales: &mut Scales, lane: usize);
    fn write(scales: &Scales, lane: usize, codes: &[f32], block: &mut [u8]);
}

/// Reads the scales of Q4_K and Q5_K into a lane.
fn read_affine(k: &search::Grid, scales: &mut Scales, lane: usize) {
    scales.d.0[lane] = k.d.to_f32();
    scales.dmin.0[lane] = k.dmin.to_f32();
    for i in 0..search::SUBS {
        scales.scale[i].0[lane] = f32::from(k.scales[i]);
        scales.min[i].0[lane] = f32::from(k.mins[i]);
    }
}

/// Returns the scales of Q4_K and Q5_K of a lane.
fn affine(scales: &Scales, lane: usize) -> search::Grid {
    search::Grid {
        d: f16::from_f32(scales.d.0[lane]),
        dmin: f16::from_f32(scales.dmin.0[lane]),
        scales: std::array::from_fn(|i| scales.scale[i].0[lane] as u8),
        mins: std::array::from_fn(|i| scales.min[i].0[lane] as u8),
    }
}

fn bytes<const N: usize>(codes: &[f32], add: f32) -> [u8; N] {
    std::array::from_fn(|i| (codes[i] + add) as u8)
}

fn whole<const N: usize>(block: &[u8]) -> &[u8; N] {
    block.try_into().expect("a whole block")
}

struct Q4K;
impl Layout for Q4K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    const BLOCK: usize = QK_K;
    const SUB: usize = search::SUB;
    const CODES: (f32, f32) = (0.0, 15.0);
    const SCALES: Option<(f32, f32)> = Some((0.0, 63.0));
    const MINS: bool = true;

    fn read(block: &[u8], scales: &mut Scales, lane: usize) {
        read_affine(&q4_k::scales(whole(block)), scales, lane);
    }

    fn write(scales: &Scales, lane: usize, codes: &[f32], block: &mut [u8]) {
        let block = block.try_into().expect("a whole block");
        q4_k::pack(&affine(scales, lane), &bytes(codes, 0.0), block);
    }
}

struct Q5K;
impl Layout for Q5K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    const BLOCK: usize = QK_K;
    const SUB: usize = search::SUB;
    const CODES: (f32, f32) = (0.0, 31.0);
    const SCALES: Option<(f32, f32)> = Some((0.0, 63.0));
    const MINS: bool = true;

    fn read(block: &[u8], scales: &mut Scales, lane: usize) {
        read_affine(&q5_k::scales(whole(block)), scales, lane);
    }

    fn write(scales: &Scales, lane: usize, codes: &[f32], block: &mut [u8]) {
        let block = block.try_into().expect("a whole block");
        q5_k::pack(&affine(scales, lane), &bytes(codes, 0.0), block);
    }
}

struct Q6K;
impl Layout for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const BLOCK: usize = QK_K;
    const SUB: usize = q6_k::SUB;
    const CODES: (f32, f32) = (-32.0, 31.0);
    const SCALES: Option<(f32, f32)> = Some((-128.0, 127.0));
    const MINS: bool = false;

    fn read(block: &[u8], scales: &mut Scales, lane: usize) {
        let k = q6_k::scales(whole(block));
        scales.d.0[lane] = k.d.to_f32();
        for i in 0..q6_k::SUBS {
            scales.scale[i].0[lane] = f32::from(k.scales[i]);
        }
    }

    fn write(scales: &Scales, lane: usize, codes: &[f32], block: &mut [u8]) {
        let integers = std::array::from_fn(|i| scales.scale[i].0[lane] as i8);
        let k = q6_k::Grid { d: f16::from_f32(scales.d.0[lane]), scales: integers };
        q6_k::pack(&k, &bytes(codes, 32.0), block.try_into().expect("a whole block"));
    }
}

/// Implements [`Layout`] for a format of 32 weights with one scale and, with `MINS`, one offset.
macro_rules! block32 {
    ($name:ident, $module:ident, $ty:ident, $low:expr, $high:expr, $mins:expr) => {
        struct $name;
        impl Layout for $name {
            const TYPE: GgmlType = GgmlType::$ty;
            const BLOCK: usize = block32::QK;
            const SUB: usize = block32::QK;
            const CODES: (f32, f32) = ($low, $high);
            const SCALES: Option<(f32, f32)> = None;
            const MINS: bool = $mins;

            fn read(block: &[u8], scales: &mut Scales, lane: usize) {
                scales.d.0[lane] = block32::scale_at(block);
                scales.scale[0].0[lane] = 1.0;
                if $mins {
                    scales.dmin.0[lane] = -block32::scale_at(&block[2..]);
                    scales.min[0].0[lane] = 1.0;
                }
            }

            fn write(scales: &Scales, lane: usize, codes: &[f32], block: &mut [u8]) {
                // `0.0 - dmin` writes a zero offset as +0, as the search writes it; `-dmin` would write -0.
                let k = block32::Grid { scale: scales.d.0[lane], offset: 0.0 - scales.dmin.0[lane] };
                let codes = std::array::from_fn(|i| codes[i] - $low);
                <$module::Blocks as Searched>::pack(k, &block32::words(&codes), block);
            }
        }
    };
}

block32!(Q40, q4_0, Q4_0, -8.0, 7.0, false);
block32!(Q50, q5_0, Q5_0, -16.0, 15.0, false);
block32!(Q41, q4_1, Q4_1, 0.0, 15.0, true);
block32!(Q51, q5_1, Q5_1, 0.0, 31.0, true);

struct Q80;
impl Layout for Q80 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const BLOCK: usize = block32::QK;
    const SUB: usize = block32::QK;
    const CODES: (f32, f32) = (-127.0, 127.0);
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;

    fn read(block: &[u8], scales: &mut Scales, lane: usize) {
        scales.d.0[lane] = block32::scale_at(block);
        scales.scale[0].0[lane] = 1.0;
    }

    fn write(scales: &Scales, lane: usize, codes: &[f32], block: &mut [u8]) {
        let codes = std::array::from_fn(|i| codes[i] as i8);
        q8_0::pack(scales.d.0[lane], &codes, block.try_into().expect("a whole block"));
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
