//! Sums of `x^T x` over tokens, in the diagonal blocks of `SecondMoments`.
//!
//! How exact they are: a piece of 256 tokens is summed from zero, and pieces are added to the running sum. After
//! `t` tokens the relative error of a sum of squares is at most `(256 + t / 256) 2^-24`, and as rounding errors have
//! either sign, about the root of that many: 1e-6 after 100 000 tokens, far below what sampling tokens leaves open.
//! Neither sums in f64 (twice the memory) nor compensation (two more passes over it) would be seen in a weight.

use super::gemm::Mat;
use super::product::{Part, Task};
use super::simd::Update;
use super::simd::view::{View, Window};
use crate::simd_level::{self, Level};

/// Adds the products of all pairs of columns within each block: `into[i][j - start] += sum_t x[t][i] x[t][j]`.
///
/// `x` holds rows of `n` values, one for each token; `into` is `[n, block]` as `SecondMoments::values`. Only pairs with
/// `j >= i` are promised: the other triangle holds anything until [`symmetrise`]. On rayon's current pool; the
/// bits depend on how tokens are spread over calls, not on threads or the CPU. Calls of some thousand tokens are fastest.
///
/// # Panics
/// If `x` is not whole rows, `block` is zero or larger than `n`, or `into` has another size.
pub fn accumulate(x: &[f32], n: usize, block: usize, into: &mut [f32]) {
    accumulate_at(simd_level::level(), x, n, block, into);
}

/// [`accumulate`] with the shell of a level the CPU has: the same bits, to be compared.
pub fn accumulate_at(level: Level, x: &[f32], n: usize, block: usize, into: &mut [f32]) {
    check(n, block, into);
    assert!(level <= simd_level::detected(), "this CPU has no {}", level.name());
    assert!(x.len().is_multiple_of(n), "{} values are no rows of {n}", x.len());
    let x = View::new(Mat::rows(x, x.len() / n, n));
    let task = Task { level, update: Update::Add, part: Part::Upper(0) };
    for (i, rows) in into.chunks_mut(block * block).enumerate() {
        let side = rows.len() / block;
        let columns = x.cols(i * block, side);
        task.run(columns.transposed(), columns, Window::new(rows, side, side, block));
    }
}

/// Turns sums over `tokens` tokens into means and fills in the other triangle of every block.
///
/// # Panics
/// If `tokens` is zero, `block` is zero or larger than `n`, or `sums` is not `[n, block]`.
pub fn symmetrise(sums: &mut [f32], n: usize, block: usize, tokens: u64) {
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

/// Copies the upper triangle to the lower one in squares, which the caches can hold both of.
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
    use crate::simd_level::available;

    fn means(level: Level, x: &[f32], n: usize, block: usize, call: usize) -> Vec<f32> {
        let mut sums = vec![0.0; n * block];
        x.chunks(call * n).for_each(|x| accumulate_at(level, x, n, block, &mut sums));
        symmetrise(&mut sums, n, block, (x.len() / n) as u64);
        sums
    }

    /// In f64, one pair after the other.
    fn wanted(x: &[f32], n: usize, block: usize) -> Vec<f64> {
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
            let (found, wanted) = (means(available()[0], &x, n, block, 256), wanted(&x, n, block));
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((f64::from(*found) - wanted).abs() < 2e-6, "{found} for {wanted}");
            }
        }
    }

    #[test]
    fn neither_level_nor_threads_show_in_the_bits() {
        let (n, block) = (520, 300);
        let x = normal(1000 * n, 2);
        let one = on_threads(1, || means(Level::Scalar, &x, n, block, 400));
        for level in available() {
            for threads in [1, 2, 5] {
                let other = on_threads(threads, || means(level, &x, n, block, 400));
                assert!(bits(&one) == bits(&other), "{} on {threads}", level.name());
            }
        }
    }

    #[test]
    fn sums_over_a_hundred_thousand_tokens_stay_exact() {
        let (tokens, n) = (100_000, 16);
        // A mean of 3 makes every sum grow all the way: the worst case for rounding.
        let x: Vec<f32> = normal(tokens * n, 3).iter().map(|x| x + 3.0).collect();
        let found = means(*available().last().unwrap(), &x, n, n, 4096);
        let worst = found.iter().zip(wanted(&x, n, n)).map(|(f, w)| (f64::from(*f) / w - 1.0).abs());
        let worst = worst.fold(0.0, f64::max);
        println!("largest relative error over {tokens} tokens: {worst:.1e}");
        assert!(worst < 5e-6, "{worst}");
    }

    #[test]
    #[should_panic(expected = "no rows of 3")]
    fn half_a_row_panics() {
        accumulate(&[0.0; 7], 3, 3, &mut [0.0; 9]);
    }
}
