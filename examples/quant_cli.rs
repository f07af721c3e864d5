//! Times the quantizers on rows of floats for `benches/kernels.py`, in a process that can be held to an instruction set.
//!
//! `quant_cli quantize TYPE COLUMNS IN.f32 OUT.bin [H.f32] [REPEATS]` reads raw little-endian f32 rows without a header,
//! writes their blocks, and prints a line of JSON with the seconds of each repeat. `H.f32` holds one importance a
//! column; `-` stands for none.
//!
//! `quant_cli list` prints a line of JSON with the block formats and the instruction sets of this CPU, the best one first.

use std::time::Instant;

use srd_rs::dtype::GgmlType;
use srd_rs::quant;
use srd_rs::simd::Isa;

fn floats(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("readable input");
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args[0].as_str() {
        "quantize" => {
            let ty = GgmlType::from_name(&args[1]).expect("a known type");
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
            let isa = Isa::detect().name();
            println!("{}", serde_json::json!({"isa": isa, "weights": rows.len(), "seconds": seconds}));
        }
        "list" => {
            let types: Vec<_> = quant::BLOCK_FORMATS.iter().map(|ty| ty.name()).collect();
            let isas: Vec<_> = Isa::available().iter().rev().map(|isa| isa.name()).collect();
            println!("{}", serde_json::json!({"types": types, "isas": isas}));
        }
        other => panic!("unknown command {other}"),
    }
}
