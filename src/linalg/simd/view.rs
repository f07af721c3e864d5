//! Views of matrices that may be cut along columns: what slices of rows cannot express.

use std::marker::PhantomData;

use crate::linalg::gemm::Mat;

/// A read-only matrix whose element (i, j) lies `i * row_stride + j * col_stride` after the first.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    first: *const f32,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
    of: PhantomData<&'a [f32]>,
}

// SAFETY: it reads as a shared slice would.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

/// One more than the offset of the last element; `None` if that is beyond `usize`.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    let last_row = (rows - 1).checked_mul(row_stride)?;
    let last_col = (cols - 1).checked_mul(col_stride)?;
    last_row.checked_add(last_col)?.checked_add(1)
}

impl<'a> View<'a> {
    /// # Panics
    /// If the last element lies beyond the data.
    pub fn new(of: Mat<'a>) -> Self {
        let Mat { data, rows, cols, row_stride, col_stride } = of;
        let extent = extent(rows, cols, row_stride, col_stride);
        assert!(extent.is_some_and(|n| n <= data.len()), "a matrix larger than its data");
        Self { first: data.as_ptr(), rows, cols, row_stride, col_stride, of: PhantomData }
    }

    pub fn transposed(self) -> Self {
        let Self { rows, cols, row_stride, col_stride, .. } = self;
        Self { rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride, ..self }
    }

    /// The `rows` rows from `row` on.
    pub fn rows(self, row: usize, rows: usize) -> Self {
        assert!(row + rows <= self.rows, "rows {row} + {rows} of {}", self.rows);
        // An empty view keeps its pointer: the offset might be beyond the data.
        let skip = if rows == 0 || self.cols == 0 { 0 } else { row * self.row_stride };
        // SAFETY: the first element of the part is an element of the whole.
        Self { first: unsafe { self.first.add(skip) }, rows, ..self }
    }

    /// The `cols` columns from `col` on.
    pub fn cols(self, col: usize, cols: usize) -> Self {
        self.transposed().rows(col, cols).transposed()
    }

    /// Element (i, j).
    #[inline(always)]
    pub fn at(self, i: usize, j: usize) -> f32 {
        assert!(i < self.rows && j < self.cols);
        // SAFETY: inside, and readable for the lifetime.
        unsafe { *self.first.add(i * self.row_stride + j * self.col_stride) }
    }

    /// Row i.
    ///
    /// # Panics
    /// If its elements do not lie side by side.
    #[inline(always)]
    pub fn row(self, i: usize) -> &'a [f32] {
        assert!(i < self.rows && (self.col_stride == 1 || self.cols <= 1));
        // SAFETY: `cols` elements, side by side, readable for the lifetime.
        unsafe { std::slice::from_raw_parts(self.first.add(i * self.row_stride), self.cols) }
    }

    /// The first element.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn as_ptr(self) -> *const f32 {
        self.first
    }
}

/// A matrix to write to: rows of `cols` values side by side, `stride` values apart.
pub(crate) struct Window<'a> {
    first: *mut f32,
    pub rows: usize,
    pub cols: usize,
    stride: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: windows onto one slice never share an element (see the splits), so each is as good as a unique slice.
unsafe impl Send for Window<'_> {}
// SAFETY: through a shared window elements are only read.
unsafe impl Sync for Window<'_> {}

impl<'a> Window<'a> {
    /// # Panics
    /// If rows overlap or the last element lies beyond the data.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        let extent = extent(rows, cols, stride, 1);
        assert!(extent.is_some_and(|n| n <= data.len()), "a matrix larger than its data");
        assert!(rows <= 1 || stride >= cols, "rows of {cols} values, {stride} apart");
        Self { first: data.as_mut_ptr(), rows, cols, stride, of: PhantomData }
    }

    /// The same elements for a shorter time.
    pub fn reborrow(&mut self) -> Window<'_> {
        Window { first: self.first, rows: self.rows, cols: self.cols, stride: self.stride, of: PhantomData }
    }

    /// The first `row` rows and the others.
    pub fn split_rows(self, row: usize) -> (Self, Self) {
        assert!(row <= self.rows);
        let skip = if row == self.rows || self.cols == 0 { 0 } else { row * self.stride };
        // SAFETY: the first element of the second part is an element of the whole (or the part is empty).
        let second = unsafe { self.first.add(skip) };
        (Self { rows: row, ..self }, Self { first: second, rows: self.rows - row, ..self })
    }

    /// The first `col` columns and the others.
    pub fn split_cols(self, col: usize) -> (Self, Self) {
        assert!(col <= self.cols);
        let skip = if col == self.cols || self.rows == 0 { 0 } else { col };
        // SAFETY: the first element of the second part is an element of the whole (or the part is empty).
        let second = unsafe { self.first.add(skip) };
        (Self { cols: col, ..self }, Self { first: second, cols: self.cols - col, ..self })
    }

    /// The `rows` x `cols` elements from (row, col) on.
    pub fn part(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> Window<'_> {
        self.reborrow().split_rows(row).1.split_rows(rows).0.split_cols(col).1.split_cols(cols).0
    }

    pub fn view(&self) -> View<'_> {
        let &Self { rows, cols, stride, .. } = self;
        View { first: self.first, rows, cols, row_stride: stride, col_stride: 1, of: PhantomData }
    }

    #[inline(always)]
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows);
        // SAFETY: `cols` elements of row i, side by side, which nobody else has.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.stride), self.cols) }
    }

    /// The first element and the distance of rows.
    pub(super) fn as_mut_ptr(&mut self) -> (*mut f32, usize) {
        (self.first, self.stride)
    }
}
