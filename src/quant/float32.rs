//! F32: the weights as they are, little endian. (Not named `f32.rs`: a module of that name would
//! hide the primitive type.)

/// Every finite weight.
pub const MAX_ABS: f32 = f32::MAX;

/// Weights to bytes, bit patterns kept.
pub fn quantize(rows: &[f32], out: &mut [u8]) {
    for (bytes, w) in out.as_chunks_mut().0.iter_mut().zip(rows) {
        *bytes = w.to_le_bytes();
    }
}

/// Bytes to weights, bit patterns kept.
pub fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (w, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *w = f32::from_le_bytes(*bytes);
    }
}
