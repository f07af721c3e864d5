//! The reference, in safe arithmetic. On a CPU with FMA it is compiled for it: without, `mul_add` is a function call.

use super::TILE_COLS;
use crate::linalg::gemm::Update;
use crate::linalg::matrix::MatRef;

#[inline(always)]
fn sums<const R: usize>(a: &[f32], b: &[f32]) -> [[f32; TILE_COLS]; R] {
    let mut sums = [[0.0f32; TILE_COLS]; R];
    let (a, _) = a.as_chunks::<R>();
    let (b, _) = b.as_chunks::<TILE_COLS>();
    for (a, b) in a.iter().zip(b) {
        for (sums, &a) in sums.iter_mut().zip(a) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(b, *sum);
            }
        }
    }
    sums
}

/// Puts finished sums of one row where they belong.
#[inline(always)]
pub fn finish(sums: &[f32], to: &mut [f32], update: Update) {
    let pairs = to.iter_mut().zip(sums);
    match update {
        Update::Set => pairs.for_each(|(c, &sum)| *c = sum),
        Update::Add => pairs.for_each(|(c, &sum)| *c += sum),
        Update::Subtract => pairs.for_each(|(c, &sum)| *c -= sum),
    }
}

macro_rules! tile {
    ($(#[$attribute:meta])* $name:ident) => {
        /// # Safety
        /// `a` holds `depth * rows` values, `b` `depth * TILE_COLS`, `c` `rows` rows of `TILE_COLS`, `stride` apart,
        /// and nobody else uses `c`. The CPU has the instructions it is compiled for.
        $(#[$attribute])*
        pub unsafe fn $name(
            rows: usize,
            depth: usize,
            a: *const f32,
            b: *const f32,
            c: *mut f32,
            stride: usize,
            update: Update,
        ) {
            // SAFETY: the caller's promise.
            let (a, b) = unsafe {
                (
                    std::slice::from_raw_parts(a, depth * rows),
                    std::slice::from_raw_parts(b, depth * TILE_COLS),
                )
            };
            let put = |i: usize, sums: &[f32; TILE_COLS]| {
                // SAFETY: the caller's promise.
                let row = unsafe { std::slice::from_raw_parts_mut(c.add(i * stride), TILE_COLS) };
                finish(sums, row, update);
            };
            match rows {
                1 => sums::<1>(a, b).iter().enumerate().for_each(|(i, s)| put(i, s)),
                2 => sums::<2>(a, b).iter().enumerate().for_each(|(i, s)| put(i, s)),
                3 => sums::<3>(a, b).iter().enumerate().for_each(|(i, s)| put(i, s)),
                4 => sums::<4>(a, b).iter().enumerate().for_each(|(i, s)| put(i, s)),
                5 => sums::<5>(a, b).iter().enumerate().for_each(|(i, s)| put(i, s)),
                _ => sums::<6>(a, b).iter().enumerate().for_each(|(i, s)| put(i, s)),
            }
        }
    };
}

tile!(tile);
#[cfg(target_arch = "x86_64")]
tile!(
    #[target_feature(enable = "fma")]
    tile_fma
);

/// [`super::Shell::pack`] of lanes that lie side by side in k.
///
/// # Safety
/// None needed; a shell of another instruction set needs some.
pub unsafe fn interleave(from: MatRef<'_>, width: usize, to: &mut [f32]) {
    interleave_from(0, from, width, to);
}

/// The same, beginning at `k = start`.
#[inline(always)]
pub fn interleave_from(start: usize, from: MatRef<'_>, width: usize, to: &mut [f32]) {
    for lane in 0..width {
        let to = to.iter_mut().skip(start * width + lane).step_by(width);
        if lane < from.nrows() {
            to.zip(&from.row(lane)[start..]).for_each(|(to, &x)| *to = x);
        } else {
            to.for_each(|to| *to = 0.0);
        }
    }
}

/// [`super::Shell::pack`] of any other view; lanes that are neighbours are copied together.
pub fn gather(from: MatRef<'_>, width: usize, to: &mut [f32]) {
    match (from.row_stride(), from.nrows() == width, width) {
        (1, true, 4) => copy::<4>(from, to),
        (1, true, 5) => copy::<5>(from, to),
        (1, true, 6) => copy::<6>(from, to),
        (1, true, TILE_COLS) => copy::<TILE_COLS>(from, to),
        _ => pick(from, width, to),
    }
}

/// A length known to the compiler: a few moves instead of a call for each k.
fn copy<const W: usize>(from: MatRef<'_>, to: &mut [f32]) {
    let across = from.transpose();
    let (to, _) = to.as_chunks_mut::<W>();
    for (k, to) in to.iter_mut().enumerate() {
        to.copy_from_slice(across.row(k));
    }
}

fn pick(from: MatRef<'_>, width: usize, to: &mut [f32]) {
    for (k, to) in to.chunks_exact_mut(width).enumerate() {
        to.iter_mut().take(from.nrows()).enumerate().for_each(|(lane, to)| *to = from.at(lane, k));
        to[from.nrows()..].fill(0.0);
    }
}
