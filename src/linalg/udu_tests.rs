use super::*;
use crate::linalg::testing::{bits, normal, on_threads};
use nalgebra::DMatrix;
use proptest::prelude::*;

/// Returns `x^T x / tokens` for `x` with rows of `n` values.
fn moments(x: &[f32], n: usize) -> Vec<f32> {
    let x = DMatrix::from_row_slice(x.len() / n, n, x).cast::<f64>();
    let h = x.transpose() * &x / x.nrows() as f64;
    h.iter().map(|&v| v as f32).collect()
}

fn factors(h: &[f32], n: usize, lambda: f32) -> Udu {
    factorize(MatRef::from_row_major_slice(h, n, n), lambda).unwrap().unwrap()
}

/// Returns `h` with the damping on its diagonal, in f64.
fn damped(h: &[f32], n: usize, damping: f32) -> DMatrix<f64> {
    let mut h = DMatrix::from_row_slice(n, n, h).cast::<f64>();
    let damping = f64::from(damping);
    (0..n).for_each(|i| h[(i, i)] += damping);
    h
}

/// Returns both sides of the identity in the head of the module, for one error row.
fn sides(h: &DMatrix<f64>, f: &Udu, e: &[f64]) -> (f64, f64) {
    let n = e.len();
    let row = nalgebra::DVector::from_column_slice(e);
    let mut fed = e.to_vec();
    for (e, a) in e.iter().zip(f.a.chunks(n)) {
        fed.iter_mut().zip(a).for_each(|(fed, &a)| *fed += e * f64::from(a));
    }
    (row.dot(&(h * &row)), fed.iter().zip(&f.d).map(|(x, &d)| f64::from(d) * x * x).sum())
}

/// Returns the error row that begins with 1 at column j and that the later columns compensate in full. Its cost is `D_j`,
/// the smallest cost that an error of 1 at column j can have.
fn perfect(f: &Udu, n: usize, j: usize) -> Vec<f64> {
    let mut e = vec![0.0; n];
    e[j] = 1.0;
    for m in j + 1..n {
        e[m] = -(j..m).map(|k| e[k] * f64::from(f.a[k * n + m])).sum::<f64>();
    }
    e
}

fn identity_holds(h: &[f32], n: usize, lambda: f32, tolerance: f64) {
    let f = factors(h, n, lambda);
    let damped = damped(h, n, f.damping);
    let mean = (0..n).map(|i| h[i * n + i]).sum::<f32>() / n as f32;
    assert!(
        lambda == 0.0 || (f.damping / (lambda * mean) - 1.0).abs() < 1e-4,
        "the damping is not the one that was asked for"
    );
    assert!(f.damping > 0.0 && f.d.iter().all(|&d| d >= f.damping));
    for i in 0..n {
        assert!(f.a[i * n..=i * n + i].iter().all(|&a| a == 0.0), "A is not strictly upper");
    }
    let random = normal(8 * n, 9);
    let rows = random.chunks(n).map(|e| e.iter().map(|&x| f64::from(x)).collect());
    let mut worst = 0.0f64;
    for e in rows.chain((0..n).step_by(7).map(|j| perfect(&f, n, j))) {
        let (exact, ours) = sides(&damped, &f, &e);
        worst = worst.max((ours / exact - 1.0).abs());
    }
    println!("n {n}, damping {lambda}: off by at most {worst:.1e}");
    assert!(worst < tolerance, "off by {worst:e}");
}

/// Returns moments whose eigenvalues are spread evenly on a logarithmic scale from 1 down to `1 / condition`.
fn of_condition(n: usize, condition: f64) -> Vec<f32> {
    let q = DMatrix::from_row_slice(n, n, &normal(n * n, 4)).cast::<f64>().qr().q();
    let spread = |i: usize| condition.powf(-(i as f64) / (n - 1) as f64);
    let h = &q * DMatrix::from_diagonal(&nalgebra::DVector::from_fn(n, |i, _| spread(i))) * q.transpose();
    h.iter().map(|&v| v as f32).collect()
}

#[test]
fn the_identity_holds_for_any_condition() {
    for condition in [1e1, 1e4, 1e8] {
        identity_holds(&of_condition(200, condition), 200, 0.01, 1e-3);
    }
}

#[test]
fn the_identity_holds_with_fewer_tokens_than_columns() {
    identity_holds(&moments(&normal(64 * 256, 1), 256), 256, 0.01, 1e-3);
    identity_holds(&moments(&normal(1000, 1), 1000), 1000, 0.01, 1e-3);
}

#[test]
fn the_identity_holds_when_all_columns_share_a_mean() {
    let x: Vec<f32> = normal(400 * 300, 2).iter().map(|x| 0.1 * x + 1.0).collect();
    identity_holds(&moments(&x, 300), 300, 0.01, 1e-3);
}

#[test]
fn damping_that_rounding_errors_exceed_is_raised() {
    let n = 300;
    let h = moments(&normal(20 * n, 5), n);
    let f = factors(&h, n, 0.0);
    println!("damping used: {}", f.damping);
    assert!(f.d.iter().all(|&d| d >= f.damping) && f.damping < 1e-3);
    let damped = damped(&h, n, f.damping);
    for j in (0..n).step_by(7) {
        let (exact, ours) = sides(&damped, &f, &perfect(&f, n, j));
        assert!((ours / exact - 1.0).abs() < 0.5, "column {j}: {ours} for {exact}");
    }
}

#[test]
fn the_factors_are_those_of_the_cholesky_factorization_of_the_reversed_matrix() {
    for n in [1, 2, 63, 64, 65, 200, 321] {
        let h = moments(&normal(3 * n * n, 3), n);
        let f = factors(&h, n, 0.01);
        let damped = damped(&h, n, f.damping);
        let reversed = DMatrix::from_fn(n, n, |i, j| damped[(n - 1 - i, n - 1 - j)]);
        let l = reversed.cholesky().unwrap().l();
        for j in 0..n {
            let pivot = l[(n - 1 - j, n - 1 - j)];
            assert!((f64::from(f.d[j]) / (pivot * pivot) - 1.0).abs() < 1e-4);
            for i in 0..j {
                let expected = l[(n - 1 - i, n - 1 - j)] / pivot;
                assert!((f64::from(f.a[i * n + j]) - expected).abs() < 1e-4, "{i}, {j} of {n}");
            }
        }
    }
}

#[test]
fn columns_that_were_never_fed_stand_alone() {
    let n = 150;
    let mut x = normal(500 * n, 6);
    x.chunks_mut(n).for_each(|x| (0..n).filter(|i| i % 3 == 0).for_each(|i| x[i] = 0.0));
    let h = moments(&x, n);
    identity_holds(&h, n, 0.01, 1e-3);
    let f = factors(&h, n, 0.01);
    assert!((0..n).all(|k| f.a[3 * n + k] == 0.0 && f.a[k * n + 3] == 0.0));
}

#[test]
fn only_the_upper_triangle_of_a_part_is_read() {
    let (n, stride) = (100, 130);
    let h = moments(&normal(300 * n, 7), n);
    let mut apart = vec![f32::NAN; n * stride];
    (0..n).for_each(|i| apart[i * stride + i..i * stride + n].copy_from_slice(&h[i * n + i..(i + 1) * n]));
    let part = MatRef::from_slice_with_strides(&apart, n, n, stride, 1);
    assert_eq!(factorize(part, 0.01).unwrap().unwrap(), factors(&h, n, 0.01));
}

#[test]
fn nothing_known_gives_none_and_nonsense_an_error() {
    assert_eq!(factorize(MatRef::from_row_major_slice(&[0.0; 9], 3, 3), 0.01).unwrap(), None);
    assert_eq!(factorize(MatRef::from_row_major_slice(&[], 0, 0), 0.01).unwrap(), None);
    for (at, bad) in [(4, f32::NAN), (2, f32::INFINITY), (8, -1.0)] {
        let mut h = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        h[at] = bad;
        let found = factorize(MatRef::from_row_major_slice(&h, 3, 3), 0.01);
        assert!(matches!(found, Err(Error::NonFinite { index, .. }) if index == at as u64));
    }
}

#[test]
fn neither_instruction_sets_nor_threads_change_the_bits() {
    let n = 500;
    let h = moments(&normal(200 * n, 8), n);
    let at = |isa, threads| {
        let f = on_threads(threads, || factorize_on(isa, MatRef::from_row_major_slice(&h, n, n), 0.01))
            .unwrap()
            .unwrap();
        (bits(&f.a), bits(&f.d))
    };
    let one = at(Isa::PORTABLE, 1);
    for isa in Isa::available() {
        assert!([1, 2, 5].into_iter().all(|threads| at(isa, threads) == one), "{}", isa.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_identity_holds_for_any_shape_and_scale(n in 1usize..180, tokens in 1usize..200, seed in 0u32..99, scale in -12i32..12) {
        let x: Vec<f32> = normal(tokens * n, seed).iter().map(|x| x * 10f32.powi(scale)).collect();
        identity_holds(&moments(&x, n), n, 0.01, 1e-3);
    }
}
