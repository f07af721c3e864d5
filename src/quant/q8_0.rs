//! Q8_0: blocks of 32 weights, 34 bytes, 8.5 bits per weight.
//!
//! Layout: scale f16, 32 signed codes. A weight is `scale * code`.
//!
//! The quantizer gives the bytes of ggml's, except for tiny blocks: where the scale is so small that f16 has only coarse
//! steps left, the scale is rounded up and the codes are taken against the rounded scale, which keeps weights that ggml
//! flushes to zero. At 8 bits a search gains less than 0.1 % of the squared error, so the importances of the columns are
//! not used; ggml does not use them either.

use super::block32::BLOCK;
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, Vector, f16};

/// Below this number, 2^-14, an f16 is subnormal.
const SMALLEST_NORMAL: f32 = 1.0 / (1 << 14) as f32;
/// The largest float below one half.
const BELOW_HALF: f32 = 0.499_999_97;

/// The format.
pub struct Q80;

impl BlockFormat for Q80 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    /// The scale is an f16, and the weight of largest magnitude takes the level 127.
    const MAX_ABS: f32 = f16::MAX * 127.0;
    const SUB: usize = BLOCK;
    const LEVELS: (f32, f32) = (-127.0, 127.0);
    /// The stored byte is the level as a signed number; a code is that byte with its highest bit flipped.
    const ZERO: f32 = 128.0;
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::one(f16::read(block))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        for (code, byte) in codes.iter_mut().zip(&block[2..Self::BYTES]) {
            *code = byte ^ 0x80;
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        f16::write(scales.d, block);
        for (byte, code) in block[2..Self::BYTES].iter_mut().zip(codes) {
            *byte = code ^ 0x80;
        }
    }

    fn weights(_importance: &[f32]) -> Option<Vec<f32>> {
        None
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], _columns: Option<Columns<'_>>, out: &mut [u8]) {
        for (x, out) in rows.as_chunks::<BLOCK>().0.iter().zip(out.chunks_exact_mut(Self::BYTES)) {
            encode(simd.x8(), x, out);
        }
    }
}

/// Quantizes one block of finite weights.
#[inline(always)]
fn encode<V: Vector>(v: V, x: &[f32; BLOCK], out: &mut [u8]) {
    let x = [v.load(x), v.load(&x[8..]), v.load(&x[16..]), v.load(&x[24..])];
    let largest = v.max(v.max(v.abs(x[0]), v.abs(x[1])), v.max(v.abs(x[2]), v.abs(x[3])));
    let (scale, inverse) = scale_and_inverse(v.reduce_max(largest) / 127.0);
    f16::write(scale, out);
    let inverse = v.splat(inverse);
    let mut codes = [v.splat_u32(0); 4];
    for i in 0..4 {
        codes[i] = v.to_i32(half_away(v, v.mul(x[i], inverse)));
    }
    v.store_low_bytes(codes, &mut out[2..]);
}

/// Returns the scale that is stored, and the number that the weights are multiplied with.
#[inline(always)]
fn scale_and_inverse(exact: f32) -> (f32, f32) {
    if exact >= SMALLEST_NORMAL {
        return (exact, 1.0 / exact);
    }
    if exact == 0.0 {
        return (0.0, 0.0);
    }
    let steps = exact / f16::MIN_POSITIVE;
    let up = if steps > steps as u32 as f32 { steps as u32 + 1 } else { steps as u32 };
    let scale = up as f32 * f16::MIN_POSITIVE;
    (scale, 1.0 / scale)
}

/// Returns a number whose integer part is C's `roundf` of `|x| < 2^22`: [`BELOW_HALF`] added to the magnitude carries
/// exactly the ties.
#[inline(always)]
fn half_away<V: Vector>(v: V, x: V::F) -> V::F {
    let sign = v.and(v.to_bits(x), v.to_bits(v.splat(-0.0)));
    v.add(x, v.from_bits(v.or(sign, v.to_bits(v.splat(BELOW_HALF)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{dequantize, quantize};
    use crate::simd::Portable;

    #[test]
    fn layout_is_scale_then_codes() {
        let mut w: [f32; BLOCK] = std::array::from_fn(|i| 0.5 * i as f32);
        w[31] = -63.5;
        let mut out = [0; 34];
        quantize(GgmlType::Q8_0, &w, BLOCK, None, &mut out);
        assert_eq!(out[..2], [0x00, 0x38]);
        assert_eq!(out[2..6], [0, 1, 2, 3]);
        assert_eq!(out[33] as i8, -127);
    }

    #[test]
    fn rounding_is_that_of_c() {
        let v = Portable.x8();
        for x in [0.5f32, -0.5, 1.5, 2.5, -2.5, 0.499_999_97, 126.5, 2.499_999_8, -127.0, 0.0, 1e-40] {
            assert_eq!(v.first(half_away(v, v.splat(x))).trunc(), x.round(), "{x}");
        }
    }

    #[test]
    fn tiny_weights_are_not_flushed() {
        let mut w = [0.0; BLOCK];
        w[0] = 1e-6;
        let (mut out, mut back) = ([0; 34], [0.0; BLOCK]);
        quantize(GgmlType::Q8_0, &w, BLOCK, None, &mut out);
        dequantize(GgmlType::Q8_0, &out, &mut back);
        assert!((back[0] - 1e-6).abs() < f16::MIN_POSITIVE);
    }
}
