//! Weights per second of the quantizers, by type, importances and instruction set: `cargo bench --bench k_quants`.
//! `benches/kernels.py` prints the ratio to ggml.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use srd_rs::quant::{BLOCK_FORMATS, Weighting, quantize_at};
use srd_rs::simd::Isa;

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

fn quantizers(c: &mut Criterion) {
    let rows = rows();
    let importance: Vec<f32> = (0..COLUMNS).map(|i| 0.1 + (i * i % 17) as f32).collect();
    for &ty in BLOCK_FORMATS {
        let mut group = c.benchmark_group(ty.name());
        group.throughput(Throughput::Elements(rows.len() as u64));
        let mut out = vec![0; ty.row_bytes(rows.len() as u64).expect("whole blocks") as usize];
        let weighting = Weighting::new(ty, &importance);
        for isa in Isa::available() {
            for (how, columns) in [("plain", None), ("imatrix", weighting.columns(0..COLUMNS))] {
                group.bench_function(BenchmarkId::new(isa.name(), how), |b| {
                    b.iter(|| quantize_at(isa, ty, &rows, columns, &mut out));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, quantizers);
criterion_main!(benches);
