//! Measures the speed of the linear algebra beside the `gemm` crate and beside the peak of this core:
//! `cargo bench --bench gemm [-- products|triangles]`.
//!
//! All candidates are timed in turns within the same seconds, because other work on the machine then slows all of them
//! alike. The best of several turns counts.

use std::hint::black_box;
use std::time::Instant;

use srd_rs::linalg::gemm::{Update, gemm_on};
use srd_rs::linalg::matrix::{MatMut, MatRef};
use srd_rs::linalg::{moments, udu};
use srd_rs::simd::Isa;

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

/// Returns the best time of each work; the works are done in turns.
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

/// Computes twelve independent chains of fused multiply-adds.
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

/// Number of floating point operations in [`peak`].
const PEAK_WORK: f64 = (2 * 8 * CHAINS * PEAK_STEPS) as f64;

fn peak() {
    #[cfg(target_arch = "x86_64")]
    if Isa::available().iter().any(|isa| isa.name() == "avx2") {
        // SAFETY: the CPU has AVX2 and FMA.
        black_box(unsafe { chains() });
    }
}

/// Multiplies with the `gemm` crate, which chooses its blocks from the caches of the CPU.
fn other(a: MatRef<'_>, b: MatRef<'_>, c: &mut [f32], threads: usize) {
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    assert!(c.len() >= a.nrows() * b.ncols());
    // SAFETY: the views lie within their slices, `c` is long enough and not shared.
    unsafe {
        gemm::gemm(
            a.nrows(),
            b.ncols(),
            a.ncols(),
            c.as_mut_ptr(),
            1,
            b.ncols() as isize,
            false,
            a.as_ptr(),
            a.col_stride() as isize,
            a.row_stride() as isize,
            b.as_ptr(),
            b.col_stride() as isize,
            b.row_stride() as isize,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Measures one shape. `b` is `[n, k]` (rows of weights), or `[k, n]` if `plain` is set.
fn shape(m: usize, n: usize, k: usize, plain: bool, threads: usize) {
    let (a, b) = (numbers(m * k), numbers(n * k));
    let a = MatRef::from_row_major_slice(&a, m, k);
    let b = match plain {
        true => MatRef::from_row_major_slice(&b, k, n),
        false => MatRef::from_row_major_slice(&b, n, k).transpose(),
    };
    let (mut ours, mut theirs) = (vec![0.0; m * n], vec![0.0; m * n]);
    let isa = *Isa::available().last().expect("the portable instruction set");
    let work = (2 * m * n * k) as f64;
    let repeat = (4e7 / work).ceil() as usize;
    let times = on(threads, || {
        best(&mut [
            &mut || {
                (0..repeat).for_each(|_| {
                    gemm_on(isa, a, b, MatMut::from_row_major_slice(&mut ours, m, n), Update::Set);
                });
            },
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

/// Formats the milliseconds, the floating point operations a second, and their share of the peak of as many cores.
fn rate(work: f64, times: &[f64], threads: usize) -> String {
    let (rate, peak) = (work / times[0] / 1e9, PEAK_WORK / times[1] / 1e9);
    format!("{:.1} | {rate:.1} | {:.2} |", 1e3 * times[0], rate / peak / threads as f64)
}

/// Measures a factorization, which takes `n^3 / 3` operations.
fn factors(n: usize, threads: usize) {
    let x = numbers(2 * n * n);
    let mut h = vec![0.0; n * n];
    moments::accumulate(&x, n, n, &mut h);
    moments::symmetrize(&mut h, n, n, 2 * n as u64);
    drop(x);
    let times = on(threads, || {
        let h = MatRef::from_row_major_slice(&h, n, n);
        best(&mut [&mut || drop(black_box(udu::factorize(h, 0.01))), &mut peak])
    });
    println!("| factors {n} | {threads} | {}", rate((n as f64).powi(3) / 3.0, &times, threads));
}

/// Measures sums of second moments, which take `tokens n block` operations.
fn sums(tokens: usize, n: usize, block: usize, threads: usize) {
    let x = numbers(tokens * n);
    let mut into = vec![0.0; n * block];
    let times = on(threads, || best(&mut [&mut || moments::accumulate(&x, n, block, &mut into), &mut peak]));
    let work = tokens as f64 * n as f64 * block as f64;
    println!("| moments {tokens} x {n}, {block} | {threads} | {}", rate(work, &times, threads));
}

fn triangles() {
    println!("\n| what | threads | ms | GFLOP/s | of the peak |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for threads in [1, 2] {
        [384, 1536, 6144].into_iter().for_each(|n| factors(n, threads));
        sums(4096, 1536, 1536, threads);
        sums(4096, 6144, 1536, threads);
        sums(4096, 1536, 256, threads);
    }
}

fn products() {
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

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    if wanted != "triangles" {
        products();
    }
    if wanted != "products" {
        triangles();
    }
}
