//! TEMPORARY: a plain range-based Q5_K that keeps the crate compiling. The merge replaces this file
//! by the searching one.

use super::f16;

pub const MAX_ABS: f32 = f16::MAX * 63.0;

const BYTES: usize = 176;
/// Where the codes' low nibbles start.
const LOW: usize = 48;

pub fn quantize_rows(rows: &[f32], _n_per_row: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    for (w, out) in rows.as_chunks::<256>().0.iter().zip(out.chunks_exact_mut(BYTES)) {
        encode(w, out);
    }
}

pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    for (bytes, w) in bytes.chunks_exact(BYTES).zip(out.as_chunks_mut::<256>().0) {
        let d = f16::decode(u16::from_le_bytes([bytes[0], bytes[1]]));
        let dmin = f16::decode(u16::from_le_bytes([bytes[2], bytes[3]]));
        for (s, w) in w.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_min(&bytes[4..16], s);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            for (i, w) in w.iter_mut().enumerate() {
                let low = bytes[LOW + s / 2 * 32 + i] >> (s % 2 * 4) & 15;
                let code = low | (bytes[16 + i] >> s & 1) << 4;
                *w = scale * f32::from(code) - min;
            }
        }
    }
}

fn encode(w: &[f32; 256], out: &mut [u8]) {
    out.fill(0);
    let ranges: Vec<(f32, f32)> = w
        .as_chunks::<32>()
        .0
        .iter()
        .map(|w| {
            let min = w.iter().fold(0.0f32, |a, &w| a.min(w));
            let max = w.iter().fold(0.0f32, |a, &w| a.max(w));
            ((max - min) / 31.0, -min)
        })
        .collect();
    let d = f16::round(ranges.iter().fold(0.0f32, |a, r| a.max(r.0)) / 63.0);
    let dmin = f16::round(ranges.iter().fold(0.0f32, |a, r| a.max(r.1)) / 63.0);
    out[..2].copy_from_slice(&f16::encode(d).to_le_bytes());
    out[2..4].copy_from_slice(&f16::encode(dmin).to_le_bytes());
    let steps = |x: f32, d: f32| if d > 0.0 { (x / d).round().clamp(0.0, 63.0) as u8 } else { 0 };
    for (s, w) in w.as_chunks::<32>().0.iter().enumerate() {
        let (scale, min) = (steps(ranges[s].0, d), steps(ranges[s].1, dmin));
        put_scale_min(&mut out[4..16], s, scale, min);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, w) in w.iter().enumerate() {
            let code = if scale > 0.0 { ((w + min) / scale).round().clamp(0.0, 31.0) as u8 } else { 0 };
            out[LOW + s / 2 * 32 + i] |= (code & 15) << (s % 2 * 4);
            out[16 + i] |= (code >> 4) << s;
        }
    }
}

fn scale_min(b: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        (b[s] & 63, b[s + 4] & 63)
    } else {
        (b[s + 4] & 15 | b[s - 4] >> 6 << 4, b[s + 4] >> 4 | b[s] >> 6 << 4)
    }
}

fn put_scale_min(b: &mut [u8], s: usize, scale: u8, min: u8) {
    if s < 4 {
        b[s] |= scale;
        b[s + 4] |= min;
    } else {
        b[s + 4] |= scale & 15 | (min & 15) << 4;
        b[s - 4] |= scale >> 4 << 6;
        b[s] |= min >> 4 << 6;
    }
}
