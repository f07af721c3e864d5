//! The innermost loops of the matrix product: packing panels, and one tile of the result.
//!
//! A tile has up to [`MAX_TILE_ROWS`] rows of [`TILE_COLS`] columns, whose sums stay in registers. Element (i, j) of a tile
//! is the chain of fused multiply-adds `sum = a[k][i] * b[k][j] + sum` from zero over ascending k, whatever the instruction
//! set and the height of the tile.

#![expect(clippy::needless_range_loop, reason = "several arrays of registers are indexed side by side")]

use super::matrix::{MatMut, MatRef, Update};
use crate::simd::{Simd, Vector, dispatch};

/// Number of columns of a tile.
pub(super) const TILE_COLS: usize = 16;
/// Largest number of rows of a tile, for any instruction set.
const MAX_TILE_ROWS: usize = 12;

dispatch! {
    /// Returns the number of rows of a tile that fill the registers: 12 registers of 16 lanes, or 6 pairs of 8 lanes.
    pub(super) fn tile_rows(_simd: S) -> usize {
        if S::WIDE { MAX_TILE_ROWS } else { 6 }
    }

    /// Updates the tile `c` with the product of two packed panels. `a` holds `c.nrows()` values for each k, `b` holds
    /// [`TILE_COLS`].
    pub(super) fn tile(simd: S, a: &[f32], b: &[f32], c: MatMut<'_>, update: Update) {
        match c.nrows() {
            1 => tile_of::<S, 1>(simd, a, b, c, update),
            2 => tile_of::<S, 2>(simd, a, b, c, update),
            3 => tile_of::<S, 3>(simd, a, b, c, update),
            4 => tile_of::<S, 4>(simd, a, b, c, update),
            5 => tile_of::<S, 5>(simd, a, b, c, update),
            6 => tile_of::<S, 6>(simd, a, b, c, update),
            7 if S::WIDE => tile_of::<S, 7>(simd, a, b, c, update),
            8 if S::WIDE => tile_of::<S, 8>(simd, a, b, c, update),
            9 if S::WIDE => tile_of::<S, 9>(simd, a, b, c, update),
            10 if S::WIDE => tile_of::<S, 10>(simd, a, b, c, update),
            11 if S::WIDE => tile_of::<S, 11>(simd, a, b, c, update),
            12 if S::WIDE => tile_of::<S, 12>(simd, a, b, c, update),
            rows => panic!("a tile of {rows} rows"),
        }
    }

    /// Packs a panel: `to[k * width + lane]` becomes `from[lane][k]`, and zero for the lanes that `from` does not have.
    pub(super) fn pack(simd: S, from: MatRef<'_>, width: usize, to: &mut [f32]) {
        assert!(from.nrows() <= width && to.len() == width * from.ncols());
        match from.col_stride() {
            1 => interleave(simd, from, width, to),
            _ => gather(from, width, to),
        }
    }
}

#[inline(always)]
fn tile_of<S: Simd, const R: usize>(simd: S, a: &[f32], b: &[f32], mut c: MatMut<'_>, update: Update) {
    let (a, b) = (a.as_chunks::<R>().0, b.as_chunks::<TILE_COLS>().0);
    assert!(a.len() == b.len() && c.nrows() == R && c.ncols() <= TILE_COLS);
    let v = simd.x16();
    let mut sums = [v.splat(0.0); R];
    for (a, b) in a.iter().zip(b) {
        let b = v.load(b);
        for i in 0..R {
            sums[i] = v.mul_add(v.splat(a[i]), b, sums[i]);
        }
    }
    for i in 0..R {
        let row = c.row_mut(i);
        if row.len() == TILE_COLS {
            let value = match update {
                Update::Set => sums[i],
                Update::Add => v.add(v.load(row), sums[i]),
                Update::Subtract => v.sub(v.load(row), sums[i]),
            };
            v.store(value, row);
        } else {
            let mut whole = [0.0; TILE_COLS];
            v.store(sums[i], &mut whole);
            let pairs = row.iter_mut().zip(whole);
            match update {
                Update::Set => pairs.for_each(|(c, sum)| *c = sum),
                Update::Add => pairs.for_each(|(c, sum)| *c += sum),
                Update::Subtract => pairs.for_each(|(c, sum)| *c -= sum),
            }
        }
    }
}

/// Packs rows whose values lie side by side in k: squares of 8 k and 4 lanes are transposed in registers.
#[inline(always)]
fn interleave<S: Simd>(simd: S, from: MatRef<'_>, width: usize, to: &mut [f32]) {
    let v = simd.x8();
    // The last group of 4 lanes writes up to 3 values beyond the panel's row, so the last 8 k are left to the plain loop.
    let squares = if width < 4 { 0 } else { from.ncols().saturating_sub(8) / 8 };
    for k in (0..8 * squares).step_by(8) {
        // From the last group down: what a group writes beyond its row, the groups before it overwrite.
        for lane in (0..width).step_by(4).rev() {
            let mut rows = [v.splat(0.0); 4];
            for i in 0..4 {
                if lane + i < from.nrows() {
                    rows[i] = v.load(&from.row(lane + i)[k..]);
                }
            }
            v.store_transposed(rows, &mut to[k * width + lane..], width);
        }
    }
    for lane in 0..width {
        let to = to.iter_mut().skip(8 * squares * width + lane).step_by(width);
        if lane < from.nrows() {
            to.zip(&from.row(lane)[8 * squares..]).for_each(|(to, &x)| *to = x);
        } else {
            to.for_each(|to| *to = 0.0);
        }
    }
}

/// Packs any other view. Lanes that are neighbours in memory are copied together.
#[inline(always)]
fn gather(from: MatRef<'_>, width: usize, to: &mut [f32]) {
    match (from.row_stride(), from.nrows() == width, width) {
        (1, true, 4) => copy::<4>(from, to),
        (1, true, 5) => copy::<5>(from, to),
        (1, true, 6) => copy::<6>(from, to),
        (1, true, 12) => copy::<12>(from, to),
        (1, true, TILE_COLS) => copy::<TILE_COLS>(from, to),
        _ => {
            for (k, to) in to.chunks_exact_mut(width).enumerate() {
                to.iter_mut().take(from.nrows()).enumerate().for_each(|(lane, to)| *to = from.at(lane, k));
                to[from.nrows()..].fill(0.0);
            }
        }
    }
}

/// Copies lanes whose number is known to the compiler: a few moves instead of a call for each k.
#[inline(always)]
fn copy<const W: usize>(from: MatRef<'_>, to: &mut [f32]) {
    let across = from.transpose();
    for (k, to) in to.as_chunks_mut::<W>().0.iter_mut().enumerate() {
        to.copy_from_slice(across.row(k));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn every_panel_holds_the_values_that_its_definition_names() {
        let data: Vec<f32> = (0..16 * 64).map(|i| i as f32 + 1.0).collect();
        for isa in Isa::available() {
            for width in (1..=MAX_TILE_ROWS).chain([TILE_COLS]) {
                for cols in [1, 7, 8, 9, 16, 23, 24, 40] {
                    for nrows in [width, width.div_ceil(2)] {
                        let plain = MatRef::from_slice_with_strides(&data, nrows, cols, 64, 1);
                        let across = MatRef::from_slice_with_strides(&data, nrows, cols, 1, 16);
                        for from in [plain, across] {
                            let mut to = vec![f32::NAN; width * cols];
                            pack(isa, from, width, &mut to);
                            for (at, &found) in to.iter().enumerate() {
                                let (k, lane) = (at / width, at % width);
                                let expected = if lane < nrows { from.at(lane, k) } else { 0.0 };
                                assert_eq!(found, expected, "{isa:?}, width {width}, {nrows} x {cols}");
                            }
                        }
                    }
                }
            }
        }
    }
}
