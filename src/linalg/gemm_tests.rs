use super::*;
use crate::linalg::product::DEPTH;
use crate::linalg::testing::{bits, on_threads};
use crate::simd::fused;
use proptest::prelude::*;

/// The definition in the documentation of [`gemm`], one element after another.
fn reference(a: MatRef<'_>, b: MatRef<'_>, c: &mut [f32], c_stride: usize, add: bool) {
    for i in 0..a.nrows() {
        for j in 0..b.ncols() {
            let mut total = add.then(|| c[i * c_stride + j]);
            for from in (0..a.ncols()).step_by(DEPTH) {
                let piece = from..a.ncols().min(from + DEPTH);
                let sum = piece.fold(0.0f32, |sum, k| fused(a.at(i, k), b.at(k, j), sum));
                total = Some(total.map_or(sum, |total| total + sum));
            }
            c[i * c_stride + j] = total.unwrap_or(0.0);
        }
    }
}

/// Returns numbers of different sizes, so that another order of summation changes the bits.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| step() * (1.0 + 30.0 * step() * step())).collect()
}

fn matrix(data: &[f32], rows: usize, cols: usize, transposed: bool) -> MatRef<'_> {
    match transposed {
        true => MatRef::from_row_major_slice(data, cols, rows).transpose(),
        false => MatRef::from_row_major_slice(data, rows, cols),
    }
}

fn update(add: bool) -> Update {
    if add { Update::Add } else { Update::Set }
}

fn check((m, n, k): (usize, usize, usize), transposed: (bool, bool), add: bool, seed: u32) {
    let (a, b) = (numbers(m * k, seed), numbers(k * n, seed + 1));
    let (a, b) = (matrix(&a, m, k, transposed.0), matrix(&b, k, n, transposed.1));
    let stride = n + 3;
    let before = numbers(m * stride, seed + 2);
    let mut expected = before.clone();
    reference(a, b, &mut expected, stride, add);
    for isa in Isa::available() {
        let mut c = before.clone();
        gemm_on(isa, a, b, MatMut::from_row_major_slice_with_stride(&mut c, m, n, stride), update(add));
        assert!(bits(&c) == bits(&expected), "{} {m} x {n} x {k} {transposed:?} {add}", isa.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition(
        shape in (0usize..120, 0usize..70, 0usize..600), transposed: (bool, bool), add: bool, seed in 0u32..1000,
    ) {
        check(shape, transposed, add, seed);
    }
}

#[test]
fn shapes_beyond_every_block_give_the_bits_of_the_definition() {
    for shape in [(200, 1100, 300), (1, 2000, 513), (97, 17, 256), (300, 5, 255), (6, 16, 1), (5, 40, 0)] {
        for transposed in [(false, false), (false, true), (true, false), (true, true)] {
            check(shape, transposed, shape.1 % 2 == 0, 7);
        }
    }
}

#[test]
fn views_with_two_strides_are_read_as_they_say() {
    let (a, b) = (numbers(40 * 300, 1), numbers(300 * 60, 2));
    let a = MatRef::from_slice_with_strides(&a, 13, 150, 900, 2);
    let b = MatRef::from_slice_with_strides(&b, 150, 20, 120, 3);
    let (mut c, mut expected) = (vec![0.0; 13 * 20], vec![0.0; 13 * 20]);
    gemm(a, b, MatMut::from_row_major_slice(&mut c, 13, 20), Update::Set);
    reference(a, b, &mut expected, 20, false);
    assert_eq!(bits(&c), bits(&expected));
}

#[test]
fn the_number_of_threads_does_not_change_the_bits() {
    for (m, n, k) in [(300, 500, 700), (16, 3000, 300), (3000, 30, 300)] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let product = |threads| {
            let mut c = vec![0.0; m * n];
            let (a, b) = (matrix(&a, m, k, false), matrix(&b, k, n, false));
            on_threads(threads, || gemm(a, b, MatMut::from_row_major_slice(&mut c, m, n), Update::Set));
            bits(&c)
        };
        let one = product(1);
        assert!([2, 3, 7].into_iter().all(|threads| product(threads) == one), "{m} x {n} x {k}");
    }
}

#[test]
fn values_between_the_rows_of_c_are_left_alone() {
    let ones = [1.0; 64];
    let mut c = vec![7.0; 30];
    let to = MatMut::from_row_major_slice_with_stride(&mut c, 3, 5, 10);
    gemm(matrix(&ones, 3, 4, false), matrix(&ones, 4, 5, false), to, Update::Set);
    assert_eq!(c[..10], [4.0, 4.0, 4.0, 4.0, 4.0, 7.0, 7.0, 7.0, 7.0, 7.0]);
}

#[test]
#[should_panic(expected = "inner dimensions")]
fn shapes_that_do_not_agree_panic() {
    let c = &mut [0.0; 4];
    gemm(
        matrix(&[0.0; 6], 2, 3, false),
        matrix(&[0.0; 8], 4, 2, false),
        MatMut::from_row_major_slice(c, 2, 2),
        Update::Set,
    );
}
