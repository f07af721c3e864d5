//! Measures the cost and the gain of each step of the solver on one thread:
//! `cargo bench --bench feedback -- MODEL.gguf FILE.calib [TYPE [WEIGHTS]]`.
//!
//! For each set of options the bench prints the nanoseconds for each weight and `relJ`, the geometric mean over the
//! tensors of `(v - w) H (v - w)^T / w H w^T` with H undamped. MODEL holds F32, F16 or BF16 tensors. FILE is the
//! calibration file that `srd-rs calibrate` wrote for MODEL. The bench takes at most WEIGHTS (default 1 M) of each tensor.
//! Without arguments it measures nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use srd_rs::dtype::GgmlType;
use srd_rs::feedback::{DAMPING, FactorizedMoments, Rows, SolverOptions, choose_dither, quantize_rows};
use srd_rs::formats::calibration::{Calibration, SecondMoments};
use srd_rs::formats::gguf::Gguf;
use srd_rs::model::source::Source;
use srd_rs::noise::Noise;
use srd_rs::quant;

/// Number of rows on which the noise is chosen, as in a conversion.
const SAMPLE_ROWS: usize = 16;

struct Tensor {
    name: String,
    weights: Vec<f32>,
    moments: SecondMoments,
    factorized: FactorizedMoments,
}

/// Returns the sum of `x H x^T` over rows x.
fn energy(moments: &SecondMoments, rows: &[f32]) -> f64 {
    let (n, block) = (moments.n, moments.block);
    let of = |x: &[f32]| {
        let mut sum = 0.0;
        for (start, len) in moments.blocks() {
            let x = &x[start..start + len];
            for (i, &xi) in x.iter().enumerate() {
                let h = &moments.values[(start + i) * block..][..len];
                let mut dots = [0.0; 8];
                for (h, x) in h.chunks(8).zip(x.chunks(8)) {
                    h.iter().zip(x).zip(&mut dots).for_each(|((h, x), dot)| *dot += h * x);
                }
                sum += f64::from(xi * dots.iter().sum::<f32>());
            }
        }
        sum
    };
    rows.chunks_exact(n).map(of).sum()
}

fn load(model: &str, file: &str, limit: usize) -> Vec<Tensor> {
    let gguf = Gguf::open(model).expect("a GGUF");
    let source = Source::from_gguf(&gguf).expect("a GGUF");
    let calibration = Arc::new(Calibration::open(Path::new(file)).expect("a calibration file"));
    let mut tensors = Vec::new();
    for i in 0..source.len() {
        let (name, shape) = (source.name(i).to_string(), source.shape(i).to_vec());
        let Some(moments) = calibration.get(&name) else { continue };
        if shape.len() != 2 || moments.is_stack() || !shape[1].is_multiple_of(256) || name.contains("_embd") {
            continue;
        }
        let n = shape[1] as usize;
        let rows = (shape[0] as usize).min(limit / n / 32 * 32);
        let mut weights = vec![0.0; rows * n];
        source.read_f32(i, 0, &mut weights, &mut Vec::new()).expect("weights");
        let moments = moments.read(0).expect("moments");
        let factorized = FactorizedMoments::new(moments.clone(), DAMPING).expect("finite moments");
        let Some(factorized) = factorized else { continue };
        tensors.push(Tensor { name, weights, moments, factorized });
    }
    tensors
}

/// Returns the nanoseconds for each weight, and relJ.
fn measure(ty: GgmlType, tensors: &[Tensor], options: &SolverOptions) -> (f64, f64) {
    let (mut seconds, mut weights, mut logs) = (0.0, 0, 0.0);
    for t in tensors {
        let mut out = vec![0; ty.row_bytes(t.weights.len() as u64).expect("whole rows") as usize];
        let noise = Noise::new(0, &t.name);
        let sample = &t.weights[..t.weights.len().min(SAMPLE_ROWS * t.moments.n)];
        let start = Instant::now();
        let chosen =
            choose_dither(ty, Rows { weights: sample, noise: &noise, first: 0 }, &t.factorized, options);
        quantize_rows(
            ty,
            Rows { weights: &t.weights, noise: &noise, first: 0 },
            &t.factorized,
            &chosen,
            &mut out,
        );
        seconds += start.elapsed().as_secs_f64();
        weights += t.weights.len();
        let mut off = vec![0.0; t.weights.len()];
        quant::dequantize(ty, &out, &mut off);
        off.iter_mut().zip(&t.weights).for_each(|(v, w)| *v -= w);
        logs += (energy(&t.moments, &off) / energy(&t.moments, &t.weights)).ln();
    }
    (seconds / weights as f64 * 1e9, (logs / tensors.len() as f64).exp())
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, file, rest @ ..] = args.as_slice() else {
        println!("usage: cargo bench --bench feedback -- MODEL.gguf FILE.calib [TYPE [WEIGHTS]]");
        return;
    };
    let ty = rest.first().map_or(GgmlType::Q4_K, |t| GgmlType::from_name(t).expect("a type"));
    let limit = rest.get(1).map_or(1 << 20, |n| n.parse().expect("a number"));
    let tensors = load(model, file, limit);
    println!("{} tensors, {}", tensors.len(), ty.name());
    println!(
        "| feedback | descent rounds | beam width | dither | ns/weight | relJ |\n| --- | --- | --- | --- | ---: | ---: |"
    );
    let plain = SolverOptions { beam_width: 1, ..SolverOptions::default() };
    for options in [
        SolverOptions { feedback: false, descent_rounds: 0, ..plain },
        SolverOptions { descent_rounds: 0, ..plain },
        SolverOptions { descent_rounds: 1, ..plain },
        SolverOptions { descent_rounds: 2, ..plain },
        SolverOptions { descent_rounds: 3, ..plain },
        SolverOptions { descent_rounds: 0, beam_width: 4, dither: Some(0.2), ..plain },
        SolverOptions { beam_width: 2, dither: Some(0.2), ..plain },
        SolverOptions { beam_width: 4, dither: Some(0.1), ..plain },
        SolverOptions { beam_width: 4, dither: Some(0.2), ..plain },
        SolverOptions { beam_width: 4, dither: Some(0.3), ..plain },
        SolverOptions { beam_width: 4, ..plain },
        SolverOptions { beam_width: 8, dither: Some(0.2), ..plain },
    ] {
        let (ns, j) = measure(ty, &tensors, &options);
        let dither = options.dither.map_or("chosen".into(), |d| d.to_string());
        let SolverOptions { feedback, descent_rounds, beam_width, .. } = options;
        println!("| {feedback} | {descent_rounds} | {beam_width} | {dither} | {ns:.1} | {j:.4e} |");
    }
}
