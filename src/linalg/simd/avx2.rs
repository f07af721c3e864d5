//! AVX2 with FMA: a tile of 6 x 16 sums in twelve registers.

use std::arch::x86_64::*;

use super::{TILE_COLS, portable};
use crate::linalg::gemm::Update;
use crate::linalg::matrix::MatRef;

/// # Safety
/// `a` holds `depth * rows` values, `b` `depth * TILE_COLS`, `c` `rows` rows of `TILE_COLS`, `stride` apart, and nobody
/// else uses `c`; 1 to 6 rows. The CPU has AVX2 and FMA.
pub unsafe fn tile(
    rows: usize,
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    update: Update,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => tile_of::<1>(depth, a, b, c, stride, update),
            2 => tile_of::<2>(depth, a, b, c, stride, update),
            3 => tile_of::<3>(depth, a, b, c, stride, update),
            4 => tile_of::<4>(depth, a, b, c, stride, update),
            5 => tile_of::<5>(depth, a, b, c, stride, update),
            _ => tile_of::<6>(depth, a, b, c, stride, update),
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of<const R: usize>(
    depth: usize,
    mut a: *const f32,
    mut b: *const f32,
    c: *mut f32,
    stride: usize,
    update: Update,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: `depth` steps through panels of that depth, then R rows of a tile: the caller's promise.
    unsafe {
        for i in 0..R {
            _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.add(i * stride + TILE_COLS - 1).cast());
        }
        for _ in 0..depth / 4 {
            step(a, b, &mut sums);
            step(a.add(R), b.add(TILE_COLS), &mut sums);
            step(a.add(2 * R), b.add(2 * TILE_COLS), &mut sums);
            step(a.add(3 * R), b.add(3 * TILE_COLS), &mut sums);
            a = a.add(4 * R);
            b = b.add(4 * TILE_COLS);
        }
        for _ in 0..depth % 4 {
            step(a, b, &mut sums);
            a = a.add(R);
            b = b.add(TILE_COLS);
        }
        for (i, sums) in sums.iter().enumerate() {
            finish(c.add(i * stride), sums[0], update);
            finish(c.add(i * stride + 8), sums[1], update);
        }
    }
}

/// # Safety
/// R values at `a`, 16 at `b`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn step<const R: usize>(a: *const f32, b: *const f32, sums: &mut [[__m256; 2]; R]) {
    // SAFETY: the caller's promise.
    unsafe {
        let (left, right) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
        for (i, sums) in sums.iter_mut().enumerate() {
            let a = _mm256_broadcast_ss(&*a.add(i));
            sums[0] = _mm256_fmadd_ps(a, left, sums[0]);
            sums[1] = _mm256_fmadd_ps(a, right, sums[1]);
        }
    }
}

/// # Safety
/// Eight values at `c` that nobody else uses.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn finish(c: *mut f32, sums: __m256, update: Update) {
    // SAFETY: the caller's promise.
    unsafe {
        let value = match update {
            Update::Set => sums,
            Update::Add => _mm256_add_ps(_mm256_loadu_ps(c), sums),
            Update::Subtract => _mm256_sub_ps(_mm256_loadu_ps(c), sums),
        };
        _mm256_storeu_ps(c, value);
    }
}

/// [`super::Shell::pack`] of lanes that lie side by side in k: squares of 8 x 8 are turned in registers.
///
/// # Safety
/// `from.col_stride()` is 1, `to` holds `width` values for each k, `from.nrows() <= width`. The CPU has AVX2.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn interleave(from: MatRef<'_>, width: usize, to: &mut [f32]) {
    // A square's last rows spill up to 8 values over what they fill, into k that come later; so the last 8 are left.
    let squares = from.ncols().saturating_sub(8) / 8;
    for square in 0..squares {
        for lane in (0..width).step_by(8) {
            let lanes = from.nrows().saturating_sub(lane).min(8);
            // SAFETY: eight k of `lanes` lanes, and at least eight more k of room after these.
            unsafe {
                let rows = from.as_ptr().add(lane * from.row_stride() + 8 * square);
                let to = to.as_mut_ptr().add(8 * square * width + lane);
                turn(rows, from.row_stride(), lanes, to, width);
            }
        }
    }
    portable::interleave_from(8 * squares, from, width, to);
}

/// Writes `from[lane * stride + k]` to `to[k * width + lane]` for eight k and lanes; zeros for lanes from `lanes` on.
///
/// # Safety
/// Readable and writable as just said.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn turn(from: *const f32, stride: usize, lanes: usize, to: *mut f32, width: usize) {
    let mut r = [_mm256_setzero_ps(); 8];
    // SAFETY: the caller's promise.
    unsafe {
        for (lane, r) in r.iter_mut().enumerate() {
            if lane < lanes {
                *r = _mm256_loadu_ps(from.add(lane * stride));
            }
        }
        for (k, row) in transposed(r).into_iter().enumerate() {
            _mm256_storeu_ps(to.add(k * width), row);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn transposed(r: [__m256; 8]) -> [__m256; 8] {
    let pair = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    let (a0, a1) = pair(r[0], r[1]);
    let (a2, a3) = pair(r[2], r[3]);
    let (a4, a5) = pair(r[4], r[5]);
    let (a6, a7) = pair(r[6], r[7]);
    let low = |a, b| _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
    let high = |a, b| _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
    let quads = [
        (low(a0, a2), low(a4, a6)),
        (high(a0, a2), high(a4, a6)),
        (low(a1, a3), low(a5, a7)),
        (high(a1, a3), high(a5, a7)),
    ];
    let first = |(a, b)| _mm256_permute2f128_ps::<0x20>(a, b);
    let second = |(a, b)| _mm256_permute2f128_ps::<0x31>(a, b);
    [
        first(quads[0]),
        first(quads[1]),
        first(quads[2]),
        first(quads[3]),
        second(quads[0]),
        second(quads[1]),
        second(quads[2]),
        second(quads[3]),
    ]
}
