//! Matrix products.

use super::product::{Part, Task};
use super::simd::Update;
use super::simd::view::{View, Window};
use crate::simd_level::{self, Level};

/// A view of a matrix: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows` rows of `cols` values one after another.
    pub fn rows(data: &'a [f32], rows: usize, cols: usize) -> Self {
        debug_assert!(data.len() >= rows * cols);
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }
}

/// `c = a b` or, with `add`, `c += a b`; `c` has `a.rows` rows of `b.cols`, `c_stride` values apart.
///
/// Every element is the sum over k in ascending order, fused multiply-adds in fixed pieces of k, whatever the number of
/// threads (rayon's current pool) or the CPU.
///
/// # Panics
/// If the shapes do not agree.
pub fn gemm(a: Mat<'_>, b: Mat<'_>, c: &mut [f32], c_stride: usize, add: bool) {
    gemm_at(simd_level::level(), a, b, c, c_stride, add);
}

/// [`gemm`] with the shell of a level the CPU has (see [`simd_level::available`]): the same bits, to be compared.
///
/// # Panics
/// If the shapes do not agree, or the CPU lacks the level.
pub fn gemm_at(level: Level, a: Mat<'_>, b: Mat<'_>, c: &mut [f32], c_stride: usize, add: bool) {
    assert!(level <= simd_level::detected(), "this CPU has no {}", level.name());
    let task = Task { level, update: if add { Update::Add } else { Update::Set }, part: Part::All };
    let c = Window::new(c, a.rows, b.cols, c_stride);
    task.run(View::new(a), View::new(b), c);
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
