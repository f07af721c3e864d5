//! The search of the formats with blocks of 32 weights, and the packing of their codes.
//!
//! A lane is a block. The search minimizes `sum h (w - v)^2` over a block, where `h` is the importance of the column (1
//! without an imatrix) and `v` is what the block decodes to. A few step widths around the one that just spans the block
//! give a few sets of codes. The best scale for given codes follows by least squares, and the gain follows from the same
//! sums. The best scale is rounded to f16, measured exactly, and fitted again to the codes it then gets. The plain
//! spanning scale, ggml's choice without an imatrix, is measured too, so the result is never worse.

use super::arithmetic::{
    MIN_GAIN, MIN_RELATIVE_VARIANCE, code, finite_f16, inverse, ratio_or, signed_inverse, store_codes,
};
use super::format::{BlockFormat, Scales};
use super::weighting::Columns;
use crate::simd::{Simd, Vector};

/// Weights in a block.
pub const BLOCK: usize = 32;

/// Rounds of least squares and rounding on the best candidate, after the first one.
const REFITS: usize = 2;

/// The parameters of the search of one format.
pub trait Block32: BlockFormat {
    /// Sets of codes that the search tries.
    ///
    /// In a format without offset, the weight of largest magnitude is mapped to the negative of the first number; the
    /// second number is unused. There is one more level on the negative side, though a negative number, which maps the
    /// weight to the positive side, is better at times.
    ///
    /// In a format with an offset, the first number says how many more codes the range of the block gets than there are,
    /// and the second number is the code of the smallest weight.
    const CANDIDATES: &'static [(f32, f32)];
}

/// Quantizes whole blocks; see [`Encoding::quantize`](super::Encoding::quantize).
#[inline(always)]
pub fn quantize<F: Block32, S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
    match (S::WIDE, columns) {
        (true, Some(columns)) => weighted::<F, _>(simd.x16(), rows, columns, out),
        (true, None) => unweighted::<F, _>(simd.x16(), rows, out),
        (false, Some(columns)) => weighted::<F, _>(simd.x8(), rows, columns, out),
        (false, None) => unweighted::<F, _>(simd.x8(), rows, out),
    }
}

/// Quantizes `V::N` blocks at a time. Without importances the multiplications by 1 are left out, which changes no bit.
#[inline(always)]
fn unweighted<F: Block32, V: Vector>(v: V, rows: &[f32], out: &mut [u8]) {
    let mut group = Group::new(v);
    let mut padded = [0.0; 16 * BLOCK];
    for (x, out) in rows.chunks(V::N * BLOCK).zip(out.chunks_mut(V::N * F::BYTES)) {
        group.quantize::<F, false>(v, whole(x, &mut padded, V::N * BLOCK), &[], out);
    }
}

/// Quantizes `V::N` blocks at a time under importances.
#[inline(always)]
fn weighted<F: Block32, V: Vector>(v: V, rows: &[f32], columns: Columns<'_>, out: &mut [u8]) {
    let mut group = Group::new(v);
    let (mut padded, mut gathered) = ([0.0; 16 * BLOCK], [0.0; 16 * BLOCK]);
    for (i, (x, out)) in rows.chunks(V::N * BLOCK).zip(out.chunks_mut(V::N * F::BYTES)).enumerate() {
        let h = columns.blocks(V::N * i, V::N, BLOCK, &mut gathered);
        group.quantize::<F, true>(v, whole(x, &mut padded, V::N * BLOCK), h, out);
    }
}

/// Returns `x`, or a copy of it at the start of `padded` if it is shorter than `len`.
#[inline(always)]
fn whole<'a>(x: &'a [f32], padded: &'a mut [f32], len: usize) -> &'a [f32] {
    if x.len() == len {
        return x;
    }
    padded[..x.len()].copy_from_slice(x);
    padded
}

/// Scales the importances of each block to a largest one of 1, so that no sum of squares overflows or vanishes. A block
/// whose importances are all zero counts evenly.
pub fn weights(importance: &[f32]) -> Vec<f32> {
    let one = |block: &[f32; BLOCK]| {
        let largest = block.iter().fold(0.0f32, |a, &h| a.max(h));
        if largest < f32::MIN_POSITIVE || largest.is_infinite() {
            return [1.0; BLOCK];
        }
        block.map(|h| (h / largest).max(0.0))
    };
    importance.as_chunks().0.iter().flat_map(one).collect()
}

/// `V::N` blocks, transposed. Made once for all groups.
struct Group<V: Vector> {
    /// The weights of the tensor.
    x: [V::F; BLOCK],
    /// The importances.
    h: [V::F; BLOCK],
    /// `h x`, or `h (x - mean)` where there is an offset.
    c: [V::F; BLOCK],
    low: V::F,
    high: V::F,
    inv_sum_h: V::F,
    /// The weighted mean of `x`.
    mean: V::F,
}

/// Weighted sums over levels `q`: `h q`, `h q^2`, `c q` and the squared error.
struct Sums<V: Vector> {
    q: V::F,
    qq: V::F,
    cq: V::F,
    error: V::F,
}

/// Scales and offsets, f16 numbers, and their errors.
struct Measured<V: Vector> {
    scale: V::F,
    offset: V::F,
    error: V::F,
}

impl<V: Vector> Measured<V> {
    #[inline(always)]
    fn keep_better(&mut self, v: V, other: &Self) {
        let m = v.gt(self.error, other.error);
        self.scale = v.select(m, other.scale, self.scale);
        self.offset = v.select(m, other.offset, self.offset);
        self.error = v.select(m, other.error, self.error);
    }
}

impl<V: Vector> Group<V> {
    #[inline(always)]
    fn new(v: V) -> Self {
        let zero = v.splat(0.0);
        let rows = [zero; BLOCK];
        Self { x: rows, h: rows, c: rows, low: zero, high: zero, inv_sum_h: zero, mean: zero }
    }

    /// Quantizes a group of blocks. `out` may hold fewer blocks than the group.
    #[inline(always)]
    fn quantize<F: Block32, const W: bool>(&mut self, v: V, x: &[f32], h: &[f32], out: &mut [u8]) {
        self.fill::<W>(v, x, h);
        let mut codes = [0; 16 * BLOCK / 4];
        let (mut scales, mut offsets) = ([0.0; 16], [0.0; 16]);
        let found = if F::MINS { self.affine::<F, W>(v) } else { self.symmetric::<F, W>(v) };
        let inv = if F::MINS { inverse(v, found.scale) } else { signed_inverse(v, found.scale) };
        for (k, x) in self.x.as_chunks::<16>().0.iter().enumerate() {
            let mut q = *x;
            for q in &mut q {
                *q = if F::MINS {
                    code(v, v.mul(v.sub(*q, found.offset), inv), v.splat(F::LEVELS.1))
                } else {
                    v.add(F::nearest(v, v.mul(*q, inv)), v.splat(F::ZERO))
                };
            }
            store_codes(v, &q, k, &mut codes, BLOCK / 4);
        }
        v.store(found.scale, &mut scales);
        v.store(found.offset, &mut offsets);
        let bytes: &[u8] = bytemuck::cast_slice(&codes);
        for (j, (out, codes)) in out.chunks_exact_mut(F::BYTES).zip(bytes.chunks_exact(BLOCK)).enumerate() {
            let scales =
                if F::MINS { Scales::with_offset(scales[j], offsets[j]) } else { Scales::one(scales[j]) };
            F::pack(&scales, codes, out);
        }
    }

    /// Reads blocks and, if there are any, importances.
    #[inline(always)]
    fn fill<const W: bool>(&mut self, v: V, x: &[f32], h: &[f32]) {
        for (part, to) in self.x.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *to = v.load_transposed(&x[part * 4..], BLOCK);
        }
        if W {
            for (part, to) in self.h.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *to = v.load_transposed(&h[part * 4..], BLOCK);
            }
        }
        (self.low, self.high) = (self.x[0], self.x[0]);
        for &x in &self.x {
            self.low = v.min(self.low, x);
            self.high = v.max(self.high, x);
        }
    }

    /// Multiplies `a` with the importance of weight `i`.
    #[inline(always)]
    fn weighted<const W: bool>(&self, v: V, i: usize, a: V::F) -> V::F {
        if W { v.mul(self.h[i], a) } else { a }
    }

    /// Returns the sums over the levels that `level` gives; the error is that of `decode`. The compiler leaves out the sums
    /// that a caller does not use.
    #[inline(always)]
    fn sums<const W: bool>(
        &self,
        v: V,
        level: impl Fn(V::F) -> V::F,
        decode: impl Fn(V::F) -> V::F,
    ) -> Sums<V> {
        let zero = v.splat(0.0);
        let mut s = Sums::<V> { q: zero, qq: zero, cq: zero, error: zero };
        for i in 0..BLOCK {
            let q = level(self.x[i]);
            let hq = self.weighted::<W>(v, i, q);
            s.q = v.add(s.q, hq);
            s.qq = v.add(s.qq, v.mul(hq, q));
            s.cq = v.add(s.cq, v.mul(self.c[i], q));
            let e = v.sub(decode(q), self.x[i]);
            s.error = v.add(s.error, self.weighted::<W>(v, i, v.mul(e, e)));
        }
        s
    }

    /// Searches the scale of a format without offset. The scale that just spans the block, ggml's choice without an
    /// imatrix, is measured too.
    #[inline(always)]
    fn symmetric<F: Block32, const W: bool>(&mut self, v: V) -> Measured<V> {
        for i in 0..BLOCK {
            self.c[i] = self.weighted::<W>(v, i, self.x[i]);
        }
        let zero = v.splat(0.0);
        let extreme = v.select(v.gt(self.high, v.sub(zero, self.low)), self.high, self.low);
        let mut best = self.measure_symmetric::<F, W>(v, v.mul(extreme, v.splat(1.0 / F::LEVELS.0))).0;
        let mut scale = self.best_extreme::<F, W>(v, extreme);
        for _ in 0..=REFITS {
            let (measured, next) = self.measure_symmetric::<F, W>(v, scale);
            best.keep_better(v, &measured);
            scale = next;
        }
        best
    }

    /// Returns the scale of the codes that take most off the error, among those that map the weight of largest magnitude,
    /// `extreme`, to one of the extreme levels.
    #[inline(always)]
    fn best_extreme<F: Block32, const W: bool>(&self, v: V, extreme: V::F) -> V::F {
        let inv_extreme = signed_inverse(v, extreme);
        let (mut best, mut largest_gain) = (v.splat(0.0), v.splat(0.0));
        for &(extreme_level, _) in F::CANDIDATES {
            let inv = v.mul(v.splat(0.0 - extreme_level), inv_extreme);
            let s = self.sums::<W>(v, |x| F::nearest(v, v.mul(x, inv)), |q| q);
            let scale = v.div(s.cq, s.qq);
            let gain = v.mul(s.cq, scale);
            let m = v.gt(gain, v.mul(largest_gain, v.splat(MIN_GAIN)));
            best = v.select(m, scale, best);
            largest_gain = v.select(m, gain, largest_gain);
        }
        best
    }

    /// Returns the error with `scale` as f16, and the best scale for the codes that this scale gives.
    #[inline(always)]
    fn measure_symmetric<F: Block32, const W: bool>(&self, v: V, scale: V::F) -> (Measured<V>, V::F) {
        let scale = finite_f16(v, scale);
        let inv = signed_inverse(v, scale);
        let s = self.sums::<W>(v, |x| F::nearest(v, v.mul(x, inv)), |q| v.mul(scale, q));
        let measured = Measured { scale, offset: v.splat(0.0), error: s.error };
        (measured, ratio_or(v, s.cq, s.qq, scale))
    }

    /// Searches the scale and the offset. The pair that just spans the block is measured too.
    #[inline(always)]
    fn affine<F: Block32, const W: bool>(&mut self, v: V) -> Measured<V> {
        let (mut sum_h, mut first) = (v.splat(0.0), v.splat(0.0));
        for i in 0..BLOCK {
            sum_h = v.add(sum_h, self.weighted::<W>(v, i, v.splat(1.0)));
            first = v.add(first, self.weighted::<W>(v, i, self.x[i]));
        }
        self.inv_sum_h = v.div(v.splat(1.0), sum_h);
        self.mean = v.mul(first, self.inv_sum_h);
        for i in 0..BLOCK {
            self.c[i] = self.weighted::<W>(v, i, v.sub(self.x[i], self.mean));
        }
        let step = v.mul(v.sub(self.high, self.low), v.splat(1.0 / F::LEVELS.1));
        let mut best = self.measure_affine::<F, W>(v, step, self.low).0;
        let (mut scale, mut mean_code) = self.best_range::<F, W>(v);
        for _ in 0..=REFITS {
            let scale16 = finite_f16(v, scale);
            let offset = v.sub(self.mean, v.mul(scale16, mean_code));
            let (measured, s) = self.measure_affine::<F, W>(v, scale16, offset);
            best.keep_better(v, &measured);
            mean_code = v.mul(s.q, self.inv_sum_h);
            scale = ratio_or(v, s.cq, v.sub(s.qq, v.mul(s.q, mean_code)), scale);
        }
        best
    }

    /// Returns the scale and the mean code of the codes that take most off the error, among those that give the range of
    /// the block a number of steps.
    #[inline(always)]
    fn best_range<F: Block32, const W: bool>(&self, v: V) -> (V::F, V::F) {
        let zero = v.splat(0.0);
        let inv_range = inverse(v, v.sub(self.high, self.low));
        let (mut best, mut best_mean, mut largest_gain) = (zero, zero, zero);
        for &(extra, shift) in F::CANDIDATES {
            let inv = v.mul(v.splat(F::LEVELS.1 + extra), inv_range);
            let (by, top) = (v.splat(shift), v.splat(F::LEVELS.1));
            let t = |x| v.add(v.mul(v.sub(x, self.low), inv), by);
            let s = self.sums::<W>(v, |x| code(v, t(x), top), |q| q);
            let mean_code = v.mul(s.q, self.inv_sum_h);
            let spread = v.sub(s.qq, v.mul(s.q, mean_code));
            let scale = v.div(s.cq, spread);
            let gain = v.mul(s.cq, scale);
            let real = v.gt(spread, v.mul(v.splat(MIN_RELATIVE_VARIANCE), s.qq));
            let m = v.mask_and(real, v.gt(gain, v.mul(largest_gain, v.splat(MIN_GAIN))));
            best = v.select(m, scale, best);
            best_mean = v.select(m, mean_code, best_mean);
            largest_gain = v.select(m, gain, largest_gain);
        }
        (best, best_mean)
    }

    /// Returns the error with `scale` and `offset` as f16, and the sums of the codes that these give.
    #[inline(always)]
    fn measure_affine<F: Block32, const W: bool>(
        &self,
        v: V,
        scale: V::F,
        offset: V::F,
    ) -> (Measured<V>, Sums<V>) {
        let (scale, offset) = (finite_f16(v, scale), finite_f16(v, offset));
        let inv = inverse(v, scale);
        let top = v.splat(F::LEVELS.1);
        let nearest = |x| code(v, v.mul(v.sub(x, offset), inv), top);
        let s = self.sums::<W>(v, nearest, |q| v.add(v.mul(scale, q), offset));
        (Measured { scale, offset, error: s.error }, s)
    }
}

/// Writes the low nibbles of 32 codes to 16 bytes: code `i` in the low half, code `i + 16` in the high half.
#[inline(always)]
pub fn write_nibbles(codes: &[u8], out: &mut [u8]) {
    let codes: &[u8; BLOCK] = codes.first_chunk().expect("32 codes");
    let out: &mut [u8; 16] = out.first_chunk_mut().expect("16 bytes");
    for i in 0..16 {
        out[i] = (codes[i] & 15) | (codes[i + 16] & 15) << 4;
    }
}

/// The inverse of [`write_nibbles`].
#[inline(always)]
pub fn read_nibbles(bytes: &[u8], codes: &mut [u8]) {
    let bytes: &[u8; 16] = bytes.first_chunk().expect("16 bytes");
    let codes: &mut [u8; BLOCK] = codes.first_chunk_mut().expect("32 codes");
    for i in 0..16 {
        codes[i] = bytes[i] & 15;
        codes[i + 16] = bytes[i] >> 4;
    }
}

/// Writes the fifth bits of 32 codes to 4 bytes: that of code `i` becomes bit `i`.
#[inline(always)]
pub fn write_fifth_bits(codes: &[u8], out: &mut [u8]) {
    let mut bits = 0;
    for (k, codes) in codes[..BLOCK].as_chunks::<4>().0.iter().enumerate() {
        // The product brings bits 0, 8, 16 and 24 to 24..28, and nothing else there or above.
        let fifth = u32::from_le_bytes(*codes) >> 4 & 0x0101_0101;
        bits |= (fifth.wrapping_mul(0x0102_0408) >> 24) << (4 * k);
    }
    out[..4].copy_from_slice(&bits.to_le_bytes());
}

/// Adds the fifth bits to codes that [`read_nibbles`] has read.
#[inline(always)]
pub fn read_fifth_bits(bytes: &[u8], codes: &mut [u8]) {
    let bits = u32::from_le_bytes(*bytes.first_chunk().expect("4 bytes"));
    for (i, code) in codes[..BLOCK].iter_mut().enumerate() {
        *code |= ((bits >> i & 1) as u8) << 4;
    }
}
