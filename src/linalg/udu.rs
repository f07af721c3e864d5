//! The UDUᵀ factorization that error feedback needs: `H + damping I = U D U^T` with U unit upper triangular.
//!
//! With `U = I + A` the cost of an error row `e` is
//! `e (H + damping I) e^T = sum_j D_j (e_j + sum_{k<j} e_k A[k][j])^2`. A solver that fixes the columns in ascending order
//! therefore knows every term of the inner sum when it chooses `e_j`. U and D are the factors of LDLQ (Chee et al. 2023,
//! QuIP) with rows and columns reversed. They are computed as the Cholesky factor `V` with `H + damping I = V V^T` and
//! `U = V D^{-1/2}`, which eliminates the last column first.
//!
//! ```
//! use srd_rs::linalg::matrix::MatRef;
//! use srd_rs::linalg::udu::factorize;
//!
//! let h = [2.0, 1.0, 1.0, 2.0];
//! let udu = factorize(MatRef::from_row_major_slice(&h, 2, 2), 0.01)?.expect("the diagonal is not zero");
//! assert!((udu.d[1] - 2.02).abs() < 1e-5 && (udu.a[1] - 1.0 / 2.02).abs() < 1e-5);
//! # Ok::<(), srd_rs::Error>(())
//! ```

use rayon::prelude::*;

use super::matrix::{MatMut, MatRef, Update};
use super::product::{GemmTask, Triangle};
use crate::error::Place;
use crate::simd::Isa;
use crate::{Error, Result};

/// Number of columns that are factorized at once, in f64.
const PANEL: usize = 64;
/// The smallest damping, as a share of the mean of the diagonal: about 16 units in the last place.
const MIN_DAMPING: f64 = 1e-6;
/// The damping is multiplied by this factor when rounding errors exceed the damping.
const DAMPING_GROWTH: f64 = 4.0;

/// The factors of a damped matrix; see the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Udu {
    /// `A = U - I`, `[n, n]` row-major and strictly upper: zero on and below the diagonal.
    pub a: Vec<f32>,
    /// The pivots D, `[n]`. Every pivot is at least the damping.
    pub d: Vec<f32>,
    /// The value that was added to the diagonal.
    pub damping: f32,
}

/// Factorizes the symmetric positive semidefinite `h`, `[n, n]`, after adding `max(lambda, 1e-6)` times the mean of the
/// diagonal to the diagonal. Only the upper triangle of `h` is read. Columns that are zero get `D` = the damping and
/// `A` = 0. Returns `None` if the diagonal is zero, because then nothing is known of the inputs.
///
/// The computation is in f32, with panels of 64 columns in f64, on rayon's current pool. The bits depend neither on
/// threads nor on the CPU. In exact arithmetic no pivot is smaller than the damping. A pivot that rounding makes slightly
/// smaller is set to the damping. If rounding makes a pivot smaller than half the damping, the factorization starts again
/// with four times the damping. The tests hold that `lambda` = 0.01 needs no second start, for moments of fewer tokens
/// than columns and of condition 1e8.
///
/// # Errors
/// Returns [`Error::NonFinite`] if the upper triangle holds a NaN or an infinity, or if a diagonal element is negative.
/// `index` of the error is row times `n` plus column.
///
/// # Panics
/// Panics if `h` is not square, or if `lambda` is negative or NaN.
pub fn factorize(h: MatRef<'_>, lambda: f32) -> Result<Option<Udu>> {
    factorize_on(Isa::detect(), h, lambda)
}

/// Computes [`factorize`] with the instruction set `isa`. Every instruction set gives the same bits; tests compare them.
///
/// # Errors
/// Returns the errors of [`factorize`].
///
/// # Panics
/// Panics as [`factorize`].
pub fn factorize_on(isa: Isa, h: MatRef<'_>, lambda: f32) -> Result<Option<Udu>> {
    assert_eq!(h.nrows(), h.ncols(), "second moments are square");
    assert!(lambda >= 0.0, "the damping {lambda} is negative");
    let n = h.nrows();
    check(h)?;
    let mean = (0..n).map(|i| f64::from(h.at(i, i))).sum::<f64>() / n.max(1) as f64;
    if mean == 0.0 {
        return Ok(None);
    }
    let mut damping = mean * f64::from(lambda).max(MIN_DAMPING);
    let mut v = vec![0.0; n * n];
    loop {
        damp(h, damping, &mut v);
        if (Cholesky { isa, floor: damping }).columns(MatMut::from_row_major_slice(&mut v, n, n), 0) {
            return Ok(Some(unit(v, n, damping as f32)));
        }
        damping *= DAMPING_GROWTH;
    }
}

/// Checks that the upper triangle is finite and the diagonal not negative.
fn check(h: MatRef<'_>) -> Result<()> {
    let bad = |i: usize, j: usize| !h.at(i, j).is_finite() || (i == j && h.at(i, j) < 0.0);
    let found = (0..h.nrows()).find_map(|i| (i..h.ncols()).find(|&j| bad(i, j)).map(|j| (i, j)));
    let Some((i, j)) = found else { return Ok(()) };
    Err(Error::NonFinite {
        place: Place::default(),
        index: (i * h.ncols() + j) as u64,
        what: format!("the second moments hold {} at row {i}, column {j}", h.at(i, j)),
        fix: "Check that the model's weights are finite, and try another calibration text".into(),
    })
}

/// Copies the upper triangle of `h` to `to`, adds the damping to the diagonal and fills the lower triangle with zeros.
fn damp(h: MatRef<'_>, damping: f64, to: &mut [f32]) {
    to.par_chunks_mut(h.ncols()).enumerate().for_each(|(i, row)| {
        row[..i].fill(0.0);
        row.iter_mut().enumerate().skip(i).for_each(|(j, to)| *to = h.at(i, j));
        row[i] = (f64::from(row[i]) + damping) as f32;
    });
}

/// Computes A and D from the Cholesky factor `v`, `[n, n]`.
fn unit(mut v: Vec<f32>, n: usize, damping: f32) -> Udu {
    let pivots: Vec<f32> = (0..n).map(|j| v[j * n + j]).collect();
    v.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        row[..=i].fill(0.0);
        row.iter_mut().zip(&pivots).skip(i + 1).for_each(|(a, &pivot)| *a /= pivot);
    });
    Udu { a: v, d: pivots.iter().map(|p| (p * p).max(damping)).collect(), damping }
}

/// The Cholesky factorization `V V^T` in place of the upper triangle. It begins with the last columns.
#[derive(Clone, Copy)]
struct Cholesky {
    isa: Isa,
    /// The smallest pivot `D`.
    floor: f64,
}

impl Cholesky {
    /// Factorizes the columns of `v` by recursion from right to left. `v` holds the columns from row 0 to their last
    /// diagonal element; the first of the columns is column `first` of the whole matrix. The outer products of the
    /// columns further right have been subtracted before.
    ///
    /// Factorizes the right half, subtracts its outer product from the left half (one product), then factorizes the left
    /// half. Returns false if a pivot falls below half the floor.
    fn columns(self, mut v: MatMut<'_>, first: usize) -> bool {
        if v.ncols() <= PANEL {
            return self.panel(v, first);
        }
        let half = (v.ncols() / 2).next_multiple_of(PANEL);
        let (rows, cols) = (v.nrows(), v.ncols());
        if !self.columns(v.submatrix_mut(0, half, rows, cols - half), first + half) {
            return false;
        }
        let (left, right) = v.split_at_col(half);
        let mut left = left.split_at_row(first + half).0;
        let right = right.rb();
        let triangle = Triangle::Upper(-(first as isize));
        let subtract = GemmTask { isa: self.isa, update: Update::Subtract, triangle };
        let beside = right.subrows(first, half).transpose();
        subtract.run(right.subrows(0, first + half), beside, left.rb_mut());
        self.columns(left, first)
    }

    /// Factorizes at most [`PANEL`] columns: the square on the diagonal in f64, and the rows above by its inverse.
    fn panel(self, mut v: MatMut<'_>, first: usize) -> bool {
        let n = v.ncols();
        let mut square = to_f64(v.rb().subrows(first, n));
        if !self.square(&mut square, n) {
            return false;
        }
        for i in 0..n {
            let row = &mut v.row_mut(first + i)[i..];
            row.iter_mut().zip(&square[i * n + i..(i + 1) * n]).for_each(|(to, &x)| *to = x as f32);
        }
        if first > 0 {
            let inverse: Vec<f32> = inverse(&square, n).iter().map(|&x| x as f32).collect();
            let above = v.split_at_row(first).0;
            let before: Vec<f32> = (0..first).flat_map(|i| above.rb().row(i)).copied().collect();
            let set = GemmTask { isa: self.isa, update: Update::Set, triangle: Triangle::Whole };
            let inverse = MatRef::from_row_major_slice(&inverse, n, n).transpose();
            set.run(MatRef::from_row_major_slice(&before, first, n), inverse, above);
        }
        true
    }

    /// Factorizes one small square, `[n, n]`, column by column from the right.
    fn square(self, v: &mut [f64], n: usize) -> bool {
        for j in (0..n).rev() {
            let exact = v[j * n + j];
            if exact < 0.5 * self.floor {
                return false;
            }
            let pivot = exact.max(self.floor).sqrt();
            v[j * n + j] = pivot;
            (0..j).for_each(|i| v[i * n + j] /= pivot);
            for i in 0..j {
                let factor = v[i * n + j];
                (i..j).for_each(|k| v[i * n + k] -= factor * v[k * n + j]);
            }
        }
        true
    }
}

/// Copies a matrix to f64.
fn to_f64(v: MatRef<'_>) -> Vec<f64> {
    (0..v.nrows()).flat_map(|i| v.row(i)).map(|&x| f64::from(x)).collect()
}

/// Returns the inverse of an upper triangular matrix, `[n, n]`, with zeros below the diagonal.
fn inverse(v: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for i in (0..n).rev() {
        // Row i of `V X = I`: subtract the rows below, times the factors of row i, from the unit row.
        inverse[i * n + i] = 1.0;
        for k in i + 1..n {
            let factor = v[i * n + k];
            (k..n).for_each(|j| inverse[i * n + j] -= factor * inverse[k * n + j]);
        }
        (i..n).for_each(|j| inverse[i * n + j] /= v[i * n + i]);
    }
    inverse
}

#[cfg(test)]
#[path = "udu_tests.rs"]
mod tests;
