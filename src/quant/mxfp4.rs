//! MXFP4: blocks of 32 weights, 17 bytes, 4.25 bits per weight: the microscaling format of the Open Compute Project.
//!
//! Layout: an exponent `e`, then 16 bytes of nibbles, see [`block32::write_nibbles`]. A weight is `2^(e - 128)` times one
//! of the levels 0, 1, 2, 3, 4, 6, 8 and 12 with a sign: twice the numbers of two exponent bits and one fraction bit.
//!
//! The search tries a few exponents around the one that brings the largest magnitude to the outermost level, and keeps the
//! one with the least squared error, weighed by the importances of the columns.

use super::block32;
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::Columns;
use crate::dtype::GgmlType;
use crate::simd::{Simd, Vector};

/// The levels in ascending order.
const TABLE: [f32; 15] = [-12.0, -8.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
/// The magnitudes of the levels by the low three bits of a nibble; the fourth bit is the sign.
const MAGNITUDES: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
/// The code of level 0.
const ZERO: f32 = 12.0;

/// The code of each nibble.
const CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 8 {
        codes[i] = (ZERO + MAGNITUDES[i]) as u8;
        codes[i + 8] = (ZERO - MAGNITUDES[i]) as u8;
        i += 1;
    }
    codes
};

/// The nibble of each code: the inverse of [`CODES`]. Zero has the positive sign.
const NIBBLES: [u8; 25] = {
    let mut nibbles = [0; 25];
    let mut i = 16;
    while i > 0 {
        i -= 1;
        nibbles[CODES[i] as usize] = i as u8;
    }
    nibbles
};

/// Exponents that are tried, relative to ggml's, which brings the largest magnitude to between 8 and 16 steps.
const EXPONENTS: [i32; 3] = [0, 1, -1];
/// The smallest exponent whose reciprocal step is finite.
const SMALLEST: i32 = 2;

/// Returns the level of a nibble. Zero with a negative sign is zero, as in ggml.
#[inline(always)]
pub fn level(nibble: u8) -> f32 {
    f32::from(CODES[usize::from(nibble)]) - ZERO
}

/// The format.
pub struct Mxfp4;

/// Returns `2^(e - 128)`.
#[inline(always)]
fn step(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

impl BlockFormat for Mxfp4 {
    const TYPE: GgmlType = GgmlType::MXFP4;
    /// Far below the largest step, so that no sum of squares overflows.
    const MAX_ABS: f32 = (1u64 << 60) as f32;
    const SUB: usize = block32::BLOCK;
    const LEVELS: (f32, f32) = (TABLE[0], TABLE[14]);
    const ZERO: f32 = ZERO;
    const TABLE: &'static [f32] = &TABLE;
    const STEP: f32 = (TABLE[14] - TABLE[0]) / 14.0;
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;
    const SCALE_IS_F16: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::one(step(block[0]))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        block32::read_nibbles(&block[1..], codes);
        for code in &mut codes[..block32::BLOCK] {
            *code = CODES[usize::from(*code & 15)];
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        let bits = scales.d.to_bits();
        block[0] = if bits >= 0x0080_0000 { (bits >> 23) as u8 + 1 } else { (bits >> 22 & 1) as u8 };
        let mut nibbles = [0; block32::BLOCK];
        for (nibble, &code) in nibbles.iter_mut().zip(codes) {
            *nibble = NIBBLES[usize::from(code)];
        }
        block32::write_nibbles(&nibbles, &mut block[1..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(block32::weights(importance))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        let v = simd.x16();
        let mut codes = [0; block32::BLOCK];
        let even = [1.0; block32::BLOCK];
        let blocks = rows.as_chunks::<{ block32::BLOCK }>().0.iter().zip(out.chunks_exact_mut(Self::BYTES));
        for (i, (x, out)) in blocks.enumerate() {
            let h = columns.map_or(&even, |columns| columns.block(i));
            let e = search(v, x, h);
            let (d, inverse) = (step(e), inverse_of(e));
            for (code, x) in codes.as_chunks_mut::<16>().0.iter_mut().zip(x.as_chunks::<16>().0) {
                let mut codes = [0; 16];
                let level = Self::nearest(v, v.mul(v.load(x), v.splat(inverse)));
                v.store_u32(v.to_i32(v.add(level, v.splat(ZERO))), &mut codes);
                *code = codes.map(|code| code as u8);
            }
            Self::pack(&Scales::one(d), &codes, out);
        }
    }
}

/// Returns `1 / step(e)`, or 0 where that is infinite.
#[inline(always)]
fn inverse_of(e: u8) -> f32 {
    if i32::from(e) < SMALLEST { 0.0 } else { 1.0 / step(e) }
}

/// Returns the exponent of a block.
#[inline(always)]
fn search<V: Vector>(v: V, x: &[f32; block32::BLOCK], h: &[f32; block32::BLOCK]) -> u8 {
    let (first, second) = (v.load(x), v.load(&x[16..]));
    let largest = v.reduce_max(v.max(v.abs(first), v.abs(second)));
    if largest == 0.0 {
        return 0;
    }
    let ggml = (largest.to_bits() >> 23) as i32 - 2;
    let (h_first, h_second) = (v.load(h), v.load(&h[16..]));
    let (mut best, mut least) = (ggml.max(SMALLEST) as u8, f32::INFINITY);
    // Errors are counted in steps of one exponent, so that no square vanishes.
    let unit = inverse_of(best);
    for by in EXPONENTS {
        let e = (ggml + by).max(SMALLEST) as u8;
        let error = v.add(error(v, first, h_first, e, unit), error(v, second, h_second, e, unit));
        let error = v.reduce_sum(error);
        if error < least {
            (best, least) = (e, error);
        }
    }
    best
}

/// Returns the weighted squared errors with the exponent `e`, in multiples of `1 / unit^2`.
#[inline(always)]
fn error<V: Vector>(v: V, x: V::F, h: V::F, e: u8, unit: f32) -> V::F {
    let q = Mxfp4::nearest(v, v.mul(x, v.splat(inverse_of(e))));
    let off = v.sub(v.mul(x, v.splat(unit)), v.mul(q, v.splat(step(e) * unit)));
    v.mul(h, v.mul(off, off))
}
