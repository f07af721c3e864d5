//! Views of matrices in a slice of f32: [`MatRef`] reads, [`MatMut`] writes.
//!
//! A view can be cut along columns as well as along rows, which slices cannot express. The names follow the `faer`
//! crate. The linear algebra of this crate needs only these views, so that it does not depend on `faer`.
//!
//! ```
//! use srd_rs::linalg::matrix::{MatMut, MatRef};
//!
//! let mut data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let view = MatRef::from_row_major_slice(&data, 2, 3);
//! assert_eq!(view.at(1, 0), 4.0);
//! assert_eq!(view.transpose().row_stride(), 1);
//!
//! let (mut left, mut right) = MatMut::from_row_major_slice(&mut data, 2, 3).split_at_col(1);
//! left.row_mut(0).fill(0.0);
//! right.row_mut(1).fill(9.0);
//! assert_eq!(data, [0.0, 2.0, 3.0, 4.0, 9.0, 9.0]);
//! ```

use std::marker::PhantomData;

/// What a matrix product does to its output `c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// `c = a b`
    Set,
    /// `c = c + a b`
    Add,
    /// `c = c - a b`
    Subtract,
}

/// A matrix to read: element (i, j) lies `i * row_stride + j * col_stride` floats after the first element.
#[derive(Debug, Clone, Copy)]
pub struct MatRef<'a> {
    first: *const f32,
    nrows: usize,
    ncols: usize,
    row_stride: usize,
    col_stride: usize,
    data: PhantomData<&'a [f32]>,
}

// SAFETY: a `MatRef` only reads, as a shared slice does.
unsafe impl Send for MatRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for MatRef<'_> {}

/// Returns the number of floats from the first element to the last one, both counted; `None` if the number exceeds
/// `usize`.
fn extent(nrows: usize, ncols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if nrows == 0 || ncols == 0 {
        return Some(0);
    }
    let last_row = (nrows - 1).checked_mul(row_stride)?;
    let last_col = (ncols - 1).checked_mul(col_stride)?;
    last_row.checked_add(last_col)?.checked_add(1)
}

fn check_extent(len: usize, nrows: usize, ncols: usize, row_stride: usize, col_stride: usize) {
    let extent = extent(nrows, ncols, row_stride, col_stride);
    assert!(
        extent.is_some_and(|extent| extent <= len),
        "a matrix of {nrows} x {ncols} elements is larger than its data"
    );
}

impl<'a> MatRef<'a> {
    /// Views `data` as `nrows` rows of `ncols` values, one row after another.
    ///
    /// # Panics
    /// Panics if `data` is too short.
    pub fn from_row_major_slice(data: &'a [f32], nrows: usize, ncols: usize) -> Self {
        Self::from_slice_with_strides(data, nrows, ncols, ncols, 1)
    }

    /// Views `data` with any strides, given in floats.
    ///
    /// # Panics
    /// Panics if the last element lies beyond `data`.
    pub fn from_slice_with_strides(
        data: &'a [f32],
        nrows: usize,
        ncols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Self {
        check_extent(data.len(), nrows, ncols, row_stride, col_stride);
        Self { first: data.as_ptr(), nrows, ncols, row_stride, col_stride, data: PhantomData }
    }

    /// Returns the number of rows.
    pub fn nrows(self) -> usize {
        self.nrows
    }

    /// Returns the number of columns.
    pub fn ncols(self) -> usize {
        self.ncols
    }

    /// Returns the distance between neighbouring rows, in floats.
    pub fn row_stride(self) -> usize {
        self.row_stride
    }

    /// Returns the distance between neighbouring columns, in floats.
    pub fn col_stride(self) -> usize {
        self.col_stride
    }

    /// Returns a pointer to the first element.
    pub fn as_ptr(self) -> *const f32 {
        self.first
    }

    /// Returns the view with rows and columns exchanged.
    pub fn transpose(self) -> Self {
        let Self { nrows, ncols, row_stride, col_stride, .. } = self;
        Self { nrows: ncols, ncols: nrows, row_stride: col_stride, col_stride: row_stride, ..self }
    }

    /// Returns the `nrows` rows from `row` on.
    ///
    /// # Panics
    /// Panics if the matrix has fewer rows.
    pub fn subrows(self, row: usize, nrows: usize) -> Self {
        assert!(
            row <= self.nrows && nrows <= self.nrows - row,
            "{nrows} rows from row {row} on, where the matrix has {}",
            self.nrows
        );
        Self { first: self.first.wrapping_add(row.wrapping_mul(self.row_stride)), nrows, ..self }
    }

    /// Returns the `ncols` columns from `col` on.
    ///
    /// # Panics
    /// Panics if the matrix has fewer columns.
    pub fn subcols(self, col: usize, ncols: usize) -> Self {
        self.transpose().subrows(col, ncols).transpose()
    }

    /// Returns element (i, j).
    ///
    /// # Panics
    /// Panics if the element is outside the matrix.
    #[inline(always)]
    pub fn at(self, i: usize, j: usize) -> f32 {
        assert!(i < self.nrows && j < self.ncols);
        // SAFETY: the element is inside the matrix, and readable for the lifetime `'a`.
        unsafe { *self.first.add(i * self.row_stride + j * self.col_stride) }
    }

    /// Returns row `i` as a slice.
    ///
    /// # Panics
    /// Panics if the matrix has no such row, or if neighbouring columns are not neighbours in memory.
    #[inline(always)]
    pub fn row(self, i: usize) -> &'a [f32] {
        assert!(i < self.nrows && (self.col_stride == 1 || self.ncols <= 1));
        if self.ncols == 0 {
            return &[];
        }
        // SAFETY: the `ncols` elements of the row lie side by side and are readable for the lifetime `'a`.
        unsafe { std::slice::from_raw_parts(self.first.add(i * self.row_stride), self.ncols) }
    }
}

/// A matrix to write: rows of `ncols` neighbouring values, `row_stride` floats apart.
///
/// Two `MatMut` into the same slice never share an element, because only the `split_at` methods make two of one.
#[derive(Debug)]
pub struct MatMut<'a> {
    first: *mut f32,
    nrows: usize,
    ncols: usize,
    row_stride: usize,
    data: PhantomData<&'a mut [f32]>,
}

// SAFETY: no two `MatMut` share an element, so each one is as exclusive as a `&mut` slice.
unsafe impl Send for MatMut<'_> {}
// SAFETY: a shared `MatMut` only reads.
unsafe impl Sync for MatMut<'_> {}

impl<'a> MatMut<'a> {
    /// Views `data` as `nrows` rows of `ncols` values, one row after another.
    ///
    /// # Panics
    /// Panics if `data` is too short.
    pub fn from_row_major_slice(data: &'a mut [f32], nrows: usize, ncols: usize) -> Self {
        Self::from_row_major_slice_with_stride(data, nrows, ncols, ncols)
    }

    /// Views `data` as `nrows` rows of `ncols` values, `row_stride` floats apart.
    ///
    /// # Panics
    /// Panics if rows overlap or if the last element lies beyond `data`.
    pub fn from_row_major_slice_with_stride(
        data: &'a mut [f32],
        nrows: usize,
        ncols: usize,
        row_stride: usize,
    ) -> Self {
        check_extent(data.len(), nrows, ncols, row_stride, 1);
        assert!(
            nrows <= 1 || row_stride >= ncols,
            "rows of {ncols} values overlap at a stride of {row_stride}"
        );
        Self { first: data.as_mut_ptr(), nrows, ncols, row_stride, data: PhantomData }
    }

    /// Returns the number of rows.
    pub fn nrows(&self) -> usize {
        self.nrows
    }

    /// Returns the number of columns.
    pub fn ncols(&self) -> usize {
        self.ncols
    }

    /// Returns a read-only view.
    pub fn rb(&self) -> MatRef<'_> {
        let &Self { nrows, ncols, row_stride, .. } = self;
        MatRef { first: self.first, nrows, ncols, row_stride, col_stride: 1, data: PhantomData }
    }

    /// Returns the same view with a shorter lifetime (a reborrow).
    pub fn rb_mut(&mut self) -> MatMut<'_> {
        let &mut Self { first, nrows, ncols, row_stride, .. } = self;
        MatMut { first, nrows, ncols, row_stride, data: PhantomData }
    }

    /// Returns the first `row` rows and the remaining rows.
    ///
    /// # Panics
    /// Panics if the matrix has fewer rows.
    pub fn split_at_row(self, row: usize) -> (Self, Self) {
        assert!(row <= self.nrows);
        let second = self.first.wrapping_add(row.wrapping_mul(self.row_stride));
        (Self { nrows: row, ..self }, Self { first: second, nrows: self.nrows - row, ..self })
    }

    /// Returns the first `col` columns and the remaining columns.
    ///
    /// # Panics
    /// Panics if the matrix has fewer columns.
    pub fn split_at_col(self, col: usize) -> (Self, Self) {
        assert!(col <= self.ncols);
        let second = self.first.wrapping_add(col);
        (Self { ncols: col, ..self }, Self { first: second, ncols: self.ncols - col, ..self })
    }

    /// Returns the `nrows` x `ncols` elements from (row, col) on.
    ///
    /// # Panics
    /// Panics if the matrix is smaller.
    pub fn submatrix_mut(&mut self, row: usize, col: usize, nrows: usize, ncols: usize) -> MatMut<'_> {
        let rows = self.rb_mut().split_at_row(row).1.split_at_row(nrows).0;
        rows.split_at_col(col).1.split_at_col(ncols).0
    }

    /// Returns row `i` as a slice.
    ///
    /// # Panics
    /// Panics if the matrix has no such row.
    #[inline(always)]
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.nrows);
        if self.ncols == 0 {
            return &mut [];
        }
        // SAFETY: the `ncols` elements of the row lie side by side, and no other view has them.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.row_stride), self.ncols) }
    }
}

/// These tests are small, so that miri can run them: `cargo miri test --lib linalg::matrix`.
#[cfg(test)]
mod tests {
    use super::*;

    fn counting(n: usize) -> Vec<f32> {
        (0..n).map(|i| i as f32).collect()
    }

    #[test]
    fn every_view_reads_the_element_that_its_strides_name() {
        let data = counting(24);
        let whole = MatRef::from_row_major_slice(&data, 4, 6);
        let part = whole.subrows(1, 2).subcols(2, 3);
        assert_eq!((part.nrows(), part.ncols(), part.row(1)), (2, 3, [14.0, 15.0, 16.0].as_slice()));
        for i in 0..2 {
            for j in 0..3 {
                assert_eq!(part.at(i, j), ((i + 1) * 6 + j + 2) as f32);
                assert_eq!(part.transpose().at(j, i), part.at(i, j));
            }
        }
        let every_other = MatRef::from_slice_with_strides(&data, 3, 3, 8, 2);
        assert_eq!(every_other.at(2, 2), 20.0);
    }

    #[test]
    fn empty_views_at_every_border_are_allowed() {
        let mut data = counting(6);
        let whole = MatRef::from_row_major_slice(&data, 2, 3);
        assert_eq!(whole.subrows(2, 0).nrows(), 0);
        assert_eq!(whole.subcols(3, 0).row(1), [0.0; 0]);
        let (mut all, rest) = MatMut::from_row_major_slice(&mut data, 2, 3).split_at_row(2);
        assert_eq!((rest.nrows(), all.row_mut(1).len()), (0, 3));
        assert_eq!(all.submatrix_mut(2, 3, 0, 0).ncols(), 0);
        assert_eq!(MatRef::from_row_major_slice(&[], 0, 5).nrows(), 0);
    }

    #[test]
    fn parts_that_are_split_off_can_be_written_on_two_threads() {
        let mut data = vec![0.0; 35];
        let whole = MatMut::from_row_major_slice_with_stride(&mut data, 5, 6, 7);
        let (upper, lower) = whole.split_at_row(2);
        let (left, right) = lower.split_at_col(4);
        let fill = |mut part: MatMut<'_>, value: f32| {
            (0..part.nrows()).for_each(|i| part.row_mut(i).fill(value));
            assert!((0..part.nrows()).all(|i| part.rb().row(i).iter().all(|&v| v == value)));
        };
        std::thread::scope(|scope| {
            scope.spawn(|| fill(upper, 1.0));
            scope.spawn(|| fill(left, 2.0));
            fill(right, 3.0);
        });
        for (at, &value) in data.iter().enumerate() {
            let expected = match (at / 7, at % 7) {
                (_, 6) => 0.0,
                (0..2, _) => 1.0,
                (_, 0..4) => 2.0,
                _ => 3.0,
            };
            assert_eq!(value, expected, "element {at}");
        }
    }

    #[test]
    fn a_part_is_read_while_its_neighbour_is_written() {
        let mut data = counting(12);
        let (mut left, right) = MatMut::from_row_major_slice(&mut data, 3, 4).split_at_col(2);
        for i in 0..3 {
            let from = right.rb().row(i);
            left.row_mut(i).copy_from_slice(from);
        }
        assert_eq!(data, [2.0, 3.0, 2.0, 3.0, 6.0, 7.0, 6.0, 7.0, 10.0, 11.0, 10.0, 11.0]);
    }

    #[test]
    #[should_panic(expected = "larger than its data")]
    fn a_view_beyond_its_data_panics() {
        MatRef::from_slice_with_strides(&[0.0; 11], 3, 4, 4, 1);
    }

    #[test]
    #[should_panic(expected = "larger than its data")]
    fn an_extent_beyond_usize_panics() {
        MatRef::from_slice_with_strides(&[0.0; 11], 3, 4, usize::MAX, 1);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_rows_panic() {
        MatMut::from_row_major_slice_with_stride(&mut [0.0; 16], 3, 4, 3);
    }

    #[test]
    #[should_panic(expected = "where the matrix has 2")]
    fn rows_beyond_the_matrix_panic() {
        MatRef::from_row_major_slice(&[0.0; 6], 2, 3).subrows(1, 2);
    }
}
