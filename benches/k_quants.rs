//! Weights per second of the K-quant shells, by type and instruction set: `cargo bench --bench k_quants`.
//! The ratio to ggml is printed by `benches/kernels.py`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use srd_rs::quant::{q4_k, q5_k, q6_k};
use srd_rs::simd_level::{Level, available};

const COLUMNS: usize = 2048;
const ROWS: usize = 64;

/// Bell-shaped rows without a random number crate: sums of four steps of a linear congruence.
fn rows() -> Vec<f32> {
    let mut state = 1u32;
    let mut step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..ROWS * COLUMNS).map(|_| 0.02 * (step() + step() + step() + step())).collect()
}

type Quantise = fn(Level, &[f32], usize, Option<&[f32]>, &mut [u8]);

fn k_quants(c: &mut Criterion) {
    let rows = rows();
    let importance: Vec<f32> = (0..COLUMNS).map(|i| 0.1 + (i * i % 17) as f32).collect();
    let kinds: [(&str, usize, Quantise); 3] = [
        ("Q4_K", q4_k::BYTES, q4_k::quantize_rows_at),
        ("Q5_K", q5_k::BYTES, q5_k::quantize_rows_at),
        ("Q6_K", q6_k::BYTES, q6_k::quantize_rows_at),
    ];
    for (name, bytes, quantise) in kinds {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(rows.len() as u64));
        let mut out = vec![0; rows.len() / 256 * bytes];
        for level in available() {
            for (how, h) in [("plain", None), ("imatrix", Some(&importance[..]))] {
                group.bench_function(BenchmarkId::new(level.name(), how), |b| {
                    b.iter(|| quantise(level, &rows, COLUMNS, h, &mut out));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, k_quants);
criterion_main!(benches);
