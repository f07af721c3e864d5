//! The search for scales and mins of Q2_K, Q4_K and Q5_K, and the packing of the 6-bit integers of Q4_K and Q5_K.
//!
//! A lane is a sub-block. Where a sub-block has 32 weights, 8 lanes are a super-block and 16 lanes are two; where a
//! sub-block has 16 weights, 16 lanes are a super-block. Weights are transposed on load: vector `i`
//! holds weight `i` of every sub-block, and sums over the sub-blocks of a super-block are butterflies of lanes.
//!
//! The model of a sub-block is `x = s q - m` with `s = d * scale` and `m = dmin * min`, both at least 0. The steps of the
//! search are these; `docs/decisions/0001-k-quant-search.md` has the measurements behind them.
//!
//! 1. Per sub-block, a few step widths give a few sets of codes. For each set the least-squares scale and min follow in
//!    closed form, and so does the error, from three sums ([`fit`]).
//! 2. `d`, then `dmin`, are chosen among a few candidates each ([`common_factor`]). The mins are fitted again after the
//!    scales were rounded, which takes back most of what the rounding costs.
//! 3. Neighbors on the grid of integers are tried, each with its own codes and then the best integers for these codes
//!    ([`refine_on_grid`]).
//! 4. `d` and `dmin` are fitted together by least squares ([`refit`]).

use super::arithmetic::{
    MIN_GAIN, MIN_RELATIVE_VARIANCE, code, inverse, max_of, positive_f16, ratio_or, store_codes, sum_of,
};
use super::format::{BlockFormat, MAX_SUBS, Scales};
use super::weighting::Columns;
use crate::simd::{Simd, Vector, f16};

/// Weights in a sub-block of Q4_K and Q5_K.
pub const SUB: usize = 32;
/// Sub-blocks in a super-block of Q4_K and Q5_K.
const SUBS: usize = 8;
/// Weights in a super-block.
const BLOCK: usize = 256;
/// The largest 6-bit scale or min.
pub const MAX_SCALE: f32 = 63.0;
/// A determinant in [`refit`] that is a smaller share of the product of the diagonal is rounding noise.
const MIN_DETERMINANT: f32 = 1e-5;
/// [`KAffine::SCALE_CANDIDATES`] of the formats with 6-bit scales.
pub const SIX_BIT_CANDIDATES: &[f32] = &[63.0, 62.0, 61.0, 60.0];
/// Steps on the grid of integers that [`refine_on_grid`] tries: of the scale, and of the min after it was fitted to the scale.
const NEIGHBORS: [(f32, f32); 5] = [(0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)];

/// The parameters of the search of Q2_K, Q4_K or Q5_K.
pub trait KAffine: BlockFormat {
    /// The largest integer scale or min.
    const MAX_SCALE: f32;
    /// The largest scale divided by each of these is tried as `d`, and the largest min as `dmin`.
    const SCALE_CANDIDATES: &'static [f32];
    /// With importances `h` the squared error of a weight `x` counts `h sqrt(SPREAD mean(x^2) + x^2)`.
    const SPREAD: f32;
    /// Sets of codes that [`fit`] tries. The smallest weight gets code 0 and the range of the weights the largest code;
    /// the first number says how many more codes the range gets (a negative number widens the step, a positive number
    /// clamps the largest weights), the second one shifts all codes.
    const CANDIDATES: &'static [(f32, f32)];
    /// More such sets, for the search with importances: where one column counts for more than all others, the codes must
    /// hit its weight.
    const MORE_CANDIDATES: &'static [(f32, f32)] = &[];
}

/// Quantizes whole super-blocks; see [`Encoding::quantize`](super::Encoding::quantize). `SUB` is the length of a sub-block,
/// 16 or 32.
#[inline(always)]
pub fn quantize<F: KAffine, S: Simd, const SUB: usize>(
    simd: S,
    rows: &[f32],
    columns: Option<Columns<'_>>,
    out: &mut [u8],
) {
    if SUB == 16 {
        return quantize_with::<F, _, SUB>(simd.x16(), rows, columns, 0, out);
    }
    let pairs = if S::WIDE { rows.len() / (2 * BLOCK) } else { 0 };
    let (wide_rows, rows) = rows.split_at(2 * BLOCK * pairs);
    let (wide_out, out) = out.split_at_mut(2 * F::BYTES * pairs);
    if S::WIDE {
        quantize_with::<F, _, SUB>(simd.x16(), wide_rows, columns, 0, wide_out);
    }
    quantize_with::<F, _, SUB>(simd.x8(), rows, columns, 2 * pairs, out);
}

/// Quantizes super-blocks, `V::N * SUB / 256` at a time. `first` is the number of the first one among all rows.
#[inline(always)]
fn quantize_with<F: KAffine, V: Vector, const SUB: usize>(
    v: V,
    rows: &[f32],
    columns: Option<Columns<'_>>,
    first: usize,
    out: &mut [u8],
) {
    let subs = BLOCK / SUB;
    let blocks = V::N / subs;
    let mut group = Group::<V, SUB>::new(v);
    let mut codes = [0; 2 * BLOCK / 4];
    let (mut scales, mut mins, mut d, mut dmin) = ([0.0; 16], [0.0; 16], [0.0; 16], [0.0; 16]);
    for (i, (x, out)) in
        rows.chunks_exact(V::N * SUB).zip(out.chunks_exact_mut(blocks * F::BYTES)).enumerate()
    {
        let at = first + blocks * i;
        let h = match columns {
            Some(columns) => Some([columns.block(at), columns.block(at + blocks - 1)]),
            None => None,
        };
        group.fill::<F>(v, x, h);
        let found = group.search::<F>(v, h.is_some());
        group.assign::<F>(v, &found, &mut codes);
        v.store(found.scales, &mut scales);
        v.store(found.mins, &mut mins);
        v.store(found.d, &mut d);
        v.store(found.dmin, &mut dmin);
        let bytes: &[u8] = bytemuck::cast_slice(&codes);
        for (k, (out, codes)) in out.chunks_exact_mut(F::BYTES).zip(bytes.chunks_exact(BLOCK)).enumerate() {
            let first = subs * k;
            let mut block =
                Scales { d: d[first], dmin: dmin[first], scales: [0.0; MAX_SUBS], mins: [0.0; MAX_SUBS] };
            block.scales[..subs].copy_from_slice(&scales[first..][..subs]);
            block.mins[..subs].copy_from_slice(&mins[first..][..subs]);
            F::pack(&block, codes, out);
        }
    }
}

/// The weights of `V::N` sub-blocks, transposed, and what the search keeps of them. Made once for all groups: it is
/// 8 KiB that would else be cleared and moved for each.
struct Group<V: Vector, const SUB: usize> {
    /// The weights of the tensor.
    x: [V::F; SUB],
    /// `x - low`, where `low` is the smallest `x`, or 0 if all are positive.
    y: [V::F; SUB],
    /// The weights of the squared error.
    w: [V::F; SUB],
    /// `w (x - mean)`
    wc: [V::F; SUB],
    sum_w: V::F,
    inv_w: V::F,
    /// The weighted mean of `x`.
    mean: V::F,
    /// The largest `x` less `low`.
    range: V::F,
}

/// Weighted sums over codes `q` and centered weights `c = x - mean`: `w q`, `w q^2` and `w c q`.
#[derive(Clone, Copy)]
struct Sums<V: Vector> {
    q: V::F,
    qq: V::F,
    cq: V::F,
}

/// The best scale and min of each sub-block, before they are rounded to integers.
#[derive(Clone, Copy)]
struct Fit<V: Vector> {
    scale: V::F,
    /// At least 0.
    min: V::F,
    /// The amount by which the squared error is below that of the constant `mean`.
    gain: V::F,
    /// The weighted mean of the codes.
    mean_code: V::F,
    /// Half the second derivative of the error by the scale; the min follows the scale where it is free.
    curvature: V::F,
}

/// Sub-blocks on the grid of integers, with the sums of their codes.
#[derive(Clone, Copy)]
struct GridPoint<V: Vector> {
    scale: V::F,
    min: V::F,
    sums: Sums<V>,
}

/// The result of the search. `d` and `dmin` are the same in all lanes of a super-block.
struct Found<V: Vector> {
    d: V::F,
    dmin: V::F,
    scales: V::F,
    mins: V::F,
}

impl<V: Vector, const SUB: usize> Group<V, SUB> {
    #[inline(always)]
    pub(super) fn new(v: V) -> Self {
        let zero = v.splat(0.0);
        let rows = [zero; SUB];
        Self { x: rows, y: rows, w: rows, wc: rows, sum_w: zero, inv_w: zero, mean: zero, range: zero }
    }

    /// Reads the super-blocks at the start of `from`. `h` holds their importances, see
    /// [`by_weight`](super::weighting::by_weight).
    #[inline(always)]
    pub(super) fn fill<F: KAffine>(&mut self, v: V, from: &[f32], h: Option<[&[f32; 256]; 2]>) {
        let zero = v.splat(0.0);
        for (part, to) in self.x.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *to = v.load_transposed(&from[part * 4..], SUB);
        }
        let (mut low, mut high, mut squares) = (zero, self.x[0], zero);
        for &x in &self.x {
            low = v.min(low, x);
            high = v.max(high, x);
            squares = v.add(squares, v.mul(x, x));
        }
        self.weigh::<F>(v, squares, h);
        let (mut sum_w, mut first) = (zero, zero);
        for (&w, &x) in self.w.iter().zip(&self.x) {
            sum_w = v.add(sum_w, w);
            first = v.add(first, v.mul(w, x));
        }
        let mean = ratio_or(v, first, sum_w, zero);
        let shift = v.sub(zero, low);
        for i in 0..SUB {
            self.y[i] = v.add(self.x[i], shift);
            self.wc[i] = v.mul(self.w[i], v.sub(self.x[i], mean));
        }
        self.sum_w = sum_w;
        self.inv_w = inverse(v, sum_w);
        self.mean = mean;
        self.range = v.sub(high, low);
    }

    /// Sets the weights: those of [`KAffine::SPREAD`] with importances, `rms + |x|` without, where the mean is that of
    /// the super-block and the root mean square that of the sub-block.
    #[inline(always)]
    fn weigh<F: KAffine>(&mut self, v: V, squares: V::F, h: Option<[&[f32; 256]; 2]>) {
        match h {
            None => {
                let rms = v.sqrt(v.mul(squares, v.splat(1.0 / SUB as f32)));
                for (w, &x) in self.w.iter_mut().zip(&self.x) {
                    *w = v.add(rms, v.abs(x));
                }
            }
            Some([h0, h1]) => {
                let spread = v.mul(sum_of::<V, SUB>(v, squares), v.splat(F::SPREAD / 256.0));
                let (eights, more) = (h0.as_chunks::<8>().0, h1.as_chunks::<8>().0);
                let sixteens = h0.as_chunks::<16>().0;
                for (i, (w, &x)) in self.w.iter_mut().zip(&self.x).enumerate() {
                    let root = v.sqrt(v.add(spread, v.mul(x, x)));
                    let h =
                        if SUB == 16 { v.load(&sixteens[i]) } else { v.load_eights(&eights[i], &more[i]) };
                    *w = v.mul(h, root);
                }
            }
        }
    }
}

impl<V: Vector> Sums<V> {
    #[inline(always)]
    fn zero(v: V) -> Self {
        let zero = v.splat(0.0);
        Self { q: zero, qq: zero, cq: zero }
    }

    #[inline(always)]
    fn add(&mut self, v: V, q: V::F, w: V::F, wc: V::F) {
        let wq = v.mul(w, q);
        self.q = v.add(self.q, wq);
        self.qq = v.add(self.qq, v.mul(wq, q));
        self.cq = v.add(self.cq, v.mul(wc, q));
    }
}

/// Returns the sums of the codes nearest to `(x + shift) * inv`.
#[inline(always)]
fn sums<V: Vector, F: KAffine, const SUB: usize>(v: V, g: &Group<V, SUB>, shift: V::F, inv: V::F) -> Sums<V> {
    let top = v.splat(F::LEVELS.1);
    let mut s = Sums::zero(v);
    for i in 0..SUB {
        let q = code(v, v.mul(v.add(g.x[i], shift), inv), top);
        s.add(v, q, g.w[i], g.wc[i]);
    }
    s
}

/// Returns [`sums`] of one of [`KAffine::CANDIDATES`], without the clamps at 0 and at the largest code that cannot happen.
#[inline(always)]
fn sums_of_candidate<V: Vector, F: KAffine, const SUB: usize>(
    v: V,
    g: &Group<V, SUB>,
    extra: f32,
    offset: f32,
    inv: V::F,
) -> Sums<V> {
    let mut s = Sums::zero(v);
    let (top, by) = (v.splat(F::LEVELS.1), v.splat(offset));
    if offset == 0.0 && extra < 0.499 {
        for i in 0..SUB {
            s.add(v, v.round_ties_even(v.mul(g.y[i], inv)), g.w[i], g.wc[i]);
        }
    } else if offset == 0.0 {
        for i in 0..SUB {
            s.add(v, v.round_ties_even(v.min_bits(v.mul(g.y[i], inv), top)), g.w[i], g.wc[i]);
        }
    } else if offset >= -0.5 && extra + offset < 0.499 {
        for i in 0..SUB {
            s.add(v, v.round_ties_even(v.add(v.mul(g.y[i], inv), by)), g.w[i], g.wc[i]);
        }
    } else {
        for i in 0..SUB {
            s.add(v, code(v, v.add(v.mul(g.y[i], inv), by), top), g.w[i], g.wc[i]);
        }
    }
    s
}

/// Returns the least-squares scale and min for given codes. A scale that is not positive, or is a NaN, means that there is
/// none. Where the min would be negative, or all codes are equal, the scale alone is fitted.
#[inline(always)]
fn solve<V: Vector, const SUB: usize>(v: V, g: &Group<V, SUB>, s: &Sums<V>) -> Fit<V> {
    let zero = v.splat(0.0);
    let mean_code = v.mul(s.q, g.inv_w);
    let spread = v.sub(s.qq, v.mul(s.q, mean_code));
    let free_scale = v.div(s.cq, spread);
    let free_min = v.sub(v.mul(free_scale, mean_code), g.mean);
    let free = v.mask_and(v.gt(spread, v.mul(v.splat(MIN_RELATIVE_VARIANCE), s.qq)), v.gt(free_min, zero));
    let xq = v.add(s.cq, v.mul(g.mean, s.q));
    let scale = v.div(xq, s.qq);
    let gain = v.sub(v.mul(xq, scale), v.mul(v.mul(g.sum_w, g.mean), g.mean));
    Fit {
        scale: v.select(free, free_scale, scale),
        min: v.select(free, free_min, zero),
        gain: v.select(free, v.mul(s.cq, free_scale), gain),
        mean_code,
        curvature: v.select(free, spread, s.qq),
    }
}

/// Returns `b` where it has a positive scale and gains more (no NaN does), else `a`.
#[inline(always)]
fn better<V: Vector>(v: V, a: Fit<V>, b: Fit<V>) -> Fit<V> {
    let m = v.mask_and(v.gt(b.scale, v.splat(0.0)), v.gt(b.gain, v.mul(a.gain, v.splat(MIN_GAIN))));
    Fit {
        scale: v.select(m, b.scale, a.scale),
        min: v.select(m, b.min, a.min),
        gain: v.select(m, b.gain, a.gain),
        mean_code: v.select(m, b.mean_code, a.mean_code),
        curvature: v.select(m, b.curvature, a.curvature),
    }
}

/// Step 1: the least-squares scale and min over a few sets of codes, then once more with the codes of the best.
#[inline(always)]
fn fit<V: Vector, F: KAffine, const SUB: usize>(v: V, g: &Group<V, SUB>, weighted: bool) -> Fit<V> {
    let zero = v.splat(0.0);
    let inv_range = inverse(v, g.range);
    let above = v.max(g.mean, zero);
    let mut best = Fit::<V> {
        scale: zero,
        min: v.max(v.sub(zero, g.mean), zero),
        gain: v.sub(zero, v.mul(v.mul(g.sum_w, above), above)),
        mean_code: zero,
        curvature: zero,
    };
    let more: &[(f32, f32)] = if weighted { F::MORE_CANDIDATES } else { &[] };
    for &(extra, offset) in F::CANDIDATES.iter().chain(more) {
        let inv = v.mul(v.splat(F::LEVELS.1 + extra), inv_range);
        best = better(v, best, solve(v, g, &sums_of_candidate::<V, F, SUB>(v, g, extra, offset, inv)));
    }
    let again = sums::<V, F, SUB>(v, g, best.min, inverse(v, best.scale));
    better(v, best, solve(v, g, &again))
}

/// Step 2: finds an f16 factor, common to a super-block, and integers for the non-negative values `a` with weights `w`.
/// Returns the factor with the least weighted squared error among [`KAffine::SCALE_CANDIDATES`], and the integers.
#[inline(always)]
fn common_factor<V: Vector, F: KAffine, const SUB: usize>(v: V, a: V::F, w: V::F) -> (V::F, V::F) {
    let zero = v.splat(0.0);
    let largest = v.max(max_of::<V, SUB>(v, a), zero);
    let (mut best, mut best_factor, mut best_q) = (v.splat(f32::INFINITY), zero, zero);
    for &top in F::SCALE_CANDIDATES {
        let first = v.max(positive_f16(v, v.mul(largest, v.splat(1.0 / top))), v.splat(f16::MIN_POSITIVE));
        let q = code(v, v.mul(a, v.div(v.splat(1.0), first)), v.splat(F::MAX_SCALE));
        let wq = v.mul(w, q);
        let num = sum_of::<V, SUB>(v, v.mul(wq, a));
        let den = sum_of::<V, SUB>(v, v.mul(wq, q));
        let factor = positive_f16(v, ratio_or(v, num, den, first));
        let e = v.sub(a, v.mul(factor, q));
        let error = sum_of::<V, SUB>(v, v.mul(v.mul(w, e), e));
        let m = v.gt(best, error);
        best = v.select(m, error, best);
        best_factor = v.select(m, factor, best_factor);
        best_q = v.select(m, q, best_q);
    }
    (best_factor, best_q)
}

/// Returns the error at `scale` and `min` for fixed codes, less a constant. The form is centered: no large terms cancel
/// however far from zero the sub-block lies.
#[inline(always)]
fn error<V: Vector, const SUB: usize>(v: V, g: &Group<V, SUB>, s: &Sums<V>, scale: V::F, min: V::F) -> V::F {
    let mean_code = v.mul(s.q, g.inv_w);
    let spread = v.sub(s.qq, v.mul(s.q, mean_code));
    let off = v.sub(v.sub(v.mul(scale, mean_code), min), g.mean);
    let shape = v.mul(scale, v.sub(v.mul(scale, spread), v.add(s.cq, s.cq)));
    v.add(shape, v.mul(g.sum_w, v.mul(off, off)))
}

/// Step 3: tries [`NEIGHBORS`] of the scale and the min on the grid of integers, each with its own codes and then the best
/// integers for these codes. The least error wins.
#[inline(always)]
fn refine_on_grid<V: Vector, F: KAffine, const SUB: usize>(
    v: V,
    g: &Group<V, SUB>,
    start: V::F,
    mean_code: V::F,
    d: V::F,
    dmin: V::F,
) -> GridPoint<V> {
    let (zero, top) = (v.splat(0.0), v.splat(F::MAX_SCALE));
    let (inv_d, inv_dmin) = (inverse(v, d), inverse(v, dmin));
    let mut smallest_error = v.splat(f32::INFINITY);
    let mut best = GridPoint::<V> { scale: zero, min: zero, sums: Sums::zero(v) };
    for (step, min_step) in NEIGHBORS {
        let scale = v.max(v.min(v.add(start, v.splat(step)), top), zero);
        let scale = v.mul(scale, d);
        let min = code(v, v.mul(v.sub(v.mul(scale, mean_code), g.mean), inv_dmin), top);
        let min = v.mul(v.max(v.min(v.add(min, v.splat(min_step)), top), zero), dmin);
        let s = sums::<V, F, SUB>(v, g, min, inverse(v, scale));
        let xq = v.add(s.cq, v.mul(g.mean, s.q));
        let ideal = ratio_or(v, v.add(xq, v.mul(min, s.q)), s.qq, zero);
        let q_scale = code(v, v.mul(ideal, inv_d), top);
        let scale = v.mul(q_scale, d);
        let mean_code = v.mul(s.q, g.inv_w);
        let q_min = code(v, v.mul(v.sub(v.mul(scale, mean_code), g.mean), inv_dmin), top);
        let e = error(v, g, &s, scale, v.mul(q_min, dmin));
        let m = v.gt(smallest_error, e);
        smallest_error = v.select(m, e, smallest_error);
        best.scale = v.select(m, q_scale, best.scale);
        best.min = v.select(m, q_min, best.min);
        best.sums.q = v.select(m, s.q, best.sums.q);
        best.sums.qq = v.select(m, s.qq, best.sums.qq);
        best.sums.cq = v.select(m, s.cq, best.sums.cq);
    }
    best
}

/// Step 4: fits `d` and `dmin` together by least squares over a super-block and keeps them if they are better after
/// rounding to f16.
#[inline(always)]
fn refit<V: Vector, const SUB: usize>(
    v: V,
    g: &Group<V, SUB>,
    at: &GridPoint<V>,
    d: V::F,
    dmin: V::F,
) -> (V::F, V::F) {
    let (zero, s) = (v.splat(0.0), &at.sums);
    let a = sum_of::<V, SUB>(v, v.mul(v.mul(at.scale, at.scale), s.qq));
    let b = sum_of::<V, SUB>(v, v.mul(v.mul(at.scale, at.min), s.q));
    let c = sum_of::<V, SUB>(v, v.mul(v.mul(at.min, at.min), g.sum_w));
    let p = sum_of::<V, SUB>(v, v.mul(at.scale, v.add(s.cq, v.mul(g.mean, s.q))));
    let q = sum_of::<V, SUB>(v, v.mul(at.min, v.mul(g.sum_w, g.mean)));
    let ac = v.mul(a, c);
    let det = v.sub(ac, v.mul(b, b));
    let both = v.div(v.sub(v.mul(p, c), v.mul(b, q)), det);
    let alone = v.div(v.add(p, v.mul(b, dmin)), a);
    let wanted = v.select(v.gt(det, v.mul(v.splat(MIN_DETERMINANT), ac)), both, alone);
    let new_d = v.select(v.gt(a, zero), positive_f16(v, wanted), d);
    let wanted = v.div(v.sub(v.mul(b, new_d), q), c);
    let new_dmin = v.select(v.gt(c, zero), positive_f16(v, wanted), dmin);
    let new = error(v, g, s, v.mul(at.scale, new_d), v.mul(at.min, new_dmin));
    let old = error(v, g, s, v.mul(at.scale, d), v.mul(at.min, dmin));
    let m = v.gt(sum_of::<V, SUB>(v, old), sum_of::<V, SUB>(v, new));
    (v.select(m, new_d, d), v.select(m, new_dmin, dmin))
}

impl<V: Vector, const SUB: usize> Group<V, SUB> {
    /// Returns the scales and mins of the super-blocks.
    #[inline(always)]
    fn search<F: KAffine>(&self, v: V, weighted: bool) -> Found<V> {
        let f = fit::<V, F, SUB>(v, self, weighted);
        let (d, scales) = common_factor::<V, F, SUB>(v, f.scale, f.curvature);
        let min = v.sub(v.mul(v.mul(scales, d), f.mean_code), self.mean);
        let (dmin, _) = common_factor::<V, F, SUB>(v, v.max(min, v.splat(0.0)), self.sum_w);
        let at = refine_on_grid::<V, F, SUB>(v, self, scales, f.mean_code, d, dmin);
        let (d, dmin) = refit(v, self, &at, d, dmin);
        Found { d, dmin, scales: at.scale, mins: at.min }
    }

    /// Stores the codes nearest to the weights.
    #[inline(always)]
    fn assign<F: KAffine>(&self, v: V, found: &Found<V>, codes: &mut [u32]) {
        let inv = inverse(v, v.mul(found.d, found.scales));
        let min = v.mul(found.dmin, found.mins);
        let top = v.splat(F::LEVELS.1);
        for (k, x) in self.x.as_chunks::<16>().0.iter().enumerate() {
            let mut q = *x;
            for q in &mut q {
                *q = code(v, v.mul(v.add(*q, min), inv), top);
            }
            store_codes(v, &q, k, codes, SUB / 4);
        }
    }
}

/// Reads the 16 bytes that begin a block: `d`, `dmin`, and eight scales and eight mins of 6 bits.
#[inline(always)]
pub fn read_scales(block: &[u8]) -> Scales {
    let mut scales = Scales { d: f16::read(block), dmin: f16::read(&block[2..]), ..Scales::one(0.0) };
    let bytes: &[u8; 12] = block[4..].first_chunk().expect("12 bytes of scales");
    for j in 0..4 {
        scales.scales[j] = f32::from(bytes[j] & 63);
        scales.mins[j] = f32::from(bytes[j + 4] & 63);
        scales.scales[j + 4] = f32::from((bytes[j + 8] & 15) | (bytes[j] >> 6) << 4);
        scales.mins[j + 4] = f32::from((bytes[j + 8] >> 4) | (bytes[j + 4] >> 6) << 4);
    }
    scales
}

/// The inverse of [`read_scales`].
#[inline(always)]
pub fn write_scales(from: &Scales, block: &mut [u8]) {
    f16::write(from.d, block);
    f16::write(from.dmin, &mut block[2..]);
    let (mut scales, mut mins) = ([0u8; SUBS], [0u8; SUBS]);
    for j in 0..SUBS {
        scales[j] = from.scales[j] as u8;
        mins[j] = from.mins[j] as u8;
    }
    let out: &mut [u8; 12] = block[4..].first_chunk_mut().expect("12 bytes of scales");
    for j in 0..4 {
        out[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        out[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
        out[j + 8] = (scales[j + 4] & 15) | (mins[j + 4] & 15) << 4;
    }
}

/// Reads the low four bits of 256 codes: byte `32 c + l` holds weight `64 c + l` in its low and `64 c + 32 + l` in its
/// high half.
#[inline(always)]
pub fn read_low_bits(bytes: &[u8], codes: &mut [u8; BLOCK]) {
    for (codes, bytes) in codes.as_chunks_mut::<64>().0.iter_mut().zip(bytes.as_chunks::<SUB>().0) {
        for l in 0..SUB {
            codes[l] = bytes[l] & 15;
            codes[l + SUB] = bytes[l] >> 4;
        }
    }
}

/// The inverse of [`read_low_bits`].
#[inline(always)]
pub fn write_low_bits(codes: &[u8], bytes: &mut [u8]) {
    for (codes, bytes) in codes.as_chunks::<64>().0.iter().zip(bytes.as_chunks_mut::<SUB>().0) {
        for l in 0..SUB {
            bytes[l] = (codes[l] & 15) | (codes[l + SUB] & 15) << 4;
        }
    }
}
