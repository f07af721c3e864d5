//! Quantises rows for the Python oracle and the benches, which cannot call Rust directly.
//!
//! `quant_cli quantize TYPE COLUMNS IN.f32 OUT.bin [H.f32] [REPEATS]`: raw f32 rows in, blocks out, and a line of
//! JSON with the seconds of each repeat. `quant_cli dequantize TYPE IN.bin OUT.f32`: blocks in, f32 out.
//! Little-endian, no headers. `H.f32` is one importance a column, or `-` for none.

use std::time::Instant;

use srd_rs::dtype::GgmlType;
use srd_rs::quant;

fn floats(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("readable input");
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ty = GgmlType::from_name(&args[1]).expect("a known type");
    match args[0].as_str() {
        "quantize" => {
            let columns: usize = args[2].parse().expect("columns");
            let rows = floats(&args[3]);
            let h = args.get(5).filter(|h| *h != "-").map(|h| floats(h));
            let repeats: usize = args.get(6).map_or(1, |r| r.parse().expect("repeats"));
            let blocks = rows.len() / ty.block_len();
            let mut out = vec![0; blocks * ty.block_bytes()];
            let mut seconds = Vec::new();
            for _ in 0..repeats {
                let start = Instant::now();
                quant::quantize(ty, &rows, columns, h.as_deref(), &mut out);
                seconds.push(start.elapsed().as_secs_f64());
            }
            std::fs::write(&args[4], &out).expect("writable output");
            let level = srd_rs::simd_level::level().name();
            println!("{}", serde_json::json!({"level": level, "weights": rows.len(), "seconds": seconds}));
        }
        "dequantize" => {
            let bytes = std::fs::read(&args[2]).expect("readable input");
            let mut out = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
            quant::dequantize(ty, &bytes, &mut out);
            let raw: Vec<u8> = out.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(&args[3], raw).expect("writable output");
        }
        other => panic!("unknown command {other}"),
    }
}
