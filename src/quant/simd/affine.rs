//! Q4_K and Q5_K over lanes. Function for function the arithmetic of [`crate::quant::search`]; the
//! reasons are given there.

use super::Lanes;
use crate::quant::search::{Codes, DEPENDENT, F16_MAX, F16_MIN, NEIGHBOURS, NOISE, SUB, TINY, TOP, TOPS};

/// The weights of `N / 8` super-blocks, transposed, and what the search keeps of them. Made once for
/// all groups: it is 8 KiB that would else be cleared and moved for each.
pub(super) struct Group<L: Lanes> {
    x: [L::F; SUB],
    /// `x - low`
    y: [L::F; SUB],
    w: [L::F; SUB],
    /// `w (x - mean)`
    wc: [L::F; SUB],
    sum_w: L::F,
    inv_w: L::F,
    mean: L::F,
    range: L::F,
}

#[derive(Clone, Copy)]
struct Sums<L: Lanes> {
    q: L::F,
    qq: L::F,
    cq: L::F,
}

#[derive(Clone, Copy)]
struct Fit<L: Lanes> {
    scale: L::F,
    min: L::F,
    gain: L::F,
    mean_code: L::F,
    curvature: L::F,
}

#[derive(Clone, Copy)]
struct Settled<L: Lanes> {
    scale: L::F,
    min: L::F,
    sums: Sums<L>,
}

/// The grid in lanes: `d` and `dmin` the same in all lanes of a super-block.
pub(super) struct Grid<L: Lanes> {
    pub d: L::F,
    pub dmin: L::F,
    pub scales: L::F,
    pub mins: L::F,
}

#[inline(always)]
fn sum8<L: Lanes>(l: L, v: L::F) -> L::F {
    let v = l.add(v, l.swap1(v));
    let v = l.add(v, l.swap2(v));
    l.add(v, l.swap4(v))
}

#[inline(always)]
fn most8<L: Lanes>(l: L, v: L::F) -> L::F {
    let v = l.most(v, l.swap1(v));
    let v = l.most(v, l.swap2(v));
    l.most(v, l.swap4(v))
}

#[inline(always)]
fn inverse<L: Lanes>(l: L, s: L::F) -> L::F {
    l.select(l.above(s, l.splat(TINY)), l.div(l.splat(1.0), s), l.splat(0.0))
}

#[inline(always)]
fn code<L: Lanes>(l: L, t: L::F, top: L::F) -> L::F {
    l.nearest(l.least(l.most(t, l.splat(0.0)), top))
}

/// `a / b`, or `other` where `b` is not positive.
#[inline(always)]
fn ratio_or<L: Lanes>(l: L, a: L::F, b: L::F, other: L::F) -> L::F {
    l.select(l.above(b, l.splat(0.0)), l.div(a, b), other)
}

/// `[0, F16_MAX]`, rounded to f16.
#[inline(always)]
fn positive16<L: Lanes>(l: L, a: L::F) -> L::F {
    l.round16(l.least(l.most(a, l.splat(0.0)), l.splat(F16_MAX)))
}

impl<L: Lanes> Group<L> {
    #[inline(always)]
    pub(super) fn new(l: L) -> Self {
        let zero = l.splat(0.0);
        let rows = [zero; SUB];
        Self { x: rows, y: rows, w: rows, wc: rows, sum_w: zero, inv_w: zero, mean: zero, range: zero }
    }

    /// Takes in `N / 8` super-blocks that lie one after another at the start of `from`. `h`: their
    /// importances, by weight of the sub-block and then sub-block.
    #[inline(always)]
    pub(super) fn fill(&mut self, l: L, from: &[f32], h: Option<[&[f32; 256]; 2]>) {
        let zero = l.splat(0.0);
        for (part, to) in self.x.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *to = l.transpose(&from[part * 4..], SUB);
        }
        let (mut low, mut high, mut squares) = (zero, self.x[0], zero);
        for &x in &self.x {
            low = l.least(low, x);
            high = l.most(high, x);
            squares = l.add(squares, l.mul(x, x));
        }
        self.weigh(l, squares, h);
        let (mut sum_w, mut first) = (zero, zero);
        for (&w, &x) in self.w.iter().zip(&self.x) {
            sum_w = l.add(sum_w, w);
            first = l.add(first, l.mul(w, x));
        }
        let mean = ratio_or(l, first, sum_w, zero);
        let shift = l.sub(zero, low);
        for i in 0..SUB {
            self.y[i] = l.add(self.x[i], shift);
            self.wc[i] = l.mul(self.w[i], l.sub(self.x[i], mean));
        }
        self.sum_w = sum_w;
        self.inv_w = inverse(l, sum_w);
        self.mean = mean;
        self.range = l.sub(high, low);
    }

    /// Sets the weights from the sums of squares of the sub-blocks and, where known, importances.
    #[inline(always)]
    fn weigh(&mut self, l: L, squares: L::F, h: Option<[&[f32; 256]; 2]>) {
        match h {
            None => {
                let rms = l.sqrt(l.mul(squares, l.splat(1.0 / SUB as f32)));
                for (w, &x) in self.w.iter_mut().zip(&self.x) {
                    *w = l.add(rms, l.abs(x));
                }
            }
            Some([h0, h1]) => {
                let twice_mean = l.mul(sum8(l, squares), l.splat(2.0 / 256.0));
                let (h0, h1) = (h0.as_chunks::<8>().0, h1.as_chunks::<8>().0);
                for (i, (w, &x)) in self.w.iter_mut().zip(&self.x).enumerate() {
                    let root = l.sqrt(l.add(twice_mean, l.mul(x, x)));
                    *w = l.mul(l.load_halves(&h0[i], &h1[i]), root);
                }
            }
        }
    }
}

impl<L: Lanes> Sums<L> {
    #[inline(always)]
    fn zero(l: L) -> Self {
        let zero = l.splat(0.0);
        Self { q: zero, qq: zero, cq: zero }
    }

    #[inline(always)]
    fn add(&mut self, l: L, q: L::F, w: L::F, wc: L::F) {
        let wq = l.mul(w, q);
        self.q = l.add(self.q, wq);
        self.qq = l.add(self.qq, l.mul(wq, q));
        self.cq = l.add(self.cq, l.mul(wc, q));
    }
}

#[inline(always)]
fn sums<L: Lanes, C: Codes>(l: L, g: &Group<L>, shift: L::F, inv: L::F) -> Sums<L> {
    let top = l.splat(C::TOP);
    let mut s = Sums::zero(l);
    for i in 0..SUB {
        let q = code(l, l.mul(l.add(g.x[i], shift), inv), top);
        s.add(l, q, g.w[i], g.wc[i]);
    }
    s
}

/// [`sums`] for the shift that makes the smallest `x` zero, and an `inv` that makes the largest
/// `TOP + stretch`: there is nothing to cut below, and above only if that rounds up.
#[inline(always)]
fn sums_from_low<L: Lanes, C: Codes>(l: L, g: &Group<L>, stretch: f32, inv: L::F) -> Sums<L> {
    let mut s = Sums::zero(l);
    if stretch < 0.499 {
        for i in 0..SUB {
            s.add(l, l.nearest(l.mul(g.y[i], inv)), g.w[i], g.wc[i]);
        }
    } else {
        let top = l.splat(C::TOP);
        for i in 0..SUB {
            s.add(l, l.nearest(l.least(l.mul(g.y[i], inv), top)), g.w[i], g.wc[i]);
        }
    }
    s
}

#[inline(always)]
fn solve<L: Lanes>(l: L, g: &Group<L>, s: &Sums<L>) -> Fit<L> {
    let zero = l.splat(0.0);
    let mean_code = l.mul(s.q, g.inv_w);
    let spread = l.sub(s.qq, l.mul(s.q, mean_code));
    let free_scale = l.div(s.cq, spread);
    let free_min = l.sub(l.mul(free_scale, mean_code), g.mean);
    let free = l.and(l.above(spread, l.mul(l.splat(NOISE), s.qq)), l.above(free_min, zero));
    let xq = l.add(s.cq, l.mul(g.mean, s.q));
    let scale = l.div(xq, s.qq);
    let gain = l.sub(l.mul(xq, scale), l.mul(l.mul(g.sum_w, g.mean), g.mean));
    Fit {
        scale: l.select(free, free_scale, scale),
        min: l.select(free, free_min, zero),
        gain: l.select(free, l.mul(s.cq, free_scale), gain),
        mean_code,
        curvature: l.select(free, spread, s.qq),
    }
}

#[inline(always)]
fn better<L: Lanes>(l: L, a: Fit<L>, b: Fit<L>) -> Fit<L> {
    let m = l.and(l.above(b.scale, l.splat(0.0)), l.above(b.gain, a.gain));
    Fit {
        scale: l.select(m, b.scale, a.scale),
        min: l.select(m, b.min, a.min),
        gain: l.select(m, b.gain, a.gain),
        mean_code: l.select(m, b.mean_code, a.mean_code),
        curvature: l.select(m, b.curvature, a.curvature),
    }
}

#[inline(always)]
fn fit<L: Lanes, C: Codes>(l: L, g: &Group<L>) -> Fit<L> {
    let zero = l.splat(0.0);
    let inv_range = inverse(l, g.range);
    let above = l.most(g.mean, zero);
    let mut best = Fit::<L> {
        scale: zero,
        min: l.most(l.sub(zero, g.mean), zero),
        gain: l.sub(zero, l.mul(l.mul(g.sum_w, above), above)),
        mean_code: zero,
        curvature: zero,
    };
    for &stretch in C::STRETCH {
        let inv = l.mul(l.splat(C::TOP + stretch), inv_range);
        best = better(l, best, solve(l, g, &sums_from_low::<L, C>(l, g, stretch, inv)));
    }
    let again = sums::<L, C>(l, g, best.min, inverse(l, best.scale));
    better(l, best, solve(l, g, &again))
}

#[inline(always)]
fn common_factor<L: Lanes>(l: L, v: L::F, w: L::F) -> (L::F, L::F) {
    let zero = l.splat(0.0);
    let largest = l.most(most8(l, v), zero);
    let (mut best, mut best_factor, mut best_q) = (l.splat(f32::INFINITY), zero, zero);
    for top in TOPS {
        let first = l.most(positive16(l, l.mul(largest, l.splat(1.0 / top))), l.splat(F16_MIN));
        let q = code(l, l.mul(v, l.div(l.splat(1.0), first)), l.splat(TOP));
        let wq = l.mul(w, q);
        let num = sum8(l, l.mul(wq, v));
        let den = sum8(l, l.mul(wq, q));
        let factor = positive16(l, ratio_or(l, num, den, first));
        let e = l.sub(v, l.mul(factor, q));
        let error = sum8(l, l.mul(l.mul(w, e), e));
        let m = l.above(best, error);
        best = l.select(m, error, best);
        best_factor = l.select(m, factor, best_factor);
        best_q = l.select(m, q, best_q);
    }
    (best_factor, best_q)
}

#[inline(always)]
fn error<L: Lanes>(l: L, g: &Group<L>, s: &Sums<L>, scale: L::F, min: L::F) -> L::F {
    let mean_code = l.mul(s.q, g.inv_w);
    let spread = l.sub(s.qq, l.mul(s.q, mean_code));
    let off = l.sub(l.sub(l.mul(scale, mean_code), min), g.mean);
    let shape = l.mul(scale, l.sub(l.mul(scale, spread), l.add(s.cq, s.cq)));
    l.add(shape, l.mul(g.sum_w, l.mul(off, off)))
}

#[inline(always)]
fn settle<L: Lanes, C: Codes>(
    l: L,
    g: &Group<L>,
    start: L::F,
    mean_code: L::F,
    d: L::F,
    dmin: L::F,
) -> Settled<L> {
    let (zero, top) = (l.splat(0.0), l.splat(TOP));
    let (inv_d, inv_dmin) = (inverse(l, d), inverse(l, dmin));
    let mut least_error = l.splat(f32::INFINITY);
    let mut best = Settled::<L> { scale: zero, min: zero, sums: Sums::zero(l) };
    for (step, min_step) in NEIGHBOURS {
        let scale = l.most(l.least(l.add(start, l.splat(step)), top), zero);
        let scale = l.mul(scale, d);
        let min = code(l, l.mul(l.sub(l.mul(scale, mean_code), g.mean), inv_dmin), top);
        let min = l.mul(l.most(l.least(l.add(min, l.splat(min_step)), top), zero), dmin);
        let s = sums::<L, C>(l, g, min, inverse(l, scale));
        let xq = l.add(s.cq, l.mul(g.mean, s.q));
        let ideal = ratio_or(l, l.add(xq, l.mul(min, s.q)), s.qq, zero);
        let q_scale = code(l, l.mul(ideal, inv_d), top);
        let scale = l.mul(q_scale, d);
        let mean_code = l.mul(s.q, g.inv_w);
        let q_min = code(l, l.mul(l.sub(l.mul(scale, mean_code), g.mean), inv_dmin), top);
        let e = error(l, g, &s, scale, l.mul(q_min, dmin));
        let m = l.above(least_error, e);
        least_error = l.select(m, e, least_error);
        best.scale = l.select(m, q_scale, best.scale);
        best.min = l.select(m, q_min, best.min);
        best.sums.q = l.select(m, s.q, best.sums.q);
        best.sums.qq = l.select(m, s.qq, best.sums.qq);
        best.sums.cq = l.select(m, s.cq, best.sums.cq);
    }
    best
}

#[inline(always)]
fn refit<L: Lanes>(l: L, g: &Group<L>, at: &Settled<L>, d: L::F, dmin: L::F) -> (L::F, L::F) {
    let (zero, s) = (l.splat(0.0), &at.sums);
    let a = sum8(l, l.mul(l.mul(at.scale, at.scale), s.qq));
    let b = sum8(l, l.mul(l.mul(at.scale, at.min), s.q));
    let c = sum8(l, l.mul(l.mul(at.min, at.min), g.sum_w));
    let p = sum8(l, l.mul(at.scale, l.add(s.cq, l.mul(g.mean, s.q))));
    let q = sum8(l, l.mul(at.min, l.mul(g.sum_w, g.mean)));
    let ac = l.mul(a, c);
    let det = l.sub(ac, l.mul(b, b));
    let both = l.div(l.sub(l.mul(p, c), l.mul(b, q)), det);
    let alone = l.div(l.add(p, l.mul(b, dmin)), a);
    let wanted = l.select(l.above(det, l.mul(l.splat(DEPENDENT), ac)), both, alone);
    let new_d = l.select(l.above(a, zero), positive16(l, wanted), d);
    let wanted = l.div(l.sub(l.mul(b, new_d), q), c);
    let new_dmin = l.select(l.above(c, zero), positive16(l, wanted), dmin);
    let new = error(l, g, s, l.mul(at.scale, new_d), l.mul(at.min, new_dmin));
    let old = error(l, g, s, l.mul(at.scale, d), l.mul(at.min, dmin));
    let m = l.above(sum8(l, old), sum8(l, new));
    (l.select(m, new_d, d), l.select(m, new_dmin, dmin))
}

impl<L: Lanes> Group<L> {
    /// The grid of the group's super-blocks.
    #[inline(always)]
    pub(super) fn search<C: Codes>(&self, l: L) -> Grid<L> {
        let f = fit::<L, C>(l, self);
        let (d, scales) = common_factor(l, f.scale, f.curvature);
        let min = l.sub(l.mul(l.mul(scales, d), f.mean_code), self.mean);
        let (dmin, _) = common_factor(l, l.most(min, l.splat(0.0)), self.sum_w);
        let at = settle::<L, C>(l, self, scales, f.mean_code, d, dmin);
        let (d, dmin) = refit(l, self, &at, d, dmin);
        Grid { d, dmin, scales: at.scale, mins: at.min }
    }

    /// The nearest codes under `grid`: `words[k][j]` becomes those of weights `4k..4k + 4` of
    /// sub-block `j`, a byte each.
    #[inline(always)]
    pub(super) fn assign<C: Codes>(&self, l: L, grid: &Grid<L>, words: &mut [[u32; 16]; 8]) {
        let inv = inverse(l, l.mul(grid.d, grid.scales));
        let min = l.mul(grid.dmin, grid.mins);
        let top = l.splat(C::TOP);
        for (x, to) in self.x.as_chunks::<4>().0.iter().zip(words) {
            let mut q = *x;
            for q in &mut q {
                *q = code(l, l.mul(l.add(*q, min), inv), top);
            }
            l.bytes(q, to);
        }
    }
}
