//! The innermost loops of the matrix product: packing panels, and one tile of the result.
//!
//! A tile has up to [`TILE_ROWS`] rows of [`TILE_COLS`] columns. Its element (i, j) is a chain of fused multiply-adds
//! `sum = a[k][i] * b[k][j] + sum` from zero over ascending k, in every shell: the bits are those of the portable one.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

use super::gemm::Update;
use super::matrix::{MatMut, MatRef};
use crate::simd_level::Level;

pub(super) const TILE_ROWS: usize = 6;
pub(super) const TILE_COLS: usize = 16;

/// One instruction set's loops.
#[derive(Clone, Copy)]
pub(super) struct Shell {
    /// Rows of the tile, depth, packed a, packed b, c, distance of c's rows, what to do with the sums.
    tile: unsafe fn(usize, usize, *const f32, *const f32, *mut f32, usize, Update),
    /// Lanes side by side in k, to be interleaved: as [`Shell::pack`], for `col_stride` 1.
    interleave: unsafe fn(MatRef<'_>, usize, &mut [f32]),
}

impl Shell {
    pub fn of(level: Level) -> Self {
        #[cfg(target_arch = "x86_64")]
        if level >= Level::Avx2 {
            return Self { tile: avx2::tile, interleave: avx2::interleave };
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("fma") {
            return Self { tile: portable::tile_fma, interleave: portable::interleave };
        }
        let _ = level;
        Self { tile: portable::tile, interleave: portable::interleave }
    }

    /// `to[k * width + lane]` becomes `from[lane][k]`, zero for lanes that `from` has not.
    pub fn pack(self, from: MatRef<'_>, width: usize, to: &mut [f32]) {
        assert!((1..=TILE_ROWS).contains(&width) || width == TILE_COLS);
        assert!(from.nrows() <= width && to.len() == width * from.ncols());
        if from.col_stride() == 1 {
            // SAFETY: `of` chose a shell that the CPU has; lengths are checked above.
            unsafe { (self.interleave)(from, width, to) }
        } else {
            portable::gather(from, width, to);
        }
    }

    /// Adds (or as `update` says) the product of packed panels to a tile: `a` holds `c.nrows()` values for each k, `b`
    /// holds [`TILE_COLS`].
    #[inline]
    pub fn tile(self, a: &[f32], b: &[f32], mut c: MatMut<'_>, update: Update) {
        let depth = b.len() / TILE_COLS;
        assert!(a.len() == depth * c.nrows() && b.len() == depth * TILE_COLS);
        assert!((1..=TILE_ROWS).contains(&c.nrows()) && c.ncols() <= TILE_COLS);
        if c.ncols() == TILE_COLS {
            let (to, stride) = c.as_mut_ptr();
            // SAFETY: panels of `depth`, a full tile of the window, and a shell that the CPU has.
            unsafe { (self.tile)(c.nrows(), depth, a.as_ptr(), b.as_ptr(), to, stride, update) };
            return;
        }
        let mut whole = [0.0; TILE_ROWS * TILE_COLS];
        // SAFETY: as above, with a buffer of a full tile.
        unsafe {
            let to = whole.as_mut_ptr();
            (self.tile)(c.nrows(), depth, a.as_ptr(), b.as_ptr(), to, TILE_COLS, Update::Set);
        }
        for (i, sums) in whole.chunks_exact(TILE_COLS).take(c.nrows()).enumerate() {
            portable::finish(sums, c.row_mut(i), update);
        }
    }
}
