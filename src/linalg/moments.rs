//! Second moments: sums of `x^T x` over tokens, in the layout of
//! [`SecondMoments`](crate::formats::calibration::SecondMoments).
//!
//! Accuracy: 256 tokens are summed from zero, and these partial sums are added to the running sum. After `t` tokens the
//! relative error of a sum of squares is at most `(256 + t / 256) 2^-24`. Rounding errors have either sign, so the typical
//! error is about the root of that many units: 1e-6 after 100 000 tokens. The error from sampling so few tokens is far
//! larger. Sums in f64 (twice the memory) or compensated sums (two more passes over the memory) would not change a weight.
//!
//! ```
//! use srd_rs::linalg::moments;
//!
//! // Two tokens of four inputs, in diagonal blocks of two.
//! let x = [1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 0.0, 2.0];
//! let mut sums = [0.0; 8];
//! moments::accumulate(&x, 4, 2, &mut sums);
//! moments::symmetrize(&mut sums, 4, 2, 2);
//! assert_eq!(sums, [1.0, 1.0, 1.0, 2.0, 4.5, 6.0, 6.0, 10.0]);
//! ```

use super::matrix::{MatMut, MatRef, Update};
use super::product::{DEPTH, GemmTask, Triangle};
use crate::simd::Isa;

/// Number of tokens of a piece of a sum. Calls that end where a piece ends give the bits of one call.
pub const PIECE: usize = DEPTH;

/// Adds the products of all pairs of columns within each block: `into[i][j - start] += sum_t x[t][i] x[t][j]`.
///
/// `x` is `[tokens, n]`; `into` is `[n, block]`, as `SecondMoments::values`. Only pairs with `j >= i` are summed; the
/// lower triangle is unspecified until [`symmetrize`] fills it. The function runs on rayon's current pool. The bits depend
/// on how tokens are spread over calls, but neither on threads nor on the CPU. Calls with some thousand tokens are
/// fastest.
///
/// # Panics
/// Panics if `x` is not whole rows, `block` is zero or larger than `n`, or `into` has another size.
pub fn accumulate(x: &[f32], n: usize, block: usize, into: &mut [f32]) {
    accumulate_on(Isa::detect(), x, n, block, into);
}

/// Computes [`accumulate`] with the instruction set `isa`. Every instruction set gives the same bits; tests compare them.
///
/// # Panics
/// Panics as [`accumulate`].
pub fn accumulate_on(isa: Isa, x: &[f32], n: usize, block: usize, into: &mut [f32]) {
    check(n, block, into);
    assert!(x.len().is_multiple_of(n), "{} values are not whole rows of {n}", x.len());
    let x = MatRef::from_row_major_slice(x, x.len() / n, n);
    let task = GemmTask { isa, update: Update::Add, triangle: Triangle::Upper(0) };
    for (i, rows) in into.chunks_mut(block * block).enumerate() {
        let side = rows.len() / block;
        let columns = x.subcols(i * block, side);
        let sums = MatMut::from_row_major_slice_with_stride(rows, side, side, block);
        task.run(columns.transpose(), columns, sums);
    }
}

/// Divides sums over `tokens` tokens by their number, and copies the upper triangle of every block to the lower one.
///
/// # Panics
/// Panics if `tokens` is zero, `block` is zero or larger than `n`, or `sums` is not `[n, block]`.
pub fn symmetrize(sums: &mut [f32], n: usize, block: usize, tokens: u64) {
    check(n, block, sums);
    assert!(tokens > 0, "a mean over no tokens");
    let count = tokens as f32;
    for rows in sums.chunks_mut(block * block) {
        let side = rows.len() / block;
        for i in 0..side {
            rows[i * block + i..i * block + side].iter_mut().for_each(|sum| *sum /= count);
        }
        mirror(rows, side, block);
    }
}

/// Copies the upper triangle to the lower one, square by square, so that both squares stay in the cache.
fn mirror(rows: &mut [f32], side: usize, stride: usize) {
    const SQUARE: usize = 32;
    for top in (0..side).step_by(SQUARE) {
        for left in (0..=top).step_by(SQUARE) {
            for i in top..side.min(top + SQUARE) {
                for j in left..i.min(left + SQUARE) {
                    rows[i * stride + j] = rows[j * stride + i];
                }
            }
        }
    }
}

fn check(n: usize, block: usize, values: &[f32]) {
    assert!((1..=n).contains(&block), "blocks of {block} of {n} values");
    assert_eq!(values.len(), n * block, "[n, block]");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::testing::{bits, normal, on_threads};

    fn means(isa: Isa, x: &[f32], n: usize, block: usize, call: usize) -> Vec<f32> {
        let mut sums = vec![0.0; n * block];
        x.chunks(call * n).for_each(|x| accumulate_on(isa, x, n, block, &mut sums));
        symmetrize(&mut sums, n, block, (x.len() / n) as u64);
        sums
    }

    /// The definition in f64, one pair after another.
    fn expected(x: &[f32], n: usize, block: usize) -> Vec<f64> {
        let tokens = x.len() / n;
        let pair = |i: usize, j: usize| x.chunks(n).map(|x| f64::from(x[i]) * f64::from(x[j])).sum::<f64>();
        let element = |at: usize| {
            let (i, j) = (at / block, at / block / block * block + at % block);
            if j < n { pair(i, j) / tokens as f64 } else { 0.0 }
        };
        (0..n * block).map(element).collect()
    }

    #[test]
    fn blocks_hold_the_means_of_products() {
        for (tokens, n, block) in [(300, 100, 100), (700, 100, 40), (3, 7, 3), (1, 1, 1), (50, 64, 16)] {
            let x = normal(tokens * n, 1);
            let (found, expected) = (means(Isa::PORTABLE, &x, n, block, 256), expected(&x, n, block));
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-6, "{found} for {expected}");
            }
        }
    }

    #[test]
    fn neither_instruction_sets_nor_threads_change_the_bits() {
        let (n, block) = (520, 300);
        let x = normal(1000 * n, 2);
        let one = on_threads(1, || means(Isa::PORTABLE, &x, n, block, 400));
        for isa in Isa::available() {
            for threads in [1, 2, 5] {
                let other = on_threads(threads, || means(isa, &x, n, block, 400));
                assert!(bits(&one) == bits(&other), "{} on {threads}", isa.name());
            }
        }
    }

    #[test]
    fn sums_over_a_hundred_thousand_tokens_stay_exact() {
        let (tokens, n) = (100_000, 16);
        // A mean of 3 makes every sum grow all the way: the worst case for rounding.
        let x: Vec<f32> = normal(tokens * n, 3).iter().map(|x| x + 3.0).collect();
        let found = means(*Isa::available().last().unwrap(), &x, n, n, 4096);
        let worst = found.iter().zip(expected(&x, n, n)).map(|(f, w)| (f64::from(*f) / w - 1.0).abs());
        let worst = worst.fold(0.0, f64::max);
        println!("largest relative error over {tokens} tokens: {worst:.1e}");
        assert!(worst < 5e-6, "{worst}");
    }

    #[test]
    #[should_panic(expected = "not whole rows of 3")]
    fn half_a_row_panics() {
        accumulate(&[0.0; 7], 3, 3, &mut [0.0; 9]);
    }
}
