//! Coordinate descent on J: first the scale and min of a sub-block, given its codes; then each of its codes, given all
//! other codes.
//!
//! Coordinate descent under the second moments of the inputs is the method of QuantEase (Behdin et al. 2023). QuantEase
//! changes codes only; the scales and mins are added here, by least squares in closed form and the neighbours on the grid
//! of the format. No step raises J.

use super::scales::{Format, Scales};
use super::state::{FactorizedBlock, SubBlock, Workspace, inverse};
use super::vector::{F32x16, TILE, Vector, all_dots, dots};
use crate::quant::search::F16_MAX;

/// Largest number of weights in a sub-block.
const MAX_SUB: usize = 32;
/// Two vectors count as parallel if their determinant is a smaller share of the product of their squares.
const MIN_DETERMINANT: f32 = 1e-5;
/// Largest change of an integer scale in one round.
const MAX_CHANGE: f32 = 512.0;

/// Goes once over all sub-blocks of a block of H.
#[inline(always)]
pub(super) fn descend<F: Format, V: Vector>(isa: V, block: FactorizedBlock<'_>, ws: &mut Workspace) {
    for first in (0..block.len).step_by(F::SUB) {
        let mut g = [F32x16::default(); MAX_SUB];
        let g = &mut g[..F::SUB];
        all_dots(isa, block.h, block.stride, (first, 0), &ws.e[..block.len], g);
        refit_scale::<F, V>(isa, block, first, g, ws);
        refit_codes::<F, V>(isa, block, first, g, ws);
    }
}

/// Moves each code of the sub-block at column `first` to the best code, given all others. Without rounding the weight
/// would change by `g_j / H_jj`, where `g = H e` is given for the codes before.
#[inline(always)]
fn refit_codes<F: Format, V: Vector>(
    isa: V,
    block: FactorizedBlock<'_>,
    first: usize,
    g: &[F32x16],
    ws: &mut Workspace,
) {
    let sub = SubBlock::at::<F>(isa, &ws.scales, first);
    let mut cost = isa.load(&ws.cost);
    let mut change = [F32x16::default(); MAX_SUB];
    for at in (0..F::SUB).step_by(TILE) {
        let mut t = [isa.splat(0.0); TILE];
        for i in 0..TILE {
            t[i] = isa.load(&g[at + i]);
        }
        let mut g = dots(isa, block.h, block.stride, (first + at, first), &change[..at], t);
        for i in 0..TILE {
            let j = first + at + i;
            let h = block.h[j * block.stride + j];
            let old = sub.values(isa, isa.load(&ws.q[j]));
            let q = sub.codes::<F>(isa, isa.mul_add(g[i], isa.splat(1.0 / h), old));
            let v = sub.values(isa, q);
            let b = isa.sub(old, v);
            isa.store(q, &mut ws.q[j]);
            isa.store(isa.sub(isa.load(&ws.w[j]), v), &mut ws.e[j]);
            isa.store(b, &mut change[at + i]);
            let slope = isa.mul_add(isa.splat(h), b, isa.add(g[i], g[i]));
            cost = isa.mul_add(b, slope, cost);
            for k in i + 1..TILE {
                g[k] = isa.mul_add(isa.splat(block.h[(first + at + k) * block.stride + j]), b, g[k]);
            }
        }
    }
    isa.store(cost, &mut ws.cost);
}

/// Moves the scale and the min of the sub-block at column `first` to better ones under J, given its codes. `g` is `H e`
/// and is kept up to date.
#[inline(always)]
fn refit_scale<F: Format, V: Vector>(
    isa: V,
    block: FactorizedBlock<'_>,
    first: usize,
    g: &mut [F32x16],
    ws: &mut Workspace,
) {
    let (scales, i) = (&mut ws.scales[first / F::BLOCK], first % F::BLOCK / F::SUB);
    let q = &ws.q[first..first + F::SUB];
    let mut hq = [F32x16::default(); MAX_SUB];
    let hq = &mut hq[..F::SUB];
    all_dots(isa, block.h, block.stride, (first, first), q, hq);
    let mut ones = [0.0; MAX_SUB];
    if F::MINS {
        for (j, ones) in ones.iter_mut().enumerate().take(F::SUB) {
            *ones = sum(&block.h[(first + j) * block.stride + first..][..F::SUB]);
        }
    }
    let form = Quadratic::of::<F>(isa, q, g, hq, sum(&ones));
    let before = SubBlock::of(isa, scales, i);
    match F::SCALES {
        Some(_) => form.refit_integers::<F>(isa, scales, i),
        None => form.refit_floats::<F>(isa, scales),
    }
    let after = SubBlock::of(isa, scales, i);
    let (a, b) = (isa.sub(after.step, before.step), isa.sub(after.offset, before.offset));
    isa.store(isa.add(isa.load(&ws.cost), form.cost(isa, a, b)), &mut ws.cost);
    for j in 0..F::SUB {
        let v = after.values(isa, isa.load(&ws.q[first + j]));
        isa.store(isa.sub(isa.load(&ws.w[first + j]), v), &mut ws.e[first + j]);
        let reduced = isa.sub(isa.load(&g[j]), isa.mul(a, isa.load(&hq[j])));
        isa.store(isa.mul_add(b, isa.splat(ones[j]), reduced), &mut g[j]);
    }
}

/// Sums a multiple of eight values, in eight chains.
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

/// The change of J when the weights v change by `a x - b y`, as a quadratic function of the factors a and b:
/// `a^2 xx - 2 a b xy + b^2 yy - 2 (a xg - b yg)`. For a sub-block x is the vector of codes and y the vector of ones, so
/// that a is the change of the scale and b the change of the min.
#[derive(Clone, Copy)]
struct Quadratic<V: Vector> {
    xx: V::F32,
    xy: V::F32,
    yy: V::F32,
    xg: V::F32,
    yg: V::F32,
}

impl<V: Vector> Quadratic<V> {
    /// Returns the function for a sub-block with the codes `q`. `ones` is the sum of the sub-block's square of H.
    #[inline(always)]
    fn of<F: Format>(isa: V, q: &[F32x16], g: &[F32x16], hq: &[F32x16], ones: f32) -> Self {
        let zero = isa.splat(0.0);
        let mut form = Self { xx: zero, xy: zero, yy: isa.splat(ones), xg: zero, yg: zero };
        for j in 0..F::SUB {
            let (q, g, hq) = (isa.load(&q[j]), isa.load(&g[j]), isa.load(&hq[j]));
            form.xx = isa.mul_add(q, hq, form.xx);
            form.xg = isa.mul_add(q, g, form.xg);
            if F::MINS {
                form.xy = isa.add(form.xy, hq);
                form.yg = isa.add(form.yg, g);
            }
        }
        form
    }

    /// Gives sub-block `i` the integer scale and min with the smallest J among the neighbours of the best real numbers.
    #[inline(always)]
    fn refit_integers<F: Format>(self, isa: V, scales: &mut Scales, i: usize) {
        let (low, high) = F::SCALES.unwrap_or((1.0, 1.0));
        let (low, high) = (isa.splat(low), isa.splat(high));
        let (d, dmin) = (isa.load(&scales.d), isa.load(&scales.dmin));
        let (scale, min) = (isa.load(&scales.scale[i]), isa.load(&scales.min[i]));
        let (inv_d, inv_dmin) = (inverse(isa, d), inverse(isa, dmin));
        let ideal = isa.add(scale, integer_steps(isa, isa.mul(self.best_a(isa, F::MINS, dmin), inv_d)));
        let (mut lowest, mut best, mut best_min) = (isa.splat(0.0), scale, min);
        // The last candidate keeps the scale, because a better min alone may still lower J.
        for step in [Some(0.0), Some(-1.0), Some(1.0), None] {
            let new = match step {
                Some(step) => isa.min(isa.max(isa.add(ideal, isa.splat(step)), low), high),
                None => scale,
            };
            let a = isa.mul(isa.sub(new, scale), d);
            let (mut new_min, mut b) = (min, isa.splat(0.0));
            if F::MINS {
                let ideal_min = isa.add(min, integer_steps(isa, isa.mul(self.best_b(isa, a), inv_dmin)));
                new_min = isa.min(isa.max(ideal_min, isa.splat(0.0)), high);
                b = isa.mul(isa.sub(new_min, min), dmin);
            }
            let cost = self.cost(isa, a, b);
            let better = isa.lt(cost, lowest);
            lowest = isa.select(better, cost, lowest);
            best = isa.select(better, new, best);
            best_min = isa.select(better, new_min, best_min);
        }
        isa.store(best, &mut scales.scale[i]);
        isa.store(best_min, &mut scales.min[i]);
    }

    /// Gives a block with one f16 scale and, with `MINS`, one f16 offset the best values, rounded to f16.
    #[inline(always)]
    fn refit_floats<F: Format>(self, isa: V, scales: &mut Scales) {
        let (d, dmin) = (isa.load(&scales.d), isa.load(&scales.dmin));
        let new = finite_f16(isa, isa.add(d, self.best_a(isa, F::MINS, isa.splat(1.0))));
        let a = isa.sub(new, d);
        let new_min = if F::MINS { finite_f16(isa, isa.add(dmin, self.best_b(isa, a))) } else { dmin };
        let b = isa.sub(new_min, dmin);
        let better = isa.lt(self.cost(isa, a, b), isa.splat(0.0));
        isa.store(isa.select(better, new, d), &mut scales.d);
        isa.store(isa.select(better, new_min, dmin), &mut scales.dmin);
    }

    /// Returns the scale step a that minimizes J. If the format has mins and `dmin > 0`, b is eliminated first: b takes its
    /// optimal value for each a. Otherwise b is 0.
    #[inline(always)]
    fn best_a(self, isa: V, mins: bool, dmin: V::F32) -> V::F32 {
        let zero = isa.splat(0.0);
        let alone = isa.select(isa.lt(zero, self.xx), isa.div(self.xg, self.xx), zero);
        if !mins {
            return alone;
        }
        let product = isa.mul(self.xx, self.yy);
        let both = isa.sub(product, isa.mul(self.xy, self.xy));
        let joint = isa.div(isa.sub(isa.mul(self.xg, self.yy), isa.mul(self.xy, self.yg)), both);
        let free = isa.and(isa.lt(zero, dmin), isa.lt(isa.mul(isa.splat(MIN_DETERMINANT), product), both));
        isa.select(free, joint, alone)
    }

    /// Returns the b that minimizes J for a given a.
    #[inline(always)]
    fn best_b(self, isa: V, a: V::F32) -> V::F32 {
        let b = isa.div(isa.sub(isa.mul(a, self.xy), self.yg), self.yy);
        isa.select(isa.lt(isa.splat(0.0), self.yy), b, isa.splat(0.0))
    }

    /// Returns the change of J.
    #[inline(always)]
    fn cost(self, isa: V, a: V::F32, b: V::F32) -> V::F32 {
        let twice = |v| isa.add(v, v);
        let first = isa.mul(a, isa.sub(isa.mul(a, self.xx), twice(isa.mul(b, self.xy))));
        let square = isa.add(first, isa.mul(b, isa.mul(b, self.yy)));
        isa.sub(square, twice(isa.sub(isa.mul(a, self.xg), isa.mul(b, self.yg))))
    }
}

/// Returns the nearest number of integer steps, at most [`MAX_CHANGE`].
#[inline(always)]
fn integer_steps<V: Vector>(isa: V, by: V::F32) -> V::F32 {
    isa.round_ties_even(isa.min(isa.max(by, isa.splat(-MAX_CHANGE)), isa.splat(MAX_CHANGE)))
}

/// Returns the nearest finite f16.
#[inline(always)]
fn finite_f16<V: Vector>(isa: V, v: V::F32) -> V::F32 {
    isa.round_f16(isa.min(isa.max(v, isa.splat(-F16_MAX)), isa.splat(F16_MAX)))
}
