//! The matrix product, cut into tasks for threads, blocks for the caches and tiles for the registers.
//!
//! The scheme is that of Goto and van de Geijn (2008): blocks of `a` and `b` are packed into panels, and a small kernel
//! multiplies two panels. The sum of an element is cut into pieces of [`DEPTH`] k. A piece is a chain of fused
//! multiply-adds from zero; the pieces are added in ascending order. Tasks, blocks and tiles decide only when an element
//! is computed, never how it is computed, so they do not change the bits.

use super::kernel::{self, TILE_COLS, tile_rows};
use super::matrix::{MatMut, MatRef, Update};
use super::scratch::with_panels;
use crate::simd::Isa;

/// Number of k in a piece of a sum. The number is part of the result: another one gives other bits.
pub const DEPTH: usize = 256;
/// Rows of `a` that are packed together. They take 96 KiB, which fit into the second level cache.
const BLOCK_ROWS: usize = 96;
/// Columns of `b` that are packed together. They take 1 MiB, which fits into the last level cache.
const BLOCK_COLS: usize = 1024;
/// Smallest number of multiply-adds that is worth a task of its own. They take about 20 microseconds.
const MIN_TASK: usize = 1 << 20;

/// The elements of `c` that must be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Triangle {
    /// All elements are computed.
    Whole,
    /// The elements with `column >= row + offset` are computed. The others may be computed or not.
    Upper(isize),
}

impl Triangle {
    /// Returns the same triangle, described relative to the part of `c` that begins at this row and column.
    fn at(self, row: usize, col: usize) -> Self {
        match self {
            Self::Whole => Self::Whole,
            Self::Upper(offset) => Self::Upper(offset + row as isize - col as isize),
        }
    }

    /// Returns whether the rows from `row` on have an element of the triangle in the columns before `cols`.
    fn meets(self, row: usize, cols: usize) -> bool {
        match self {
            Self::Whole => true,
            Self::Upper(offset) => (cols as isize) > row as isize + offset,
        }
    }
}

/// A matrix product: how it is computed, what it does to `c`, and to which elements.
#[derive(Clone, Copy)]
pub(crate) struct GemmTask {
    pub isa: Isa,
    pub update: Update,
    pub triangle: Triangle,
}

impl GemmTask {
    /// Updates `c` with `a b` on rayon's current pool.
    ///
    /// # Panics
    /// Panics if the shapes do not agree.
    pub fn run(self, a: MatRef<'_>, b: MatRef<'_>, c: MatMut<'_>) {
        assert_eq!(a.ncols(), b.nrows(), "inner dimensions");
        assert_eq!((a.nrows(), b.ncols()), (c.nrows(), c.ncols()), "outer dimensions");
        let work = a.nrows().saturating_mul(b.ncols()).saturating_mul(a.ncols());
        let threads = rayon::current_num_threads();
        let pieces = if threads == 1 { 1 } else { (4 * threads).min(work / MIN_TASK).max(1) };
        self.split(a, b, c, pieces);
    }

    /// Halves `c` along its longer side until there are `pieces` parts, and computes the parts in parallel. Parts that
    /// are nearly square need the least packing.
    fn split(self, a: MatRef<'_>, b: MatRef<'_>, c: MatMut<'_>, pieces: usize) {
        if !self.triangle.meets(0, c.ncols()) {
            return;
        }
        let (col, row) = (half(c.ncols(), TILE_COLS), half(c.nrows(), tile_rows(self.isa)));
        if pieces <= 1 || (col == c.ncols() && row == c.nrows()) {
            return self.piece(a, b, c);
        }
        let (less, more) = (pieces / 2, pieces.div_ceil(2));
        if col < c.ncols() && (c.ncols() >= c.nrows() || row == c.nrows()) {
            let later = Self { triangle: self.triangle.at(0, col), ..self };
            let (left, right) = (b.subcols(0, col), b.subcols(col, b.ncols() - col));
            let (c_left, c_right) = c.split_at_col(col);
            rayon::join(|| self.split(a, left, c_left, more), || later.split(a, right, c_right, less));
        } else {
            let later = Self { triangle: self.triangle.at(row, 0), ..self };
            let (upper, lower) = (a.subrows(0, row), a.subrows(row, a.nrows() - row));
            let (c_upper, c_lower) = c.split_at_row(row);
            rayon::join(|| self.split(upper, b, c_upper, more), || later.split(lower, b, c_lower, less));
        }
    }

    /// Computes all of `c` on this thread.
    fn piece(self, a: MatRef<'_>, b: MatRef<'_>, mut c: MatMut<'_>) {
        if a.ncols() == 0 && self.update == Update::Set {
            (0..c.nrows()).for_each(|i| c.row_mut(i).fill(0.0));
        }
        let (rows, depth) = (BLOCK_ROWS.min(c.nrows()), DEPTH.min(a.ncols()));
        let cols = if c.nrows() <= BLOCK_ROWS {
            TILE_COLS
        } else {
            BLOCK_COLS.min(c.ncols().next_multiple_of(TILE_COLS))
        };
        with_panels(rows * depth, cols * depth, |packed_a, packed_b| {
            for k in (0..a.ncols()).step_by(DEPTH) {
                let depth = DEPTH.min(a.ncols() - k);
                let (a, b) = (a.subcols(k, depth), b.subrows(k, depth));
                let first = k == 0 || self.update != Update::Set;
                let task = Self { update: if first { self.update } else { Update::Add }, ..self };
                if c.nrows() <= BLOCK_ROWS {
                    task.few_rows(a, b, c.rb_mut(), packed_a, packed_b);
                } else {
                    task.many_rows(a, b, c.rb_mut(), packed_a, packed_b);
                }
            }
        });
    }

    /// Packs all of `a`; then packs each panel of `b` and multiplies it while it is in the first level cache.
    fn few_rows(
        self,
        a: MatRef<'_>,
        b: MatRef<'_>,
        mut c: MatMut<'_>,
        packed_a: &mut [f32],
        packed_b: &mut [f32],
    ) {
        let packed_a = pack_rows(self.isa, a, packed_a);
        let packed_b = &mut packed_b[..TILE_COLS * b.nrows()];
        for col in (0..c.ncols()).step_by(TILE_COLS) {
            let cols = TILE_COLS.min(c.ncols() - col);
            if self.triangle.meets(0, col + cols) {
                kernel::pack(self.isa, b.subcols(col, cols).transpose(), TILE_COLS, packed_b);
                let rows = c.nrows();
                self.panel(
                    (packed_a, packed_b),
                    c.submatrix_mut(0, col, rows, cols),
                    self.triangle.at(0, col),
                );
            }
        }
    }

    /// Packs each block of `b` once and multiplies it with every block of `a`.
    fn many_rows(
        self,
        a: MatRef<'_>,
        b: MatRef<'_>,
        mut c: MatMut<'_>,
        packed_a: &mut [f32],
        packed_b: &mut [f32],
    ) {
        for col in (0..c.ncols()).step_by(BLOCK_COLS) {
            let cols = BLOCK_COLS.min(c.ncols() - col);
            if !self.triangle.meets(0, col + cols) {
                continue;
            }
            let packed_b = pack_cols(self.isa, b.subcols(col, cols), packed_b);
            for row in (0..c.nrows()).step_by(BLOCK_ROWS) {
                let rows = BLOCK_ROWS.min(c.nrows() - row);
                if self.triangle.meets(row, col + cols) {
                    let packed_a = pack_rows(self.isa, a.subrows(row, rows), packed_a);
                    let c = c.submatrix_mut(row, col, rows, cols);
                    self.block(packed_a, packed_b, c, self.triangle.at(row, col));
                }
            }
        }
    }

    /// Multiplies a packed block of `a` by a packed block of `b`.
    fn block(self, a: &[f32], b: &[f32], mut c: MatMut<'_>, triangle: Triangle) {
        let (rows, panel) = (c.nrows(), TILE_COLS * (a.len() / c.nrows()));
        for (i, b) in b.chunks_exact(panel).enumerate() {
            let col = i * TILE_COLS;
            let cols = TILE_COLS.min(c.ncols() - col);
            self.panel((a, b), c.submatrix_mut(0, col, rows, cols), triangle.at(0, col));
        }
    }

    /// Computes all tiles of one panel of `b`.
    fn panel(self, (a, b): (&[f32], &[f32]), mut c: MatMut<'_>, triangle: Triangle) {
        let (depth, cols) = (b.len() / TILE_COLS, c.ncols());
        for (row, rows) in tiles(c.nrows(), tile_rows(self.isa)) {
            if triangle.meets(row, cols) {
                let a = &a[row * depth..(row + rows) * depth];
                kernel::tile(self.isa, a, b, c.submatrix_mut(row, 0, rows, cols), self.update);
            }
        }
    }
}

/// Returns about half of `n`, a multiple of `unit`; `n` itself if there is no smaller multiple.
fn half(n: usize, unit: usize) -> usize {
    n.div_ceil(2 * unit).saturating_mul(unit).min(n)
}

/// Returns starts and heights of tiles of at most `height` rows that share `rows` evenly: 7 rows become 4 and 3, not 6 and
/// a slow 1.
fn tiles(rows: usize, height: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(height).max(1);
    let start = move |i: usize| i * (rows / count) + i.min(rows % count);
    (0..count).map(move |i| (start(i), start(i + 1) - start(i))).filter(|&(_, rows)| rows > 0)
}

/// Packs panels of rows, one after another, into the front of `to`, and returns the packed part.
fn pack_rows<'a>(isa: Isa, a: MatRef<'_>, to: &'a mut [f32]) -> &'a [f32] {
    let to = &mut to[..a.nrows() * a.ncols()];
    for (row, rows) in tiles(a.nrows(), tile_rows(isa)) {
        kernel::pack(isa, a.subrows(row, rows), rows, &mut to[row * a.ncols()..(row + rows) * a.ncols()]);
    }
    to
}

/// Packs panels of [`TILE_COLS`] columns into the front of `to`, and returns the packed part. The last panel is filled
/// up with zeros.
fn pack_cols<'a>(isa: Isa, b: MatRef<'_>, to: &'a mut [f32]) -> &'a [f32] {
    let to = &mut to[..b.nrows() * b.ncols().next_multiple_of(TILE_COLS)];
    for (i, to) in to.chunks_exact_mut(TILE_COLS * b.nrows()).enumerate() {
        let col = i * TILE_COLS;
        kernel::pack(isa, b.subcols(col, TILE_COLS.min(b.ncols() - col)).transpose(), TILE_COLS, to);
    }
    to
}
