//! Times the quantizers on rows of floats for `benches/kernels.py`, in a process that can be held to an instruction set.
//!
//! `quant_cli quantize TYPE COLUMNS IN.f32 OUT.bin [H.f32] [REPEATS]` reads raw little-endian f32 rows without a header,
//! writes their blocks, and prints a line of JSON with the seconds of each repeat. `H.f32` holds one importance a
//! column; `-` stands for none.

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
        other => panic!("unknown command {other}"),
    }
}
