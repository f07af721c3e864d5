//! The search of Q3_K, Q6_K and IQ4_XS: formats of super-blocks whose sub-blocks have a signed integer scale and no min.
//!
//! The search works like that of [`k_affine`](super::k_affine), without mins. A lane is a sub-block: 16 lanes are a
//! super-block of sub-blocks of 16 weights, or two super-blocks of sub-blocks of 32 weights. The passes over a super-block
//! wait for each other, so two super-blocks of sub-blocks of 16 weights are searched together. Candidates for the scale of a
//! sub-block map its weight of largest magnitude to one of [`KSymmetric::EXTREME_LEVELS`]; `d` is chosen among candidates;
//! neighbors of the integer scales are tried; `d` is fitted again.

use super::arithmetic::{MIN_GAIN, finite_f16, max_of, ratio_or, signed_inverse, store_codes, sum_of};
use super::format::{BlockFormat, MAX_SUBS, Scales};
use super::weighting::Columns;
use crate::simd::{Simd, Vector, f16};

/// Weights in a super-block.
const BLOCK: usize = 256;
/// Steps of the integer scale that [`refine_on_grid`] tries.
const NEIGHBORS: [f32; 3] = [0.0, -1.0, 1.0];

/// The parameters of the search of one format.
pub trait KSymmetric: BlockFormat {
    /// The smallest integer scale. The largest one is `-1 - SMALLEST_SCALE`.
    const SMALLEST_SCALE: f32;
    /// The levels that the search gives to the weight of largest magnitude, up to their sign. A negative number maps the
    /// weight to the positive side, which is the shorter one.
    const EXTREME_LEVELS: &'static [f32];
    /// More such levels, for the search with importances: where one column counts for more than all others, the codes must
    /// hit its weight.
    const MORE_EXTREME_LEVELS: &'static [f32] = &[];
    /// The largest scale divided by each of these is tried as `d`.
    const SCALE_CANDIDATES: &'static [f32];
}

/// Quantizes whole super-blocks; see [`Encoding::quantize`](super::Encoding::quantize). `SUB` is the length of a sub-block,
/// 16 or 32.
#[inline(always)]
pub fn quantize<F: KSymmetric, S: Simd, const SUB: usize>(
    simd: S,
    rows: &[f32],
    columns: Option<Columns<'_>>,
    out: &mut [u8],
) {
    let pairs = if S::WIDE { rows.len() / (2 * BLOCK) } else { 0 };
    let (wide_rows, rows) = rows.split_at(2 * BLOCK * pairs);
    let (wide_out, out) = out.split_at_mut(2 * F::BYTES * pairs);
    if S::WIDE && SUB == 16 {
        quantize_with::<F, _, SUB>(simd.x32(), wide_rows, columns, 0, wide_out);
    } else if S::WIDE {
        quantize_with::<F, _, SUB>(simd.x16(), wide_rows, columns, 0, wide_out);
    }
    if SUB == 16 {
        quantize_with::<F, _, SUB>(simd.x16(), rows, columns, 2 * pairs, out);
    } else {
        quantize_with::<F, _, SUB>(simd.x8(), rows, columns, 2 * pairs, out);
    }
}

/// Quantizes super-blocks, `V::N * SUB / 256` at a time. `first` is the number of the first one among all rows.
#[inline(always)]
fn quantize_with<F: KSymmetric, V: Vector, const SUB: usize>(
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
    let (mut scales, mut d) = ([0.0; 32], [0.0; 32]);
    for (i, (x, out)) in
        rows.chunks_exact(V::N * SUB).zip(out.chunks_exact_mut(blocks * F::BYTES)).enumerate()
    {
        let at = first + blocks * i;
        let h = match columns {
            Some(columns) => Some([columns.block(at), columns.block(at + blocks - 1)]),
            None => None,
        };
        group.fill(v, x, h);
        let (found_d, found_scales) = search::<V, F, SUB>(v, &group, h.is_some());
        group.assign::<F>(v, found_d, found_scales, &mut codes);
        v.store(found_scales, &mut scales);
        v.store(found_d, &mut d);
        let bytes: &[u8] = bytemuck::cast_slice(&codes);
        for (k, (out, codes)) in out.chunks_exact_mut(F::BYTES).zip(bytes.chunks_exact(BLOCK)).enumerate() {
            let mut block = Scales { scales: [0.0; MAX_SUBS], ..Scales::one(d[subs * k]) };
            block.scales[..subs].copy_from_slice(&scales[subs * k..][..subs]);
            F::pack(&block, codes, out);
        }
    }
}

/// The weights of `V::N` sub-blocks, transposed. Made once for all groups.
struct Group<V: Vector, const SUB: usize> {
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

/// Returns the nearest integer scale of a format.
#[inline(always)]
fn integer_scale<V: Vector, F: KSymmetric>(v: V, a: V::F) -> V::F {
    v.round_ties_even(v.clamp(a, v.splat(F::SMALLEST_SCALE), v.splat(-1.0 - F::SMALLEST_SCALE)))
}

impl<V: Vector, const SUB: usize> Group<V, SUB> {
    #[inline(always)]
    fn new(v: V) -> Self {
        let zero = v.splat(0.0);
        let rows = [zero; SUB];
        Self { x: rows, w: rows, wx: rows, extreme: zero }
    }

    /// Reads super-blocks. `h` holds their importances, see [`by_weight`](super::weighting::by_weight).
    #[inline(always)]
    fn fill(&mut self, v: V, from: &[f32], h: Option<[&[f32; BLOCK]; 2]>) {
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
            Some([h0, h1]) => {
                let (eights, more) = (h0.as_chunks::<8>().0, h1.as_chunks::<8>().0);
                let sixteens = [h0.as_chunks::<16>().0, h1.as_chunks::<16>().0];
                for (i, w) in self.w.iter_mut().enumerate() {
                    *w = if SUB == 16 {
                        v.load([sixteens[0][i], sixteens[1][i]].as_flattened())
                    } else {
                        v.load_eights(&eights[i], &more[i])
                    };
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
    fn assign<F: KSymmetric>(&self, v: V, d: V::F, scales: V::F, codes: &mut [u32]) {
        let inv = signed_inverse(v, v.mul(d, scales));
        for (k, x) in self.x.as_chunks::<16>().0.iter().enumerate() {
            let mut q = *x;
            for q in &mut q {
                *q = v.add(F::nearest(v, v.mul(*q, inv)), v.splat(F::ZERO));
            }
            store_codes(v, &q, k, codes, SUB / 4);
        }
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
fn sums<V: Vector, F: KSymmetric, const SUB: usize>(v: V, g: &Group<V, SUB>, inv: V::F) -> Sums<V> {
    let mut s = Sums::zero(v);
    for i in 0..SUB {
        s.add(v, F::nearest(v, v.mul(g.x[i], inv)), g.w[i], g.wx[i]);
    }
    s
}

/// Returns [`sums`] for the `inv` that maps the extreme weight to `-extreme_level`, without the clamps that cannot happen.
#[inline(always)]
fn sums_of_extreme<V: Vector, F: KSymmetric, const SUB: usize>(
    v: V,
    g: &Group<V, SUB>,
    extreme_level: f32,
    inv: V::F,
) -> Sums<V> {
    let mut s = Sums::zero(v);
    let reach = extreme_level.abs();
    if !F::TABLE.is_empty() {
        sums::<V, F, SUB>(v, g, inv)
    } else if reach < F::LEVELS.1 + 0.499 {
        for i in 0..SUB {
            s.add(v, v.round_ties_even(v.mul(g.x[i], inv)), g.w[i], g.wx[i]);
        }
        s
    } else if reach < 0.499 - F::LEVELS.0 {
        for i in 0..SUB {
            let t = v.min_bits(v.mul(g.x[i], inv), v.splat(F::LEVELS.1));
            s.add(v, v.round_ties_even(t), g.w[i], g.wx[i]);
        }
        s
    } else {
        sums::<V, F, SUB>(v, g, inv)
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
fn fit<V: Vector, F: KSymmetric, const SUB: usize>(v: V, g: &Group<V, SUB>, weighted: bool) -> Fit<V> {
    let zero = v.splat(0.0);
    let inv_extreme = signed_inverse(v, g.extreme);
    let mut best = Fit::<V> { scale: zero, gain: zero, curvature: zero };
    let more: &[f32] = if weighted { F::MORE_EXTREME_LEVELS } else { &[] };
    for &extreme_level in F::EXTREME_LEVELS.iter().chain(more) {
        let inv = v.mul(v.splat(0.0 - extreme_level), inv_extreme);
        best = better(v, best, &sums_of_extreme::<V, F, SUB>(v, g, extreme_level, inv));
    }
    better(v, best, &sums::<V, F, SUB>(v, g, signed_inverse(v, best.scale)))
}

/// Returns `d` and integers for the scales of `f`. The largest scale comes out near the smallest integer, on the longer
/// side.
#[inline(always)]
fn common_factor<V: Vector, F: KSymmetric, const SUB: usize>(v: V, f: &Fit<V>) -> (V::F, V::F) {
    let zero = v.splat(0.0);
    let up = max_of::<V, SUB>(v, f.scale);
    let down = max_of::<V, SUB>(v, v.sub(zero, f.scale));
    let size = v.max(v.max(up, down), zero);
    let sign = v.select(v.gt(up, down), v.splat(-1.0), v.splat(1.0));
    let (mut best, mut best_factor, mut best_q) = (v.splat(f32::INFINITY), zero, zero);
    for &top in F::SCALE_CANDIDATES {
        let first = v.max(finite_f16(v, v.mul(size, v.splat(1.0 / top))), v.splat(f16::MIN_POSITIVE));
        let first = v.mul(sign, first);
        let q = integer_scale::<V, F>(v, v.mul(f.scale, v.div(v.splat(1.0), first)));
        let wq = v.mul(f.curvature, q);
        let num = sum_of::<V, SUB>(v, v.mul(wq, f.scale));
        let den = sum_of::<V, SUB>(v, v.mul(wq, q));
        let factor = finite_f16(v, ratio_or(v, num, den, first));
        let e = v.sub(f.scale, v.mul(factor, q));
        let error = sum_of::<V, SUB>(v, v.mul(v.mul(f.curvature, e), e));
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
fn refine_on_grid<V: Vector, F: KSymmetric, const SUB: usize>(
    v: V,
    g: &Group<V, SUB>,
    start: V::F,
    d: V::F,
) -> (V::F, Sums<V>) {
    let zero = v.splat(0.0);
    let inv_d = signed_inverse(v, d);
    let mut smallest_error = v.splat(f32::INFINITY);
    let (mut best, mut best_sums) = (zero, Sums::zero(v));
    for step in NEIGHBORS {
        let scale = v.max(
            v.min(v.add(start, v.splat(step)), v.splat(-1.0 - F::SMALLEST_SCALE)),
            v.splat(F::SMALLEST_SCALE),
        );
        let s = sums::<V, F, SUB>(v, g, signed_inverse(v, v.mul(scale, d)));
        let ideal = ratio_or(v, s.xq, s.qq, zero);
        let q = integer_scale::<V, F>(v, v.mul(ideal, inv_d));
        let e = v.sub(excess(v, &s, ideal, v.mul(q, d)), v.mul(s.xq, ideal));
        let m = v.gt(smallest_error, e);
        smallest_error = v.select(m, e, smallest_error);
        best = v.select(m, q, best);
        best_sums.xq = v.select(m, s.xq, best_sums.xq);
        best_sums.qq = v.select(m, s.qq, best_sums.qq);
    }
    (best, best_sums)
}

/// Returns `d` and the scales of the super-blocks.
#[inline(always)]
fn search<V: Vector, F: KSymmetric, const SUB: usize>(
    v: V,
    g: &Group<V, SUB>,
    weighted: bool,
) -> (V::F, V::F) {
    let (d, start) = common_factor::<V, F, SUB>(v, &fit::<V, F, SUB>(v, g, weighted));
    let (q, s) = refine_on_grid::<V, F, SUB>(v, g, start, d);
    // `d` by least squares for these codes, kept if it is better after rounding.
    let num = sum_of::<V, SUB>(v, v.mul(q, s.xq));
    let den = sum_of::<V, SUB>(v, v.mul(v.mul(q, q), s.qq));
    let new = finite_f16(v, ratio_or(v, num, den, d));
    let ideal = ratio_or(v, s.xq, s.qq, v.splat(0.0));
    let before = sum_of::<V, SUB>(v, excess(v, &s, ideal, v.mul(q, d)));
    let after = sum_of::<V, SUB>(v, excess(v, &s, ideal, v.mul(q, new)));
    (v.select(v.gt(before, after), new, d), q)
}
