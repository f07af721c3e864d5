//! The product in pieces: which thread computes what, and in which order panels are packed.
//!
//! An element's sum is cut into pieces of [`DEPTH`] k, each a chain of fused multiply-adds from zero; the pieces are
//! added in ascending order. Everything else here (pieces of c, blocks for the caches, tiles) only decides when
//! an element is computed, never how, so none of it shows in the bits.

use super::scratch::with_panels;
use super::simd::view::{View, Window};
use super::simd::{Shell, TILE_COLS, TILE_ROWS, Update};
use crate::simd_level::Level;

/// Length of a piece of the sums. Part of the result: another one gives other bits.
pub const DEPTH: usize = 256;
/// Rows of a that are packed together: 96 KiB, in the second level cache.
const BLOCK_ROWS: usize = 96;
/// Columns of b that are packed together: 1 MiB, in the last level cache.
const BLOCK_COLS: usize = 1024;
/// Multiply-adds that are worth a task of their own: some 20 microseconds.
const TASK: usize = 1 << 20;

/// Which elements of c are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// Those with `column >= row + .0`; others may be computed or not.
    Upper(isize),
}

impl Part {
    /// For the part of c that begins at this row and column.
    fn at(self, row: usize, col: usize) -> Self {
        match self {
            Self::All => Self::All,
            Self::Upper(offset) => Self::Upper(offset + row as isize - col as isize),
        }
    }

    /// Whether rows from `row` on have any wanted element in columns before `cols`.
    fn reaches(self, row: usize, cols: usize) -> bool {
        match self {
            Self::All => true,
            Self::Upper(offset) => (cols as isize) > row as isize + offset,
        }
    }
}

/// What to do with `a b`.
#[derive(Clone, Copy)]
pub(crate) struct Task {
    pub level: Level,
    pub update: Update,
    pub part: Part,
}

impl Task {
    /// Updates c with `a b` on rayon's current pool.
    ///
    /// # Panics
    /// If the shapes do not agree.
    pub fn run(self, a: View<'_>, b: View<'_>, c: Window<'_>) {
        assert_eq!(a.cols, b.rows, "inner dimensions");
        assert_eq!((a.rows, b.cols), (c.rows, c.cols), "outer dimensions");
        let work = a.rows.saturating_mul(b.cols).saturating_mul(a.cols);
        let threads = rayon::current_num_threads();
        let pieces = if threads == 1 { 1 } else { (4 * threads).min(work / TASK).max(1) };
        self.split(a, b, c, pieces);
    }

    /// Halves c along its longer side until there are `pieces`: that packs least.
    fn split(self, a: View<'_>, b: View<'_>, c: Window<'_>, pieces: usize) {
        if !self.part.reaches(0, c.cols) {
            return;
        }
        let (col, row) = (half(c.cols, TILE_COLS), half(c.rows, TILE_ROWS));
        if pieces <= 1 || (col == c.cols && row == c.rows) {
            return self.piece(a, b, c);
        }
        let (less, more) = (pieces / 2, pieces.div_ceil(2));
        if col < c.cols && (c.cols >= c.rows || row == c.rows) {
            let later = Self { part: self.part.at(0, col), ..self };
            let (left, right) = (b.cols(0, col), b.cols(col, b.cols - col));
            let (c_left, c_right) = c.split_cols(col);
            rayon::join(|| self.split(a, left, c_left, more), || later.split(a, right, c_right, less));
        } else {
            let later = Self { part: self.part.at(row, 0), ..self };
            let (upper, lower) = (a.rows(0, row), a.rows(row, a.rows - row));
            let (c_upper, c_lower) = c.split_rows(row);
            rayon::join(|| self.split(upper, b, c_upper, more), || later.split(lower, b, c_lower, less));
        }
    }

    /// On this thread alone.
    fn piece(self, a: View<'_>, b: View<'_>, mut c: Window<'_>) {
        if a.cols == 0 && self.update == Update::Set {
            (0..c.rows).for_each(|i| c.row_mut(i).fill(0.0));
        }
        let (rows, depth) = (BLOCK_ROWS.min(c.rows), DEPTH.min(a.cols));
        let cols =
            if c.rows <= BLOCK_ROWS { TILE_COLS } else { BLOCK_COLS.min(c.cols.next_multiple_of(TILE_COLS)) };
        with_panels(rows * depth, cols * depth, |packed_a, packed_b| {
            for k in (0..a.cols).step_by(DEPTH) {
                let depth = DEPTH.min(a.cols - k);
                let (a, b) = (a.cols(k, depth), b.rows(k, depth));
                let first = k == 0 || self.update != Update::Set;
                let task = Self { update: if first { self.update } else { Update::Add }, ..self };
                if c.rows <= BLOCK_ROWS {
                    task.few_rows(a, b, c.reborrow(), packed_a, packed_b);
                } else {
                    task.many_rows(a, b, c.reborrow(), packed_a, packed_b);
                }
            }
        });
    }

    /// All of a is packed; each panel of b is packed and used while it is in the first level cache.
    fn few_rows(
        self,
        a: View<'_>,
        b: View<'_>,
        mut c: Window<'_>,
        packed_a: &mut [f32],
        packed_b: &mut [f32],
    ) {
        let shell = Shell::of(self.level);
        let packed_a = pack_rows(shell, a, packed_a);
        let packed_b = &mut packed_b[..TILE_COLS * b.rows];
        for col in (0..c.cols).step_by(TILE_COLS) {
            let cols = TILE_COLS.min(c.cols - col);
            if self.part.reaches(0, col + cols) {
                shell.pack(b.cols(col, cols).transposed(), TILE_COLS, packed_b);
                let rows = c.rows;
                self.panel(shell, (packed_a, packed_b), c.part(0, rows, col, cols), self.part.at(0, col));
            }
        }
    }

    /// Blocks of b are packed once and multiplied with every block of a.
    fn many_rows(
        self,
        a: View<'_>,
        b: View<'_>,
        mut c: Window<'_>,
        packed_a: &mut [f32],
        packed_b: &mut [f32],
    ) {
        let shell = Shell::of(self.level);
        for col in (0..c.cols).step_by(BLOCK_COLS) {
            let cols = BLOCK_COLS.min(c.cols - col);
            if !self.part.reaches(0, col + cols) {
                continue;
            }
            let packed_b = pack_cols(shell, b.cols(col, cols), packed_b);
            for row in (0..c.rows).step_by(BLOCK_ROWS) {
                let rows = BLOCK_ROWS.min(c.rows - row);
                if self.part.reaches(row, col + cols) {
                    let packed_a = pack_rows(shell, a.rows(row, rows), packed_a);
                    let c = c.part(row, rows, col, cols);
                    self.block(shell, packed_a, packed_b, c, self.part.at(row, col));
                }
            }
        }
    }

    fn block(self, shell: Shell, a: &[f32], b: &[f32], mut c: Window<'_>, part: Part) {
        let (rows, panel) = (c.rows, TILE_COLS * (a.len() / c.rows));
        for (i, b) in b.chunks_exact(panel).enumerate() {
            let col = i * TILE_COLS;
            let cols = TILE_COLS.min(c.cols - col);
            self.panel(shell, (a, b), c.part(0, rows, col, cols), part.at(0, col));
        }
    }

    /// All tiles of one panel of b.
    fn panel(self, shell: Shell, (a, b): (&[f32], &[f32]), mut c: Window<'_>, part: Part) {
        let (depth, cols) = (b.len() / TILE_COLS, c.cols);
        for (row, rows) in tiles(c.rows) {
            if part.reaches(row, cols) {
                let a = &a[row * depth..(row + rows) * depth];
                shell.tile(a, b, c.part(row, rows, 0, cols), self.update);
            }
        }
    }
}

/// About half of `n`, a multiple of `unit`; all of it if that cannot be.
fn half(n: usize, unit: usize) -> usize {
    n.div_ceil(2 * unit).saturating_mul(unit).min(n)
}

/// Starts and heights of tiles that share `rows` evenly: 7 rows are 4 and 3, not 6 and a slow 1.
fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(TILE_ROWS).max(1);
    let start = move |i: usize| i * (rows / count) + i.min(rows % count);
    (0..count).map(move |i| (start(i), start(i + 1) - start(i))).filter(|&(_, rows)| rows > 0)
}

/// Packs panels of rows, one after another, into the front of `to`.
fn pack_rows<'a>(shell: Shell, a: View<'_>, to: &'a mut [f32]) -> &'a [f32] {
    let to = &mut to[..a.rows * a.cols];
    for (row, rows) in tiles(a.rows) {
        shell.pack(a.rows(row, rows), rows, &mut to[row * a.cols..(row + rows) * a.cols]);
    }
    to
}

/// Packs panels of [`TILE_COLS`] columns, the last one filled up with zeros, into the front of `to`.
fn pack_cols<'a>(shell: Shell, b: View<'_>, to: &'a mut [f32]) -> &'a [f32] {
    let to = &mut to[..b.rows * b.cols.next_multiple_of(TILE_COLS)];
    for (i, to) in to.chunks_exact_mut(TILE_COLS * b.rows).enumerate() {
        let col = i * TILE_COLS;
        shell.pack(b.cols(col, TILE_COLS.min(b.cols - col)).transposed(), TILE_COLS, to);
    }
    to
}
