//! The grids of a block format in lanes: one block of each of [`ROWS`] rows side by side.

use half::f16;

use super::lanes::{Lane, Lanes, ROWS, rows_of};
use crate::dtype::{GgmlType, QK_K};
use crate::quant::block32::{self, Searched};
use crate::quant::{self, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, search};

/// Sub-blocks of a block at most.
pub(super) const MAX_SUBS: usize = 16;

/// Scales of a block in every lane: a weight of sub-block `i` is `(d * scale[i]) * q - dmin * min[i]`, in f32 and
/// rounded where ggml rounds, so that it is the very value the block decodes to.
#[derive(Clone, Copy, Default)]
pub(super) struct Grid {
    pub d: Lane,
    pub dmin: Lane,
    /// Integers within [`Format::SCALES`]; 1 where the format has none.
    pub scale: [Lane; MAX_SUBS],
    /// Integers within [`Format::SCALES`]; 1 where the format has none, 0 where it has no offset.
    pub min: [Lane; MAX_SUBS],
}

/// What feedback has to know of a block format.
pub(super) trait Format {
    const TYPE: GgmlType;
    /// Weights of a block.
    const BLOCK: usize;
    /// Weights of a sub-block, all of one scale.
    const SUB: usize;
    /// Least and largest code.
    const CODES: (f32, f32);
    /// Least and largest integer scale; `None` where a block has but the one f16 scale.
    const SCALES: Option<(f32, f32)>;
    /// Whether sub-blocks have a min (an offset).
    const MINS: bool;

    /// Reads the scales of a block into a lane.
    fn read(block: &[u8], grid: &mut Grid, lane: usize);
    /// Writes the block of a lane; `codes` are its [`Self::BLOCK`] codes.
    fn write(grid: &Grid, lane: usize, codes: &[f32], block: &mut [u8]);
}

/// Q4_K and Q5_K.
fn read_affine(k: &search::Grid, grid: &mut Grid, lane: usize) {
    grid.d.0[lane] = k.d.to_f32();
    grid.dmin.0[lane] = k.dmin.to_f32();
    for i in 0..search::SUBS {
        grid.scale[i].0[lane] = f32::from(k.scales[i]);
        grid.min[i].0[lane] = f32::from(k.mins[i]);
    }
}

fn affine(grid: &Grid, lane: usize) -> search::Grid {
    search::Grid {
        d: f16::from_f32(grid.d.0[lane]),
        dmin: f16::from_f32(grid.dmin.0[lane]),
        scales: std::array::from_fn(|i| grid.scale[i].0[lane] as u8),
        mins: std::array::from_fn(|i| grid.min[i].0[lane] as u8),
    }
}

fn bytes<const N: usize>(codes: &[f32], add: f32) -> [u8; N] {
    std::array::from_fn(|i| (codes[i] + add) as u8)
}

fn whole<const N: usize>(block: &[u8]) -> &[u8; N] {
    block.try_into().expect("a whole block")
}

pub(super) struct Q4K;
impl Format for Q4K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    const BLOCK: usize = QK_K;
    const SUB: usize = search::SUB;
    const CODES: (f32, f32) = (0.0, 15.0);
    const SCALES: Option<(f32, f32)> = Some((0.0, 63.0));
    const MINS: bool = true;

    fn read(block: &[u8], grid: &mut Grid, lane: usize) {
        read_affine(&q4_k::scales(whole(block)), grid, lane);
    }

    fn write(grid: &Grid, lane: usize, codes: &[f32], block: &mut [u8]) {
        let block = block.try_into().expect("a whole block");
        q4_k::pack(&affine(grid, lane), &bytes(codes, 0.0), block);
    }
}

pub(super) struct Q5K;
impl Format for Q5K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    const BLOCK: usize = QK_K;
    const SUB: usize = search::SUB;
    const CODES: (f32, f32) = (0.0, 31.0);
    const SCALES: Option<(f32, f32)> = Some((0.0, 63.0));
    const MINS: bool = true;

    fn read(block: &[u8], grid: &mut Grid, lane: usize) {
        read_affine(&q5_k::scales(whole(block)), grid, lane);
    }

    fn write(grid: &Grid, lane: usize, codes: &[f32], block: &mut [u8]) {
        let block = block.try_into().expect("a whole block");
        q5_k::pack(&affine(grid, lane), &bytes(codes, 0.0), block);
    }
}

pub(super) struct Q6K;
impl Format for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const BLOCK: usize = QK_K;
    const SUB: usize = q6_k::SUB;
    const CODES: (f32, f32) = (-32.0, 31.0);
    const SCALES: Option<(f32, f32)> = Some((-128.0, 127.0));
    const MINS: bool = false;

    fn read(block: &[u8], grid: &mut Grid, lane: usize) {
        let k = q6_k::scales(whole(block));
        grid.d.0[lane] = k.d.to_f32();
        for i in 0..q6_k::SUBS {
            grid.scale[i].0[lane] = f32::from(k.scales[i]);
        }
    }

    fn write(grid: &Grid, lane: usize, codes: &[f32], block: &mut [u8]) {
        let scales = std::array::from_fn(|i| grid.scale[i].0[lane] as i8);
        let k = q6_k::Grid { d: f16::from_f32(grid.d.0[lane]), scales };
        q6_k::pack(&k, &bytes(codes, 32.0), block.try_into().expect("a whole block"));
    }
}

/// A format of 32 weights: one scale, and with `MINS` one offset.
macro_rules! block32 {
    ($name:ident, $room:ident, $ty:ident, $low:expr, $high:expr, $mins:expr) => {
        pub(super) struct $name;
        impl Format for $name {
            const TYPE: GgmlType = GgmlType::$ty;
            const BLOCK: usize = block32::QK;
            const SUB: usize = block32::QK;
            const CODES: (f32, f32) = ($low, $high);
            const SCALES: Option<(f32, f32)> = None;
            const MINS: bool = $mins;

            fn read(block: &[u8], grid: &mut Grid, lane: usize) {
                grid.d.0[lane] = block32::scale_at(block);
                grid.scale[0].0[lane] = 1.0;
                if $mins {
                    grid.dmin.0[lane] = -block32::scale_at(&block[2..]);
                    grid.min[0].0[lane] = 1.0;
                }
            }

            fn write(grid: &Grid, lane: usize, codes: &[f32], block: &mut [u8]) {
                // The offset goes back with the sign it came with: 0 - 0 is +0, as the search writes it.
                let k = block32::Grid { scale: grid.d.0[lane], offset: 0.0 - grid.dmin.0[lane] };
                let codes = std::array::from_fn(|i| codes[i] - $low);
                <$room::Blocks as Searched>::pack(k, &block32::words(&codes), block);
            }
        }
    };
}

block32!(Q40, q4_0, Q4_0, -8.0, 7.0, false);
block32!(Q50, q5_0, Q5_0, -16.0, 15.0, false);
block32!(Q41, q4_1, Q4_1, 0.0, 15.0, true);
block32!(Q51, q5_1, Q5_1, 0.0, 31.0, true);

pub(super) struct Q80;
impl Format for Q80 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const BLOCK: usize = block32::QK;
    const SUB: usize = block32::QK;
    const CODES: (f32, f32) = (-127.0, 127.0);
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;

    fn read(block: &[u8], grid: &mut Grid, lane: usize) {
        grid.d.0[lane] = block32::scale_at(block);
        grid.scale[0].0[lane] = 1.0;
    }

    fn write(grid: &Grid, lane: usize, codes: &[f32], block: &mut [u8]) {
        let codes = std::array::from_fn(|i| codes[i] as i8);
        q8_0::pack(grid.d.0[lane], &codes, block.try_into().expect("a whole block"));
    }
}

/// Scales of the blocks of `F` for the weights `x`, found by the plain search with the columns' importance `h`.
#[inline(always)]
pub(super) fn search_grids<F: Format, L: Lanes>(
    l: L,
    x: &[Lane],
    h: &[f32],
    rows: &mut Vec<f32>,
    blocks: &mut Vec<u8>,
    to: &mut [Grid],
) {
    let n = x.len();
    rows.resize(ROWS * n, 0.0);
    rows_of(l, x, rows);
    let size = F::TYPE.block_bytes();
    blocks.resize(ROWS * to.len() * size, 0);
    quant::quantize(F::TYPE, rows, n, Some(h), blocks);
    for (lane, row) in blocks.chunks_exact(to.len() * size).enumerate() {
        for (block, grid) in row.chunks_exact(size).zip(to.iter_mut()) {
            F::read(block, grid, lane);
        }
    }
}
