//! TEMPORARY: a plain range-based Q6_K that keeps the crate compiling. The merge replaces this file
//! by the searching one.

use super::f16;

pub const MAX_ABS: f32 = f16::MAX * 31.0 * 127.0;

const BYTES: usize = 210;

pub fn quantize_rows(rows: &[f32], _n_per_row: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    for (w, out) in rows.as_chunks::<256>().0.iter().zip(out.chunks_exact_mut(BYTES)) {
        encode(w, out);
    }
}

/// Where code i lies: low nibble (byte, shift), high bits (byte, shift).
fn place(i: usize) -> (usize, usize, usize, usize) {
    let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
    (half * 64 + quarter % 2 * 32 + l, quarter / 2 * 4, 128 + half * 32 + l, quarter * 2)
}

pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    for (bytes, w) in bytes.chunks_exact(BYTES).zip(out.as_chunks_mut::<256>().0) {
        let d = f16::decode(u16::from_le_bytes([bytes[208], bytes[209]]));
        for (i, w) in w.iter_mut().enumerate() {
            let (low, low_shift, high, high_shift) = place(i);
            let code = bytes[low] >> low_shift & 15 | (bytes[high] >> high_shift & 3) << 4;
            *w = d * f32::from(bytes[192 + i / 16] as i8) * (f32::from(code) - 32.0);
        }
    }
}

fn encode(w: &[f32; 256], out: &mut [u8]) {
    out.fill(0);
    let largest = |w: &[f32]| w.iter().fold(0.0f32, |a, w| a.max(w.abs()));
    let d = f16::round(largest(w) / 31.0 / 127.0);
    out[208..].copy_from_slice(&f16::encode(d).to_le_bytes());
    for (s, w) in w.as_chunks::<16>().0.iter().enumerate() {
        let steps = if d > 0.0 { (largest(w) / 31.0 / d).round().min(127.0) } else { 0.0 };
        out[192 + s] = steps as u8;
        let scale = d * steps;
        for (l, w) in w.iter().enumerate() {
            let q = if scale > 0.0 { (w / scale).round().clamp(-32.0, 31.0) } else { 0.0 };
            let code = (q + 32.0) as u8;
            let (low, low_shift, high, high_shift) = place(s * 16 + l);
            out[low] |= (code & 15) << low_shift;
            out[high] |= (code >> 4) << high_shift;
        }
    }
}
