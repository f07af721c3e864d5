//! Throughput of what reads weights: decoding and scanning a checkpoint's elements, dequantizing blocks, and encoding
//! the residual plane, on one thread: `cargo bench --bench decode`. `SRD_MAX_ISA` holds it to an instruction set.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use srd_rs::dtype::{GgmlType, SourceType};
use srd_rs::formats::decode::{decode_row, scan};
use srd_rs::noise::Noise;
use srd_rs::quant::{self, residual};

/// Weights handled at a time, as a worker of a conversion does.
const WEIGHTS: usize = 4 << 10;
/// Source bytes of a scan: more than the caches hold, so that memory is what is measured.
const SCANNED: usize = 64 << 20;

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect()
}

fn elements(c: &mut Criterion) {
    let source = bytes(SCANNED);
    let mut out = vec![0f32; WEIGHTS];
    for ty in [SourceType::F32, SourceType::BF16, SourceType::F16, SourceType::F8E4M3, SourceType::F8E5M2] {
        let mut group = c.benchmark_group(format!("{ty:?}"));
        group.throughput(Throughput::Bytes(SCANNED as u64)).sample_size(10);
        group.bench_function("decode", |b| {
            b.iter(|| {
                for row in source.chunks_exact(WEIGHTS * ty.bytes()) {
                    decode_row(ty, row, &mut out);
                    std::hint::black_box(&mut out);
                }
            });
        });
        group.bench_function("scan", |b| b.iter(|| scan(ty, &source)));
        group.finish();
    }
}

fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("dequantize");
    group.throughput(Throughput::Elements(WEIGHTS as u64));
    for &ty in quant::QUANTIZABLE {
        let source = bytes(WEIGHTS / ty.block_len() * ty.block_bytes());
        let mut out = vec![0f32; WEIGHTS];
        group.bench_function(BenchmarkId::from_parameter(ty.name()), |b| {
            b.iter(|| quant::dequantize(ty, &source, &mut out));
        });
    }
    group.finish();
}

fn residuals(c: &mut Criterion) {
    let blocks = bytes(WEIGHTS / GgmlType::Q8_0.block_len() * GgmlType::Q8_0.block_bytes());
    let mut weights = vec![0f32; WEIGHTS];
    quant::dequantize(GgmlType::Q8_0, &blocks, &mut weights);
    weights.iter_mut().for_each(|w| *w = if w.is_finite() { *w % 0.01 } else { 0.0 });
    let steps = vec![0.01; WEIGHTS / residual::SUB];
    let noise = Noise::new(1, "bench");
    let mut group = c.benchmark_group("residual");
    group.throughput(Throughput::Elements(WEIGHTS as u64));
    for n in [2, 3, 4] {
        let bits = residual::Bits::new(n).expect("2, 3 and 4 bits are written");
        let mut plane = vec![0; bits.plane_bytes(WEIGHTS as u64).expect("whole sub-blocks") as usize];
        group.bench_function(BenchmarkId::new("encode", n), |b| {
            let run = || residual::Run { noise: &noise, bits, start: 0, row: WEIGHTS as u64, steps: &steps };
            b.iter(|| residual::encode(run(), &weights, &mut plane));
        });
    }
    group.finish();
}

criterion_group!(benches, elements, blocks, residuals);
criterion_main!(benches);
