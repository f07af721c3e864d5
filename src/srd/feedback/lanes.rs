//! Arithmetic on [`ROWS`] rows at once, written so that the compiler turns each line into vector instructions. Products
//! and sums are fused by name (`mul_add`) or not at all: the bits are the same on every CPU.

/// Rows that are worked on together: two registers of 8 floats, or one of 16.
pub(super) const ROWS: usize = 16;

/// The same column of [`ROWS`] rows.
pub(super) type Lane = [f32; ROWS];

pub(super) const ZERO: Lane = [0.0; ROWS];

#[inline(always)]
pub(super) fn map(a: &Lane, f: impl Fn(f32) -> f32) -> Lane {
    let mut out = ZERO;
    for l in 0..ROWS {
        out[l] = f(a[l]);
    }
    out
}

#[inline(always)]
pub(super) fn zip(a: &Lane, b: &Lane, f: impl Fn(f32, f32) -> f32) -> Lane {
    let mut out = ZERO;
    for l in 0..ROWS {
        out[l] = f(a[l], b[l]);
    }
    out
}

/// `to += a * b`
#[inline(always)]
pub(super) fn add_scaled(to: &mut Lane, a: f32, b: &Lane) {
    for l in 0..ROWS {
        to[l] = a.mul_add(b[l], to[l]);
    }
}

/// `to += a * b`, lane by lane.
#[inline(always)]
pub(super) fn add_product(to: &mut Lane, a: &Lane, b: &Lane) {
    for l in 0..ROWS {
        to[l] = a[l].mul_add(b[l], to[l]);
    }
}

/// Columns of `to` that one pass over `from` serves: with their sums and what they are made of they fill the registers.
const TILE: usize = 6;

/// `to[j] += sum over i of m[(first_i + i) * stride + first_j + j] * from[i]`, i ascending.
///
/// `m` is row-major; `first` its row that meets `from[0]` and its column that meets `to[0]`.
#[inline(always)]
pub(super) fn add_matrix_product(
    m: &[f32],
    stride: usize,
    first: (usize, usize),
    from: &[Lane],
    to: &mut [Lane],
) {
    let mut j = 0;
    while j + TILE <= to.len() {
        tile::<TILE>(m, stride, (first.0, first.1 + j), from, &mut to[j..]);
        j += TILE;
    }
    while j < to.len() {
        tile::<1>(m, stride, (first.0, first.1 + j), from, &mut to[j..]);
        j += 1;
    }
}

#[inline(always)]
fn tile<const N: usize>(m: &[f32], stride: usize, first: (usize, usize), from: &[Lane], to: &mut [Lane]) {
    let to: &mut [Lane; N] = to.first_chunk_mut().expect("the caller leaves N columns");
    let mut sums = *to;
    for (i, x) in from.iter().enumerate() {
        let row: &[f32; N] =
            m[(first.0 + i) * stride + first.1..].first_chunk().expect("a row of the matrix");
        for c in 0..N {
            add_scaled(&mut sums[c], row[c], x);
        }
    }
    *to = sums;
}
