//! The factors that error feedback needs: `H + damping = M D M^T` with M unit upper triangular.
//!
//! With `M = I + A`, the error of a row is `e (H + damping) e^T = sum_j D_j (e_j + sum_{k<j} e_k A[k][j])^2`: whoever
//! fixes columns in ascending order knows all of the inner sum but `e_j`. It is the Cholesky factorisation `V V^T`,
//! `M = V D^{-1/2}`, with the last column eliminated first.

use rayon::prelude::*;

use super::gemm::Mat;
use super::product::{Part, Task};
use super::simd::Update;
use super::simd::view::{View, Window};
use crate::error::Place;
use crate::simd_level::{self, Level};
use crate::{Error, Result};

/// Columns that are factored at once, in f64.
const PANEL: usize = 64;
/// The least damping, relative to the mean of the diagonal: some 16 units in the last place.
const LEAST: f64 = 1e-6;
/// What a damping that rounding errors exceed is multiplied by.
const MORE: f64 = 4.0;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// `[n, n]` row-major, strictly upper: zero on and below the diagonal.
    pub a: Vec<f32>,
    /// `[n]`, all at least the damping.
    pub d: Vec<f32>,
    /// What was added to the diagonal.
    pub damping: f32,
}

/// Factors a symmetric positive semidefinite `h` after adding `max(lambda, 1e-6)` times the mean of its diagonal to its
/// diagonal; only its upper triangle is read. Columns that were never fed (zeros) get `D` = the damping and `A` = 0.
///
/// In f32 with panels of 64 columns in f64, on rayon's current pool; the bits depend neither on threads nor on the
/// CPU. No exact pivot is smaller than the damping. Where rounding makes one slightly smaller, it is set to the
/// damping; where it makes one smaller than half of that, all starts again with four times the damping. The tests
/// hold that 0.01 does not need it, on moments of fewer tokens than columns and of condition 1e8.
///
/// `None` if the diagonal is zero: nothing is known of the inputs.
///
/// # Errors
/// [`Error::NonFinite`] if the upper triangle holds a NaN or an infinity, or a diagonal element is negative; `index`
/// is row times `h.cols` plus column.
///
/// # Panics
/// If `h` is not square or `lambda` is negative or NaN.
pub fn factorise(h: Mat<'_>, lambda: f32) -> Result<Option<Factors>> {
    factorise_at(simd_level::level(), h, lambda)
}

/// [`factorise`] with the shell of a level the CPU has: the same bits, to be compared.
///
/// # Errors
/// As [`factorise`].
pub fn factorise_at(level: Level, h: Mat<'_>, lambda: f32) -> Result<Option<Factors>> {
    assert_eq!(h.rows, h.cols, "second moments are square");
    assert!(lambda >= 0.0, "a damping of {lambda}");
    assert!(level <= simd_level::detected(), "this CPU has no {}", level.name());
    let n = h.rows;
    let h = View::new(h);
    check(h)?;
    let mean = (0..n).map(|i| f64::from(h.at(i, i))).sum::<f64>() / n.max(1) as f64;
    if mean == 0.0 {
        return Ok(None);
    }
    let mut damping = mean * f64::from(lambda).max(LEAST);
    let mut v = vec![0.0; n * n];
    loop {
        damp(h, damping, &mut v);
        if (Cholesky { level, floor: damping }).columns(Window::new(&mut v, n, n, n), 0) {
            return Ok(Some(unit(v, n, damping as f32)));
        }
        damping *= MORE;
    }
}

fn check(h: View<'_>) -> Result<()> {
    let bad = |i: usize, j: usize| !h.at(i, j).is_finite() || (i == j && h.at(i, j) < 0.0);
    let found = (0..h.rows).find_map(|i| (i..h.cols).find(|&j| bad(i, j)).map(|j| (i, j)));
    let Some((i, j)) = found else { return Ok(()) };
    Err(Error::NonFinite {
        place: Place::default(),
        index: (i * h.cols + j) as u64,
        what: format!("the second moments hold {} at row {i}, column {j}", h.at(i, j)),
        fix: "Check the calibration text and the model's weights for what overflows".into(),
    })
}

/// The upper triangle of `h` with the damping; zeros below.
fn damp(h: View<'_>, damping: f64, to: &mut [f32]) {
    to.par_chunks_mut(h.cols).enumerate().for_each(|(i, row)| {
        row[..i].fill(0.0);
        row.iter_mut().enumerate().skip(i).for_each(|(j, to)| *to = h.at(i, j));
        row[i] = (f64::from(row[i]) + damping) as f32;
    });
}

/// A and D of the Cholesky factor.
fn unit(mut v: Vec<f32>, n: usize, damping: f32) -> Factors {
    let pivots: Vec<f32> = (0..n).map(|j| v[j * n + j]).collect();
    v.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        row[..=i].fill(0.0);
        row.iter_mut().zip(&pivots).skip(i + 1).for_each(|(a, &pivot)| *a /= pivot);
    });
    Factors { a: v, d: pivots.iter().map(|p| (p * p).max(damping)).collect(), damping }
}

/// `V V^T` in place of its upper triangle, the last columns first.
#[derive(Clone, Copy)]
struct Cholesky {
    level: Level,
    /// Least pivot `D`.
    floor: f64,
}

impl Cholesky {
    /// Factors the columns of `v`, which holds them from row 0 to their last diagonal element; the first one is
    /// column `first`. Whatever lies to their right has been subtracted before.
    ///
    /// Halves: the right one, what it means for the left one (a product as deep as it is wide), the left one. False if
    /// rounding errors exceed the floor.
    fn columns(self, mut v: Window<'_>, first: usize) -> bool {
        if v.cols <= PANEL {
            return self.panel(v, first);
        }
        let half = (v.cols / 2).next_multiple_of(PANEL);
        let (rows, cols) = (v.rows, v.cols);
        if !self.columns(v.part(0, rows, half, cols - half), first + half) {
            return false;
        }
        let (left, right) = v.split_cols(half);
        let mut left = left.split_rows(first + half).0;
        let right = right.view();
        let subtract =
            Task { level: self.level, update: Update::Subtract, part: Part::Upper(-(first as isize)) };
        let beside = right.rows(first, half).transposed();
        subtract.run(right.rows(0, first + half), beside, left.reborrow());
        self.columns(left, first)
    }

    /// A few columns: the square on the diagonal in f64, and the rows above by its inverse.
    fn panel(self, mut v: Window<'_>, first: usize) -> bool {
        let n = v.cols;
        let mut square = square(v.view().rows(first, n));
        if !self.square(&mut square, n) {
            return false;
        }
        for i in 0..n {
            let row = &mut v.row_mut(first + i)[i..];
            row.iter_mut().zip(&square[i * n + i..(i + 1) * n]).for_each(|(to, &x)| *to = x as f32);
        }
        if first > 0 {
            let inverse: Vec<f32> = inverse(&square, n).iter().map(|&x| x as f32).collect();
            let above = v.split_rows(first).0;
            let before: Vec<f32> = (0..first).flat_map(|i| above.view().row(i)).copied().collect();
            let set = Task { level: self.level, update: Update::Set, part: Part::All };
            let inverse = View::new(Mat::rows(&inverse, n, n)).transposed();
            set.run(View::new(Mat::rows(&before, first, n)), inverse, above);
        }
        true
    }

    /// The same of one small square, `[n, n]`.
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

fn square(v: View<'_>) -> Vec<f64> {
    (0..v.rows).flat_map(|i| v.row(i)).map(|&x| f64::from(x)).collect()
}

/// The inverse of an upper triangle, zeros below.
fn inverse(v: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for i in (0..n).rev() {
        // Row i of `V X = I`: what the rows below say, subtracted from the unit row.
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
#[path = "ldl_tests.rs"]
mod tests;
