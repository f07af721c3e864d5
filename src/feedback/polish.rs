//! Coordinate descent on J: each sub-block's scale and min given its codes, then each of its codes given all others.

use super::grid::{Format, Grid};
use super::lanes::{Lane, Lanes, TILE, all_dots, dots};
use super::solve::{Moments, Sub, Work, inverse};
use crate::quant::search::F16_MAX;

/// Weights of a sub-block at most.
const MAX_SUB: usize = 32;
/// Two vectors whose determinant is a smaller share of their squares' product are taken for parallel.
const PARALLEL: f32 = 1e-5;
/// Steps of an integer scale at most, in one round.
const FARTHEST: f32 = 512.0;

/// One round over all sub-blocks of a block of H.
#[inline(always)]
pub(super) fn polish<F: Format, L: Lanes>(l: L, m: Moments<'_>, work: &mut Work) {
    for first in (0..m.len).step_by(F::SUB) {
        let mut g = [Lane::default(); MAX_SUB];
        let g = &mut g[..F::SUB];
        all_dots(l, m.h, m.stride, (first, 0), &work.e[..m.len], g);
        settle_scale::<F, L>(l, m, first, g, work);
        settle_codes::<F, L>(l, m, first, g, work);
    }
}

/// The codes of the sub-block at `first`, each to the best one given all others: v would change by `g_j / H_jj`.
/// `g`: `H e` before.
#[inline(always)]
fn settle_codes<F: Format, L: Lanes>(l: L, m: Moments<'_>, first: usize, g: &[Lane], work: &mut Work) {
    let sub = Sub::at::<F>(l, &work.grids, first);
    let mut cost = l.load(&work.cost);
    let mut back = [Lane::default(); MAX_SUB];
    for at in (0..F::SUB).step_by(TILE) {
        let mut t = [l.splat(0.0); TILE];
        for i in 0..TILE {
            t[i] = l.load(&g[at + i]);
        }
        let mut g = dots(l, m.h, m.stride, (first + at, first), &back[..at], t);
        for i in 0..TILE {
            let j = first + at + i;
            let h = m.h[j * m.stride + j];
            let old = sub.values(l, l.load(&work.q[j]));
            let q = sub.codes::<F>(l, l.mul_add(g[i], l.splat(1.0 / h), old));
            let v = sub.values(l, q);
            let b = l.sub(old, v);
            l.store(q, &mut work.q[j]);
            l.store(l.sub(l.load(&work.w[j]), v), &mut work.e[j]);
            l.store(b, &mut back[at + i]);
            let slope = l.mul_add(l.splat(h), b, l.add(g[i], g[i]));
            cost = l.mul_add(b, slope, cost);
            for k in i + 1..TILE {
                g[k] = l.mul_add(l.splat(m.h[(first + at + k) * m.stride + j]), b, g[k]);
            }
        }
    }
    l.store(cost, &mut work.cost);
}

/// Scale and min of the sub-block at `first`, given its codes, to better ones under J. `g`: `H e`, before and after.
#[inline(always)]
fn settle_scale<F: Format, L: Lanes>(l: L, m: Moments<'_>, first: usize, g: &mut [Lane], work: &mut Work) {
    let (grid, i) = (&mut work.grids[first / F::BLOCK], first % F::BLOCK / F::SUB);
    let q = &work.q[first..first + F::SUB];
    let mut hq = [Lane::default(); MAX_SUB];
    let hq = &mut hq[..F::SUB];
    all_dots(l, m.h, m.stride, (first, first), q, hq);
    let mut ones = [0.0; MAX_SUB];
    if F::MINS {
        for (j, ones) in ones.iter_mut().enumerate().take(F::SUB) {
            *ones = sum(&m.h[(first + j) * m.stride + first..][..F::SUB]);
        }
    }
    let form = Quadratic::of::<F>(l, q, g, hq, sum(&ones));
    let before = Sub::of(l, grid, i);
    match F::SCALES {
        Some(_) => form.settle_integers::<F>(l, grid, i),
        None => form.settle_floats::<F>(l, grid),
    }
    let after = Sub::of(l, grid, i);
    let (a, b) = (l.sub(after.step, before.step), l.sub(after.offset, before.offset));
    l.store(l.add(l.load(&work.cost), form.cost(l, a, b)), &mut work.cost);
    for j in 0..F::SUB {
        let v = after.values(l, l.load(&work.q[first + j]));
        l.store(l.sub(l.load(&work.w[first + j]), v), &mut work.e[first + j]);
        let less = l.sub(l.load(&g[j]), l.mul(a, l.load(&hq[j])));
        l.store(l.mul_add(b, l.splat(ones[j]), less), &mut g[j]);
    }
}

/// Of a multiple of eight values, in eight chains.
#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for part in values.as_chunks::<8>().0 {
        for i in 0..8 {
            sums[i] += part[i];
        }
    }
    ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}

/// J as a function of how two vectors x and y, with which v grows by `a x - b y`, are scaled:
/// `a^2 xx - 2 a b xy + b^2 yy - 2 (a xg - b yg)`, beyond what it is.
#[derive(Clone, Copy)]
struct Quadratic<L: Lanes> {
    xx: L::F,
    xy: L::F,
    yy: L::F,
    xg: L::F,
    yg: L::F,
}

impl<L: Lanes> Quadratic<L> {
    /// Of a sub-block: x its codes q, y all ones, `ones` the sum of its square of H.
    #[inline(always)]
    fn of<F: Format>(l: L, q: &[Lane], g: &[Lane], hq: &[Lane], ones: f32) -> Self {
        let zero = l.splat(0.0);
        let mut form = Self { xx: zero, xy: zero, yy: l.splat(ones), xg: zero, yg: zero };
        for j in 0..F::SUB {
            let (q, g, hq) = (l.load(&q[j]), l.load(&g[j]), l.load(&hq[j]));
            form.xx = l.mul_add(q, hq, form.xx);
            form.xg = l.mul_add(q, g, form.xg);
            if F::MINS {
                form.xy = l.add(form.xy, hq);
                form.yg = l.add(form.yg, g);
            }
        }
        form
    }

    /// Sub-block `i` of `grid` gets the integers with the least J among the neighbours of the best numbers.
    #[inline(always)]
    fn settle_integers<F: Format>(self, l: L, grid: &mut Grid, i: usize) {
        let (low, high) = F::SCALES.unwrap_or((1.0, 1.0));
        let (low, high) = (l.splat(low), l.splat(high));
        let (d, dmin) = (l.load(&grid.d), l.load(&grid.dmin));
        let (scale, min) = (l.load(&grid.scale[i]), l.load(&grid.min[i]));
        let (inv_d, inv_dmin) = (inverse(l, d), inverse(l, dmin));
        let ideal = l.add(scale, whole(l, l.mul(self.best_a(l, F::MINS, dmin), inv_d)));
        let (mut least, mut best, mut best_min) = (l.splat(0.0), scale, min);
        // The last one keeps the scale: the min alone may still gain.
        for step in [Some(0.0), Some(-1.0), Some(1.0), None] {
            let new = match step {
                Some(step) => l.least(l.most(l.add(ideal, l.splat(step)), low), high),
                None => scale,
            };
            let a = l.mul(l.sub(new, scale), d);
            let (mut new_min, mut b) = (min, l.splat(0.0));
            if F::MINS {
                let wanted = l.add(min, whole(l, l.mul(self.best_b(l, a), inv_dmin)));
                new_min = l.least(l.most(wanted, l.splat(0.0)), high);
                b = l.mul(l.sub(new_min, min), dmin);
            }
            let cost = self.cost(l, a, b);
            let better = l.less(cost, least);
            least = l.pick(better, cost, least);
            best = l.pick(better, new, best);
            best_min = l.pick(better, new_min, best_min);
        }
        l.store(best, &mut grid.scale[i]);
        l.store(best_min, &mut grid.min[i]);
    }

    /// The same for a block of one f16 scale and, with `MINS`, one f16 offset.
    #[inline(always)]
    fn settle_floats<F: Format>(self, l: L, grid: &mut Grid) {
        let (d, dmin) = (l.load(&grid.d), l.load(&grid.dmin));
        let new = half(l, l.add(d, self.best_a(l, F::MINS, l.splat(1.0))));
        let a = l.sub(new, d);
        let new_min = if F::MINS { half(l, l.add(dmin, self.best_b(l, a))) } else { dmin };
        let b = l.sub(new_min, dmin);
        let better = l.less(self.cost(l, a, b), l.splat(0.0));
        l.store(l.pick(better, new, d), &mut grid.d);
        l.store(l.pick(better, new_min, dmin), &mut grid.dmin);
    }

    /// The best a, b being the best one for it where it is free: with `mins`, and `dmin` positive; else 0.
    #[inline(always)]
    fn best_a(self, l: L, mins: bool, dmin: L::F) -> L::F {
        let zero = l.splat(0.0);
        let alone = l.pick(l.less(zero, self.xx), l.div(self.xg, self.xx), zero);
        if !mins {
            return alone;
        }
        let product = l.mul(self.xx, self.yy);
        let both = l.sub(product, l.mul(self.xy, self.xy));
        let joint = l.div(l.sub(l.mul(self.xg, self.yy), l.mul(self.xy, self.yg)), both);
        let free = l.and(l.less(zero, dmin), l.less(l.mul(l.splat(PARALLEL), product), both));
        l.pick(free, joint, alone)
    }

    /// The best b for an a.
    #[inline(always)]
    fn best_b(self, l: L, a: L::F) -> L::F {
        let b = l.div(l.sub(l.mul(a, self.xy), self.yg), self.yy);
        l.pick(l.less(l.splat(0.0), self.yy), b, l.splat(0.0))
    }

    #[inline(always)]
    fn cost(self, l: L, a: L::F, b: L::F) -> L::F {
        let twice = |v| l.add(v, v);
        let first = l.mul(a, l.sub(l.mul(a, self.xx), twice(l.mul(b, self.xy))));
        let square = l.add(first, l.mul(b, l.mul(b, self.yy)));
        l.sub(square, twice(l.sub(l.mul(a, self.xg), l.mul(b, self.yg))))
    }
}

/// A number of integer steps.
#[inline(always)]
fn whole<L: Lanes>(l: L, by: L::F) -> L::F {
    l.nearest(l.least(l.most(by, l.splat(-FARTHEST)), l.splat(FARTHEST)))
}

#[inline(always)]
fn half<L: Lanes>(l: L, v: L::F) -> L::F {
    l.round16(l.least(l.most(v, l.splat(-F16_MAX)), l.splat(F16_MAX)))
}
