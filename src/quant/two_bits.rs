//! The packing of codes of two bits that Q2_K, Q3_K and TQ2_0 share.
//!
//! Each half of 128 weights has 32 bytes: byte `l` holds the codes of the weights `l`, `l + 32`, `l + 64` and `l + 96`,
//! from the low bits up.

/// Reads 256 codes of two bits.
#[inline(always)]
pub fn read(bytes: &[u8], codes: &mut [u8; 256]) {
    for (bytes, codes) in bytes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
        for (part, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for l in 0..32 {
                codes[l] = bytes[l] >> (2 * part) & 3;
            }
        }
    }
}

/// The inverse of [`read`]. Higher bits of the codes are left out.
#[inline(always)]
pub fn write(codes: &[u8], bytes: &mut [u8]) {
    for (bytes, q) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<128>().0) {
        for l in 0..32 {
            bytes[l] = (q[l] & 3) | (q[l + 32] & 3) << 2 | (q[l + 64] & 3) << 4 | (q[l + 96] & 3) << 6;
        }
    }
}
