use super::*;
use crate::linalg::product::DEPTH;
use crate::linalg::testing::{bits, on_threads};
use crate::simd_level::available;
use proptest::prelude::*;

/// What the documentation of [`gemm`] says, one element after the other.
fn reference(a: Mat<'_>, b: Mat<'_>, c: &mut [f32], c_stride: usize, add: bool) {
    for i in 0..a.rows {
        for j in 0..b.cols {
            let mut total = add.then(|| c[i * c_stride + j]);
            for from in (0..a.cols).step_by(DEPTH) {
                let sum = (from..a.cols.min(from + DEPTH)).fold(0.0f32, |sum, k| {
                    let x = a.data[i * a.row_stride + k * a.col_stride];
                    x.mul_add(b.data[k * b.row_stride + j * b.col_stride], sum)
                });
                total = Some(total.map_or(sum, |total| total + sum));
            }
            c[i * c_stride + j] = total.unwrap_or(0.0);
        }
    }
}

/// Numbers of differing size, so that another order of summation shows.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| step() * (1.0 + 30.0 * step() * step())).collect()
}

fn matrix(data: &[f32], rows: usize, cols: usize, transposed: bool) -> Mat<'_> {
    if transposed { Mat::rows(data, cols, rows).transposed() } else { Mat::rows(data, rows, cols) }
}

fn check((m, n, k): (usize, usize, usize), turned: (bool, bool), add: bool, seed: u32) {
    let (a, b) = (numbers(m * k, seed), numbers(k * n, seed + 1));
    let (a, b) = (matrix(&a, m, k, turned.0), matrix(&b, k, n, turned.1));
    let stride = n + 3;
    let before = numbers(m * stride, seed + 2);
    let mut wanted = before.clone();
    reference(a, b, &mut wanted, stride, add);
    for level in available() {
        let mut c = before.clone();
        gemm_at(level, a, b, &mut c, stride, add);
        assert!(bits(&c) == bits(&wanted), "{} {m} x {n} x {k} {turned:?} {add}", level.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_level_gives_the_bits_of_the_definition(
        shape in (0usize..120, 0usize..70, 0usize..600), turned: (bool, bool), add: bool, seed in 0u32..1000,
    ) {
        check(shape, turned, add, seed);
    }
}

#[test]
fn shapes_beyond_every_block_give_the_bits_of_the_definition() {
    for shape in [(200, 1100, 300), (1, 2000, 513), (97, 17, 256), (300, 5, 255), (6, 16, 1), (5, 40, 0)] {
        for turned in [(false, false), (false, true), (true, false), (true, true)] {
            check(shape, turned, shape.1 % 2 == 0, 7);
        }
    }
}

#[test]
fn views_with_two_strides_are_read_as_they_say() {
    let (a, b) = (numbers(40 * 300, 1), numbers(300 * 60, 2));
    let a = Mat { data: &a, rows: 13, cols: 150, row_stride: 900, col_stride: 2 };
    let b = Mat { data: &b, rows: 150, cols: 20, row_stride: 120, col_stride: 3 };
    let (mut c, mut wanted) = (vec![0.0; 13 * 20], vec![0.0; 13 * 20]);
    gemm(a, b, &mut c, 20, false);
    reference(a, b, &mut wanted, 20, false);
    assert_eq!(bits(&c), bits(&wanted));
}

#[test]
fn threads_do_not_show_in_the_bits() {
    for (m, n, k) in [(300, 500, 700), (16, 3000, 300), (3000, 30, 300)] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let product = |threads| {
            let mut c = vec![0.0; m * n];
            on_threads(threads, || gemm(Mat::rows(&a, m, k), Mat::rows(&b, k, n), &mut c, n, false));
            bits(&c)
        };
        let one = product(1);
        assert!([2, 3, 7].into_iter().all(|threads| product(threads) == one), "{m} x {n} x {k}");
    }
}

#[test]
fn what_lies_between_rows_of_c_is_left_alone() {
    let ones = [1.0; 64];
    let mut c = vec![7.0; 30];
    gemm(Mat::rows(&ones, 3, 4), Mat::rows(&ones, 4, 5), &mut c, 10, false);
    assert_eq!(c[..10], [4.0, 4.0, 4.0, 4.0, 4.0, 7.0, 7.0, 7.0, 7.0, 7.0]);
}

#[test]
#[should_panic(expected = "inner dimensions")]
fn shapes_that_do_not_agree_panic() {
    gemm(Mat::rows(&[0.0; 6], 2, 3), Mat::rows(&[0.0; 8], 4, 2), &mut [0.0; 4], 2, false);
}

#[test]
#[should_panic(expected = "larger than its data")]
fn a_result_that_is_too_small_panics() {
    gemm(Mat::rows(&[0.0; 6], 2, 3), Mat::rows(&[0.0; 6], 3, 2), &mut [0.0; 3], 2, false);
}
