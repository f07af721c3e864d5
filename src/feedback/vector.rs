//! Vectors of [`ROWS`] lanes in memory, one row in each lane, and the dot products that the solver is made of.

use std::ops::Range;

use crate::simd::Vector;

/// Number of rows that are solved together.
pub(super) const ROWS: usize = 16;
/// Largest number of groups of [`ROWS`] rows that take each step of the solver one after another.
pub(super) const TOGETHER: usize = 4;

/// The same column of [`ROWS`] rows in memory; it fills one cache line.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C, align(64))]
pub(super) struct F32x16(pub [f32; ROWS]);

/// [`ROWS`] words of 32 bits in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(64))]
pub(super) struct U32x16(pub [u32; ROWS]);

/// Number of columns that the solver fixes in one step. Also the number of rows of a matrix in a call of [`dots`]: their
/// sums, a vector of values and a coefficient fill the registers of AVX2.
pub(super) const TILE: usize = 4;

/// Adds dot products with `R` rows of `m`: `sums[c] += sum over i of m[(row + c) * stride + col + i] * x[i]`, in ascending
/// order of i. Each product and sum is fused.
#[inline(always)]
pub(super) fn dots<V: Vector, const R: usize>(
    v: V,
    m: &[f32],
    stride: usize,
    (row, col): (usize, usize),
    x: &[F32x16],
    sums: [V::F; R],
) -> [V::F; R] {
    let [sums] = dots_of_groups(v, m, stride, (row, col), [x], [sums]);
    sums
}

/// Computes [`dots`] for `G` groups of rows with the same rows of `m`.
#[inline(always)]
fn dots_of_groups<V: Vector, const R: usize, const G: usize>(
    v: V,
    m: &[f32],
    stride: usize,
    (row, col): (usize, usize),
    x: [&[F32x16]; G],
    mut sums: [[V::F; R]; G],
) -> [[V::F; R]; G] {
    let n = x[0].len();
    let mut rows = [&m[..0]; R];
    for c in 0..R {
        rows[c] = &m[(row + c) * stride + col..][..n];
    }
    let x = x.map(|x| &x[..n]);
    for i in 0..n {
        let mut of_groups = [v.splat(0.0); G];
        for g in 0..G {
            of_groups[g] = v.load(&x[g][i].0);
        }
        for c in 0..R {
            let coefficient = v.splat(rows[c][i]);
            for g in 0..G {
                sums[g][c] = v.mul_add(coefficient, of_groups[g], sums[g][c]);
            }
        }
    }
    sums
}

/// Returns whether a vector is one register, which has the alignment of its size. Then there are registers for twice the
/// sums, and the CPU needs as many independent sums to be busy.
#[inline(always)]
pub(super) fn is_one_register<V: Vector>() -> bool {
    align_of::<V::F>() == size_of::<V::F>()
}

/// Computes the dot products of the vectors of each group of rows with the `rows` of `m`, from column `col` on and from zero. Two
/// groups are multiplied by a row at a time, so that it is fetched once for both.
#[inline(always)]
pub(super) fn all_dots<'a, V: Vector, const N: usize>(
    v: V,
    m: &[f32],
    stride: usize,
    (rows, col): (Range<usize>, usize),
    groups: impl IntoIterator<Item = &'a [F32x16]>,
    to: &mut [[F32x16; N]],
) {
    let is_wide = is_one_register::<V>() && rows.len().is_multiple_of(2 * TILE);
    let (mut groups, at) = (groups.into_iter(), (&rows, col));
    for to in to.chunks_mut(2) {
        match ([groups.next(), groups.next()], to) {
            ([Some(x), Some(y)], [of_x, of_y]) if is_wide => {
                dots_of_all::<V, { 2 * TILE }, 2, N>(v, m, stride, at, [x, y], [of_x, of_y]);
            }
            (x, to) => {
                for (x, to) in x.into_iter().flatten().zip(to) {
                    match is_wide {
                        true => dots_of_all::<V, { 2 * TILE }, 1, N>(v, m, stride, at, [x], [to]),
                        false => dots_of_all::<V, TILE, 1, N>(v, m, stride, at, [x], [to]),
                    }
                }
            }
        }
    }
}

/// Computes [`all_dots`] of `G` groups with `R` rows of `m` at a time.
#[inline(always)]
fn dots_of_all<V: Vector, const R: usize, const G: usize, const N: usize>(
    v: V,
    m: &[f32],
    stride: usize,
    (rows, col): (&Range<usize>, usize),
    x: [&[F32x16]; G],
    to: [&mut [F32x16; N]; G],
) {
    for i in (0..rows.len()).step_by(R) {
        let sums = dots_of_groups(v, m, stride, (rows.start + i, col), x, [[v.splat(0.0); R]; G]);
        for g in 0..G {
            for c in 0..R {
                v.store(sums[g][c], &mut to[g][i + c].0);
            }
        }
    }
}

/// Transposes [`ROWS`] rows, one after another, into one vector for each column. The number of columns is a multiple of 4.
#[inline(always)]
pub(super) fn vectors_from_rows<V: Vector>(v: V, rows: &[f32], to: &mut [F32x16]) {
    let n = to.len();
    for (i, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        for (to, from) in to.iter_mut().zip(v.load_transposed(&rows[4 * i..], n)) {
            v.store(from, &mut to.0);
        }
    }
}

/// Transposes one vector for each column into [`ROWS`] rows, one after another: the inverse of [`vectors_from_rows`].
#[inline(always)]
pub(super) fn rows_from_vectors<V: Vector>(v: V, vectors: &[F32x16], to: &mut [f32]) {
    let n = vectors.len();
    for (i, from) in vectors.as_chunks::<4>().0.iter().enumerate() {
        let [a, b, c, d] = from;
        let columns = [v.load(&a.0), v.load(&b.0), v.load(&c.0), v.load(&d.0)];
        v.store_transposed(columns, &mut to[4 * i..], n);
    }
}
