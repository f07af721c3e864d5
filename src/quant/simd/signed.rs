//! Q6_K over lanes. Function for function the arithmetic of [`crate::quant::q6_k`]; the reasons are
//! given there. A super-block is `H` registers: `H * N` is 16.

use super::Lanes;
use crate::quant::q6_k::{MARGIN, NEIGHBOURS, REACH, SUB, TOPS};
use crate::quant::search::{F16_MAX, F16_MIN, TINY};

/// `N` sub-blocks, transposed. Made once for all super-blocks.
pub(super) struct Part<L: Lanes> {
    x: [L::F; SUB],
    w: [L::F; SUB],
    /// `w x`
    wx: [L::F; SUB],
    /// The weight largest in magnitude, with its sign.
    extreme: L::F,
}

#[derive(Clone, Copy)]
struct Sums<L: Lanes> {
    xq: L::F,
    qq: L::F,
}

#[derive(Clone, Copy)]
struct Fit<L: Lanes> {
    scale: L::F,
    gain: L::F,
    curvature: L::F,
}

/// The grid in lanes: `d` the same in all.
pub(super) struct Grid<L: Lanes, const H: usize> {
    pub d: L::F,
    pub scales: [L::F; H],
}

#[inline(always)]
fn sum16<L: Lanes, const H: usize>(l: L, v: [L::F; H]) -> L::F {
    let mut v = v;
    for v in &mut v {
        *v = l.add(*v, l.swap1(*v));
        *v = l.add(*v, l.swap2(*v));
        *v = l.add(*v, l.swap4(*v));
    }
    if H == 2 { l.add(v[0], v[H - 1]) } else { l.add(v[0], l.swap8(v[0])) }
}

#[inline(always)]
fn most16<L: Lanes, const H: usize>(l: L, v: [L::F; H]) -> L::F {
    let mut v = v;
    for v in &mut v {
        *v = l.most(*v, l.swap1(*v));
        *v = l.most(*v, l.swap2(*v));
        *v = l.most(*v, l.swap4(*v));
    }
    if H == 2 { l.most(v[0], v[H - 1]) } else { l.most(v[0], l.swap8(v[0])) }
}

#[inline(always)]
fn code<L: Lanes>(l: L, t: L::F) -> L::F {
    l.nearest(l.least(l.most(t, l.splat(-32.0)), l.splat(31.0)))
}

#[inline(always)]
fn byte<L: Lanes>(l: L, t: L::F) -> L::F {
    l.nearest(l.least(l.most(t, l.splat(-128.0)), l.splat(127.0)))
}

#[inline(always)]
fn signed_inverse<L: Lanes>(l: L, s: L::F) -> L::F {
    l.select(l.above(l.abs(s), l.splat(TINY)), l.div(l.splat(1.0), s), l.splat(0.0))
}

/// `a / b`, or `other` where `b` is not positive.
#[inline(always)]
fn ratio_or<L: Lanes>(l: L, a: L::F, b: L::F, other: L::F) -> L::F {
    l.select(l.above(b, l.splat(0.0)), l.div(a, b), other)
}

#[inline(always)]
fn signed16<L: Lanes>(l: L, a: L::F) -> L::F {
    l.round16(l.least(l.most(a, l.splat(-F16_MAX)), l.splat(F16_MAX)))
}

impl<L: Lanes> Part<L> {
    #[inline(always)]
    pub(super) fn new(l: L) -> Self {
        let zero = l.splat(0.0);
        let rows = [zero; SUB];
        Self { x: rows, w: rows, wx: rows, extreme: zero }
    }

    #[inline(always)]
    fn fill(&mut self, l: L, from: &[f32], h: Option<[&[[f32; 8]]; 2]>) {
        let zero = l.splat(0.0);
        for (i, to) in self.x.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *to = l.transpose(&from[i * 4..], SUB);
        }
        match h {
            None => {
                for (w, &x) in self.w.iter_mut().zip(&self.x) {
                    *w = l.abs(x);
                }
            }
            Some([h0, h1]) => {
                for (i, w) in self.w.iter_mut().enumerate() {
                    *w = l.load_halves(&h0[2 * i], &h1[2 * i]);
                }
            }
        }
        let (mut low, mut high) = (self.x[0], self.x[0]);
        for i in 0..SUB {
            low = l.least(low, self.x[i]);
            high = l.most(high, self.x[i]);
            self.wx[i] = l.mul(self.w[i], self.x[i]);
        }
        self.extreme = l.select(l.above(high, l.sub(zero, low)), high, low);
    }
}

impl<L: Lanes> Sums<L> {
    #[inline(always)]
    fn zero(l: L) -> Self {
        Self { xq: l.splat(0.0), qq: l.splat(0.0) }
    }

    #[inline(always)]
    fn add(&mut self, l: L, q: L::F, w: L::F, wx: L::F) {
        self.xq = l.add(self.xq, l.mul(wx, q));
        self.qq = l.add(self.qq, l.mul(l.mul(w, q), q));
    }
}

#[inline(always)]
fn sums<L: Lanes>(l: L, p: &Part<L>, inv: L::F) -> Sums<L> {
    let mut s = Sums::zero(l);
    for i in 0..SUB {
        s.add(l, code(l, l.mul(p.x[i], inv)), p.w[i], p.wx[i]);
    }
    s
}

/// [`sums`] for the `inv` that makes the extreme weight `-reach`: of the cuts at -32 and 31 it leaves
/// out those that cannot happen.
#[inline(always)]
fn sums_of_reach<L: Lanes>(l: L, p: &Part<L>, reach: f32, inv: L::F) -> Sums<L> {
    let mut s = Sums::zero(l);
    if reach < 31.499 {
        for i in 0..SUB {
            s.add(l, l.nearest(l.mul(p.x[i], inv)), p.w[i], p.wx[i]);
        }
        s
    } else if reach < 32.499 {
        for i in 0..SUB {
            let t = l.least(l.mul(p.x[i], inv), l.splat(31.0));
            s.add(l, l.nearest(t), p.w[i], p.wx[i]);
        }
        s
    } else {
        sums(l, p, inv)
    }
}

#[inline(always)]
fn better<L: Lanes>(l: L, a: Fit<L>, s: &Sums<L>) -> Fit<L> {
    let scale = l.div(s.xq, s.qq);
    let gain = l.mul(s.xq, scale);
    let m = l.above(gain, l.mul(a.gain, l.splat(MARGIN)));
    Fit {
        scale: l.select(m, scale, a.scale),
        gain: l.select(m, gain, a.gain),
        curvature: l.select(m, s.qq, a.curvature),
    }
}

#[inline(always)]
fn fit<L: Lanes>(l: L, p: &Part<L>) -> Fit<L> {
    let zero = l.splat(0.0);
    let inv_extreme = signed_inverse(l, p.extreme);
    let mut best = Fit::<L> { scale: zero, gain: zero, curvature: zero };
    for reach in REACH {
        let inv = l.mul(l.splat(0.0 - reach), inv_extreme);
        best = better(l, best, &sums_of_reach(l, p, reach, inv));
    }
    better(l, best, &sums(l, p, signed_inverse(l, best.scale)))
}

#[inline(always)]
fn common_factor<L: Lanes, const H: usize>(l: L, f: &[Fit<L>; H]) -> (L::F, [L::F; H]) {
    let zero = l.splat(0.0);
    let (mut ups, mut downs) = ([zero; H], [zero; H]);
    for k in 0..H {
        ups[k] = f[k].scale;
        downs[k] = l.sub(zero, f[k].scale);
    }
    let (up, down) = (most16(l, ups), most16(l, downs));
    // The largest scale comes out near -128, the longer side.
    let size = l.most(l.most(up, down), zero);
    let sign = l.select(l.above(up, down), l.splat(-1.0), l.splat(1.0));
    let (mut best, mut best_factor, mut best_q) = (l.splat(f32::INFINITY), zero, [zero; H]);
    for top in TOPS {
        let first = l.most(signed16(l, l.mul(size, l.splat(1.0 / top))), l.splat(F16_MIN));
        let first = l.mul(sign, first);
        let inv = l.div(l.splat(1.0), first);
        let (mut q, mut num, mut den, mut error) = ([zero; H], [zero; H], [zero; H], [zero; H]);
        for k in 0..H {
            q[k] = byte(l, l.mul(f[k].scale, inv));
            let wq = l.mul(f[k].curvature, q[k]);
            num[k] = l.mul(wq, f[k].scale);
            den[k] = l.mul(wq, q[k]);
        }
        let factor = signed16(l, ratio_or(l, sum16(l, num), sum16(l, den), first));
        for k in 0..H {
            let e = l.sub(f[k].scale, l.mul(factor, q[k]));
            error[k] = l.mul(l.mul(f[k].curvature, e), e);
        }
        let error = sum16(l, error);
        let m = l.above(best, error);
        best = l.select(m, error, best);
        best_factor = l.select(m, factor, best_factor);
        for k in 0..H {
            best_q[k] = l.select(m, q[k], best_q[k]);
        }
    }
    (best_factor, best_q)
}

#[inline(always)]
fn excess<L: Lanes>(l: L, s: &Sums<L>, ideal: L::F, scale: L::F) -> L::F {
    let off = l.sub(scale, ideal);
    l.mul(s.qq, l.mul(off, off))
}

#[inline(always)]
fn settle<L: Lanes>(l: L, p: &Part<L>, start: L::F, d: L::F) -> (L::F, Sums<L>) {
    let zero = l.splat(0.0);
    let inv_d = signed_inverse(l, d);
    let mut least_error = l.splat(f32::INFINITY);
    let (mut best, mut best_sums) = (zero, Sums::zero(l));
    for step in NEIGHBOURS {
        let scale = l.most(l.least(l.add(start, l.splat(step)), l.splat(127.0)), l.splat(-128.0));
        let s = sums(l, p, signed_inverse(l, l.mul(scale, d)));
        let ideal = ratio_or(l, s.xq, s.qq, zero);
        let q = byte(l, l.mul(ideal, inv_d));
        let e = l.sub(excess(l, &s, ideal, l.mul(q, d)), l.mul(s.xq, ideal));
        let m = l.above(least_error, e);
        least_error = l.select(m, e, least_error);
        best = l.select(m, q, best);
        best_sums.xq = l.select(m, s.xq, best_sums.xq);
        best_sums.qq = l.select(m, s.qq, best_sums.qq);
    }
    (best, best_sums)
}

#[inline(always)]
fn refit<L: Lanes, const H: usize>(l: L, at: &[(L::F, Sums<L>); H], d: L::F) -> L::F {
    let zero = l.splat(0.0);
    let (mut num, mut den) = ([zero; H], [zero; H]);
    for k in 0..H {
        let (q, s) = &at[k];
        num[k] = l.mul(*q, s.xq);
        den[k] = l.mul(l.mul(*q, *q), s.qq);
    }
    let new = signed16(l, ratio_or(l, sum16(l, num), sum16(l, den), d));
    let (mut before, mut after) = ([zero; H], [zero; H]);
    for k in 0..H {
        let (q, s) = &at[k];
        let ideal = ratio_or(l, s.xq, s.qq, zero);
        before[k] = excess(l, s, ideal, l.mul(*q, d));
        after[k] = excess(l, s, ideal, l.mul(*q, new));
    }
    l.select(l.above(sum16(l, before), sum16(l, after)), new, d)
}

/// Takes in the super-block `x` with importances `h`, by weight of the sub-block and then sub-block.
#[inline(always)]
pub(super) fn fill<L: Lanes, const H: usize>(
    l: L,
    parts: &mut [Part<L>; H],
    x: &[f32; 256],
    h: Option<&[f32; 256]>,
) {
    for (k, part) in parts.iter_mut().enumerate() {
        let h = match h {
            Some(h) => Some([&h.as_chunks::<8>().0[k..], &h.as_chunks::<8>().0[1..]]),
            None => None,
        };
        part.fill(l, &x[k * 128..], h);
    }
}

/// The grid of a super-block.
#[inline(always)]
pub(super) fn search<L: Lanes, const H: usize>(l: L, parts: &[Part<L>; H]) -> Grid<L, H> {
    let zero = l.splat(0.0);
    let mut f = [Fit::<L> { scale: zero, gain: zero, curvature: zero }; H];
    for k in 0..H {
        f[k] = fit(l, &parts[k]);
    }
    let (d, start) = common_factor(l, &f);
    let mut at = [(zero, Sums::zero(l)); H];
    let mut scales = [zero; H];
    for k in 0..H {
        at[k] = settle(l, &parts[k], start[k], d);
        scales[k] = at[k].0;
    }
    Grid { d: refit(l, &at, d), scales }
}

/// The nearest codes, 0..=63, under `grid`: `words[h][k][j]` becomes those of weights `4k..4k + 4` of
/// sub-block `j` of part `h`, a byte each.
#[inline(always)]
pub(super) fn assign<L: Lanes, const H: usize>(
    l: L,
    parts: &[Part<L>; H],
    grid: &Grid<L, H>,
    words: &mut [[[u32; 16]; 4]; H],
) {
    for k in 0..H {
        let inv = signed_inverse(l, l.mul(grid.d, grid.scales[k]));
        for (x, to) in parts[k].x.as_chunks::<4>().0.iter().zip(&mut words[k]) {
            let mut q = *x;
            for q in &mut q {
                *q = l.add(code(l, l.mul(*q, inv)), l.splat(32.0));
            }
            l.bytes(q, to);
        }
    }
}
