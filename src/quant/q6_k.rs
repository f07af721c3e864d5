//! Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight.
//!
//! A block has sixteen sub-blocks of 16 weights. A weight is `d * scale * (q - 32)` with a signed byte `scale` and a code
//! `q` of 6 bits.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..128 | low four bits: in each half of 128 weights, byte `l` of 64 holds weight `l` and, in its high half, `l + 64` |
//! | 128..192 | high two bits: in each half, byte `l` of 32 holds those of `l`, `l + 32`, `l + 64` and `l + 96` |
//! | 192..208 | sixteen signed scales |
//! | 208..210 | `d`, f16 |
//!
//! The search works like that of [`k_affine`](super::k_affine), without mins: a lane is a sub-block, so 16 lanes are a
//! super-block. Candidates for the scale of a sub-block map its weight of largest magnitude to one of
//! [`EXTREME_CODES`]; `d` is chosen among candidates; neighbors of the integer scales are tried; `d` is fitted again.

use super::arithmetic::{
    MIN_GAIN, finite_f16, max16, ratio_or, signed_inverse, store_codes, sum16, symmetric_code,
};
use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::weighting::{Columns, by_weight, normalize};
use crate::dtype::GgmlType;
use crate::simd::{Simd, Vector, f16};

/// Weights in a sub-block.
const SUB: usize = 16;
/// Half the number of codes: the code of level 0.
const HALF: f32 = 32.0;
/// The code that [`fit`] gives to the extreme weight, up to its sign: -32, or clamped to -32.
const EXTREME_CODES: [f32; 6] = [32.0, 31.5, 31.0, 30.5, 30.0, 32.5];
/// The largest scale divided by each of these is tried as `d`.
const SCALE_CANDIDATES: [f32; 4] = [128.0, 126.3, 124.7, 123.1];
/// Steps of the integer scale that [`refine_on_grid`] tries.
const NEIGHBORS: [f32; 3] = [0.0, -1.0, 1.0];

/// The format.
pub struct Q6K;

impl BlockFormat for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    /// The largest magnitude that `d`, a scale of 127 and a level of 31 can express.
    const MAX_ABS: f32 = f16::MAX * 127.0 * 31.0;
    const SUB: usize = SUB;
    const LEVELS: (f32, f32) = (-HALF, HALF - 1.0);
    const SCALES: Option<(f32, f32)> = Some((-128.0, 127.0));
    const MINS: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        let mut scales = Scales::one(f16::read(&block[208..]));
        let bytes: &[u8; SUB] = block[192..].first_chunk().expect("16 bytes of scales");
        scales.scales.iter_mut().zip(bytes).for_each(|(scale, &byte)| *scale = f32::from(byte as i8));
        scales
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        // Runs of 32 weights: four to each half, which has 64 bytes of low and 32 of high bits.
        for (j, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, part) = (j / 4, j % 4);
            let low: &[u8; 32] = block[64 * half + part % 2 * 32..].first_chunk().expect("low bits");
            let high: &[u8; 32] = block[128 + 32 * half..].first_chunk().expect("high bits");
            let (low_shift, high_shift) = (part / 2 * 4, part * 2);
            for l in 0..32 {
                codes[l] = low[l] >> low_shift & 15 | (high[l] >> high_shift & 3) << 4;
            }
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        for (half, q) in codes.as_chunks::<128>().0.iter().enumerate() {
            let low: &mut [u8; 64] = block[64 * half..].first_chunk_mut().expect("low bits");
            for l in 0..64 {
                low[l] = (q[l] & 15) | (q[l + 64] & 15) << 4;
            }
            let high: &mut [u8; 32] = block[128 + 32 * half..].first_chunk_mut().expect("high bits");
            for l in 0..32 {
                high[l] = q[l] >> 4 | (q[l + 32] >> 4) << 2 | (q[l + 64] >> 4) << 4 | (q[l + 96] >> 4) << 6;
            }
        }
        for (out, &scale) in block[192..208].iter_mut().zip(&scales.scales) {
            *out = scale as i8 as u8;
        }
        f16::write(scales.d, &mut block[208..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        Some(by_weight::<MAX_BLOCK>(normalize(importance)?, SUB))
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        let v = simd.x16();
        let mut group = Group::new(v);
        let mut codes = [0; MAX_BLOCK / 4];
        let mut block = Scales::one(0.0);
        for (i, (x, out)) in
            rows.as_chunks::<MAX_BLOCK>().0.iter().zip(out.chunks_exact_mut(Self::BYTES)).enumerate()
        {
            let h = columns.map(|columns| columns.block(i));
            group.fill(v, x, h);
            let (d, scales) = search(v, &group);
            group.assign(v, d, scales, &mut codes);
            v.store(scales, &mut block.scales);
            block.d = v.first(d);
            Self::pack(&block, bytemuck::cast_slice(&codes), out);
        }
    }
}

/// A super-block, transposed. Made once for all super-blocks.
struct Group<V: Vector> {
    /// The weights of the tensor.
    x: [V::F; SUB],
    /// The weights of the squared error: importances, or `|x|`, with which both the plain error and the error weighted by
    /// `x^2` come out well.
    w: [V::F; SUB],
    /// `w x`
    wx: [V::F; SUB],
    /// The weight of largest magnitude, with its sign.
    extreme: V::F,
}

/// Weighted sums over codes `q`: `w x q` and `w q^2`.
#[derive(Clone, Copy)]
struct Sums<V: Vector> {
    xq: V::F,
    qq: V::F,
}

/// The best scale of each sub-block, before it is rounded to a byte.
#[derive(Clone, Copy)]
struct Fit<V: Vector> {
    scale: V::F,
    /// The amount by which the squared error is below that of all zeros.
    gain: V::F,
    /// Half the second derivative of the error.
    curvature: V::F,
}

/// Returns the nearest level.
#[inline(always)]
fn level<V: Vector>(v: V, a: V::F) -> V::F {
    symmetric_code(v, a, HALF)
}

/// Returns the nearest signed byte.
#[inline(always)]
fn byte<V: Vector>(v: V, a: V::F) -> V::F {
    v.round_ties_even(v.clamp(a, v.splat(-128.0), v.splat(127.0)))
}

impl<V: Vector> Group<V> {
    #[inline(always)]
    fn new(v: V) -> Self {
        let zero = v.splat(0.0);
        let rows = [zero; SUB];
        Self { x: rows, w: rows, wx: rows, extreme: zero }
    }

    /// Reads a super-block. `h` holds its importances, see [`by_weight`].
    #[inline(always)]
    fn fill(&mut self, v: V, from: &[f32; MAX_BLOCK], h: Option<&[f32; MAX_BLOCK]>) {
        let zero = v.splat(0.0);
        for (i, to) in self.x.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *to = v.load_transposed(&from[i * 4..], SUB);
        }
        match h {
            None => {
                for (w, &x) in self.w.iter_mut().zip(&self.x) {
                    *w = v.abs(x);
                }
            }
            Some(h) => {
                for (w, h) in self.w.iter_mut().zip(h.as_chunks::<16>().0) {
                    *w = v.load(h);
                }
            }
        }
        let (mut low, mut high) = (self.x[0], self.x[0]);
        for i in 0..SUB {
            low = v.min(low, self.x[i]);
            high = v.max(high, self.x[i]);
            self.wx[i] = v.mul(self.w[i], self.x[i]);
        }
        self.extreme = v.select(v.gt(high, v.sub(zero, low)), high, low);
    }

    /// Stores the codes nearest to the weights.
    #[inline(always)]
    fn assign(&self, v: V, d: V::F, scales: V::F, codes: &mut [u32]) {
        let inv = signed_inverse(v, v.mul(d, scales));
        let mut q = self.x;
        for q in &mut q {
            *q = v.add(level(v, v.mul(*q, inv)), v.splat(HALF));
        }
        store_codes(v, &q, 0, codes, SUB / 4);
    }
}

impl<V: Vector> Sums<V> {
    #[inline(always)]
    fn zero(v: V) -> Self {
        Self { xq: v.splat(0.0), qq: v.splat(0.0) }
    }

    #[inline(always)]
    fn add(&mut self, v: V, q: V::F, w: V::F, wx: V::F) {
        self.xq = v.add(self.xq, v.mul(wx, q));
        self.qq = v.add(self.qq, v.mul(v.mul(w, q), q));
    }
}

/// Returns the sums of the levels nearest to `x * inv`.
#[inline(always)]
fn sums<V: Vector>(v: V, g: &Group<V>, inv: V::F) -> Sums<V> {
    let mut s = Sums::zero(v);
    for i in 0..SUB {
        s.add(v, level(v, v.mul(g.x[i], inv)), g.w[i], g.wx[i]);
    }
    s
}

/// Returns [`sums`] for the `inv` that maps the extreme weight to `-extreme_code`, without the clamps at -32 and 31 that
/// cannot happen.
#[inline(always)]
fn sums_of_extreme<V: Vector>(v: V, g: &Group<V>, extreme_code: f32, inv: V::F) -> Sums<V> {
    let mut s = Sums::zero(v);
    if extreme_code < 31.499 {
        for i in 0..SUB {
            s.add(v, v.round_ties_even(v.mul(g.x[i], inv)), g.w[i], g.wx[i]);
        }
        s
    } else if extreme_code < 32.499 {
        for i in 0..SUB {
            let t = v.min_bits(v.mul(g.x[i], inv), v.splat(HALF - 1.0));
            s.add(v, v.round_ties_even(t), g.w[i], g.wx[i]);
        }
        s
    } else {
        sums(v, g, inv)
    }
}

/// Returns the least-squares fit for the codes of `s` where it gains more than `a` (no NaN does), else `a`.
#[inline(always)]
fn better<V: Vector>(v: V, a: Fit<V>, s: &Sums<V>) -> Fit<V> {
    let scale = v.div(s.xq, s.qq);
    let gain = v.mul(s.xq, scale);
    let m = v.gt(gain, v.mul(a.gain, v.splat(MIN_GAIN)));
    Fit {
        scale: v.select(m, scale, a.scale),
        gain: v.select(m, gain, a.gain),
        curvature: v.select(m, s.qq, a.curvature),
    }
}

/// Returns the least-squares scale over a few sets of codes, and once more with the codes of the best.
#[inline(always)]
fn fit<V: Vector>(v: V, g: &Group<V>) -> Fit<V> {
    let zero = v.splat(0.0);
    let inv_extreme = signed_inverse(v, g.extreme);
    let mut best = Fit::<V> { scale: zero, gain: zero, curvature: zero };
    for extreme_code in EXTREME_CODES {
        let inv = v.mul(v.splat(0.0 - extreme_code), inv_extreme);
        best = better(v, best, &sums_of_extreme(v, g, extreme_code, inv));
    }
    better(v, best, &sums(v, g, signed_inverse(v, best.scale)))
}

/// Returns `d` and signed bytes for the scales of `f`. The largest scale comes out near -128, the longer side.
#[inline(always)]
fn common_factor<V: Vector>(v: V, f: &Fit<V>) -> (V::F, V::F) {
    let zero = v.splat(0.0);
    let up = max16(v, f.scale);
    let down = max16(v, v.sub(zero, f.scale));
    let size = v.max(v.max(up, down), zero);
    let sign = v.select(v.gt(up, down), v.splat(-1.0), v.splat(1.0));
    let (mut best, mut best_factor, mut best_q) = (v.splat(f32::INFINITY), zero, zero);
    for top in SCALE_CANDIDATES {
        let first = v.max(finite_f16(v, v.mul(size, v.splat(1.0 / top))), v.splat(f16::MIN_POSITIVE));
        let first = v.mul(sign, first);
        let q = byte(v, v.mul(f.scale, v.div(v.splat(1.0), first)));
        let wq = v.mul(f.curvature, q);
        let num = sum16(v, v.mul(wq, f.scale));
        let den = sum16(v, v.mul(wq, q));
        let factor = finite_f16(v, ratio_or(v, num, den, first));
        let e = v.sub(f.scale, v.mul(factor, q));
        let error = sum16(v, v.mul(v.mul(f.curvature, e), e));
        let m = v.gt(best, error);
        best = v.select(m, error, best);
        best_factor = v.select(m, factor, best_factor);
        best_q = v.select(m, q, best_q);
    }
    (best_factor, best_q)
}

/// Returns by how much the error at `scale` is above the least error for the codes, which `ideal` has. The form is
/// centered: no large terms cancel.
#[inline(always)]
fn excess<V: Vector>(v: V, s: &Sums<V>, ideal: V::F, scale: V::F) -> V::F {
    let off = v.sub(scale, ideal);
    v.mul(s.qq, v.mul(off, off))
}

/// Tries [`NEIGHBORS`] of the integer scales `start`, each with its own codes and then the best scale for these codes.
/// Returns the scales with the least error and the sums of their codes.
#[inline(always)]
fn refine_on_grid<V: Vector>(v: V, g: &Group<V>, start: V::F, d: V::F) -> (V::F, Sums<V>) {
    let zero = v.splat(0.0);
    let inv_d = signed_inverse(v, d);
    let mut smallest_error = v.splat(f32::INFINITY);
    let (mut best, mut best_sums) = (zero, Sums::zero(v));
    for step in NEIGHBORS {
        let scale = v.max(v.min(v.add(start, v.splat(step)), v.splat(127.0)), v.splat(-128.0));
        let s = sums(v, g, signed_inverse(v, v.mul(scale, d)));
        let ideal = ratio_or(v, s.xq, s.qq, zero);
        let q = byte(v, v.mul(ideal, inv_d));
        let e = v.sub(excess(v, &s, ideal, v.mul(q, d)), v.mul(s.xq, ideal));
        let m = v.gt(smallest_error, e);
        smallest_error = v.select(m, e, smallest_error);
        best = v.select(m, q, best);
        best_sums.xq = v.select(m, s.xq, best_sums.xq);
        best_sums.qq = v.select(m, s.qq, best_sums.qq);
    }
    (best, best_sums)
}

/// Returns `d` and the scales of a super-block.
#[inline(always)]
fn search<V: Vector>(v: V, g: &Group<V>) -> (V::F, V::F) {
    let (d, start) = common_factor(v, &fit(v, g));
    let (q, s) = refine_on_grid(v, g, start, d);
    // `d` by least squares for these codes, kept if it is better after rounding.
    let num = sum16(v, v.mul(q, s.xq));
    let den = sum16(v, v.mul(v.mul(q, q), s.qq));
    let new = finite_f16(v, ratio_or(v, num, den, d));
    let ideal = ratio_or(v, s.xq, s.qq, v.splat(0.0));
    let before = sum16(v, excess(v, &s, ideal, v.mul(q, d)));
    let after = sum16(v, excess(v, &s, ideal, v.mul(q, new)));
    (v.select(v.gt(before, after), new, d), q)
}
