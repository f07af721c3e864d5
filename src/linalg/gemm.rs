//! Matrix products.

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
    assert_eq!(a.cols, b.rows, "inner dimensions");
    for i in 0..a.rows {
        for j in 0..b.cols {
            let mut sum = 0.0f32;
            for k in 0..a.cols {
                let x = a.data[i * a.row_stride + k * a.col_stride];
                sum = x.mul_add(b.data[k * b.row_stride + j * b.col_stride], sum);
            }
            let to = &mut c[i * c_stride + j];
            *to = if add { *to + sum } else { sum };
        }
    }
}
