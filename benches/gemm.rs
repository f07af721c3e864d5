//! Speed of the linear algebra beside the `gemm` crate and this core's peak: `cargo bench --bench gemm`.
//!
//! Everything is timed in turns within the same seconds, best of several, since other work on the machine slows all alike.

use std::hint::black_box;
use std::time::Instant;

use srd_rs::linalg::gemm::{Mat, gemm_at};
use srd_rs::simd_level::{Level, available};

const TURNS: usize = 9;

fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| step()).collect()
}

fn seconds(work: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Best times of several works, done in turns.
fn best(works: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut best = vec![f64::INFINITY; works.len()];
    works.iter_mut().for_each(|work| work());
    for _ in 0..TURNS {
        for (best, work) in best.iter_mut().zip(works.iter_mut()) {
            *best = best.min(seconds(work));
        }
    }
    best
}

fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads").install(work)
}

const CHAINS: usize = 12;
const PEAK_STEPS: usize = 1 << 20;

/// Twelve independent chains of fused multiply-adds.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains() -> f32 {
    use std::arch::x86_64::*;
    let mut sums = [_mm256_setzero_ps(); CHAINS];
    let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    for _ in 0..PEAK_STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, x, y);
        }
    }
    sums.iter().map(|&s| _mm256_cvtss_f32(s)).sum()
}

/// Floating point operations of [`peak`].
const PEAK_WORK: f64 = (2 * 8 * CHAINS * PEAK_STEPS) as f64;

fn peak() {
    #[cfg(target_arch = "x86_64")]
    if available().contains(&Level::Avx2) {
        // SAFETY: the CPU has AVX2 and FMA.
        black_box(unsafe { chains() });
    }
}

/// The crate that picks its blocks from the caches of the CPU.
fn other(a: Mat<'_>, b: Mat<'_>, c: &mut [f32], threads: usize) {
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    assert!(c.len() >= a.rows * b.cols);
    // SAFETY: strides within the slices, c not shared.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            c.as_mut_ptr(),
            1,
            b.cols as isize,
            false,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// b is `[n, k]`, rows of weights, or with `plain` `[k, n]`.
fn shape(m: usize, n: usize, k: usize, plain: bool, threads: usize) {
    let (a, b) = (numbers(m * k), numbers(n * k));
    let a = Mat::rows(&a, m, k);
    let b = if plain { Mat::rows(&b, k, n) } else { Mat::rows(&b, n, k).transposed() };
    let (mut ours, mut theirs) = (vec![0.0; m * n], vec![0.0; m * n]);
    let level = *available().last().expect("the scalar level");
    let work = (2 * m * n * k) as f64;
    let repeat = (4e7 / work).ceil() as usize;
    let times = on(threads, || {
        best(&mut [
            &mut || (0..repeat).for_each(|_| gemm_at(level, a, b, &mut ours, n, false)),
            &mut || (0..repeat).for_each(|_| other(a, b, &mut theirs, threads)),
            &mut peak,
        ])
    });
    let rate = |i: usize| work * repeat as f64 / times[i] / 1e9;
    let peak = PEAK_WORK / times[2] / 1e9;
    println!(
        "| {m} x {n} x {k}{} | {threads} | {:.1} | {:.1} | {:.2} | {:.2} |",
        if plain { "" } else { " (W^T)" },
        rate(0),
        rate(1),
        rate(0) / rate(1),
        rate(0) / peak / threads as f64,
    );
}

fn main() {
    println!("| m x n x k | threads | GFLOP/s | gemm crate | ratio | of the peak |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (m, n, k, plain) in [
        (512, 1536, 1536, true),
        (512, 1536, 1536, false),
        (4096, 1536, 1536, false),
        (4096, 384, 1536, false),
        (4, 1536, 1536, false),
        (16, 1536, 1536, false),
        (64, 1536, 1536, false),
        (4, 512, 128, false),
        (16, 512, 128, false),
        (64, 512, 256, false),
        (64, 256, 64, true),
    ] {
        shape(m, n, k, plain, 1);
    }
    for (m, n, k, plain) in [
        (512, 1536, 1536, true),
        (512, 1536, 1536, false),
        (4096, 1536, 1536, false),
        (64, 1536, 1536, false),
    ] {
        shape(m, n, k, plain, 2);
    }
}
