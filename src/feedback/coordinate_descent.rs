//! Coordinate descent on J: first the scale and min of a sub-block, given its codes; then each of its codes, given all
//! other codes.
//!
//! Coordinate descent under the second moments of the inputs is the method of QuantEase (Behdin et al. 2023). QuantEase
//! changes codes only; the scales and mins are added here, by least squares in closed form and the neighbours on the grid
//! of the format. No step raises J.

use super::scales::{Format, Scales};
use super::state::{FactorizedBlock, SubBlock};
use super::vector::{F32x16, TILE, TOGETHER, all_dots, dots};
use super::workspace::Workspace;
use crate::quant::arithmetic::{finite_f16, signed_inverse};
use crate::simd::Vector;

/// Largest number of weights in a sub-block.
const MAX_SUB: usize = 32;
/// Two vectors count as parallel if their determinant is a smaller share of the product of their squares.
const MIN_DETERMINANT: f32 = 1e-5;
/// Largest change of an integer scale in one round.
const MAX_CHANGE: f32 = 512.0;

/// Goes once over all sub-blocks of a block of H. The rows of H of a sub-block stay in the cache for all groups of rows.
#[inline(always)]
pub(super) fn descend<V: Vector>(v: V, block: FactorizedBlock<'_>, groups: &mut [Workspace]) {
    for first in (0..block.len).step_by(block.format.sub) {
        let rows = first..first + block.format.sub;
        let mut g = [[F32x16::default(); MAX_SUB]; TOGETHER];
        let e = groups.iter().map(|ws| &ws.e[..block.len]);
        all_dots(v, block.h, block.stride, (rows.clone(), 0), e, &mut g);
        for (ws, g) in groups.iter_mut().zip(&mut g) {
            let g = &mut g[..rows.len()];
            refit_scale(v, block, first, g, ws);
            refit_codes(v, block, first, g, ws);
        }
    }
}

/// Moves each code of the sub-block at column `first` to the best code, given all others. Without rounding the weight
/// would change by `g_j / H_jj`, where `g = H e` is given for the codes before.
#[inline(always)]
fn refit_codes<V: Vector>(v: V, block: FactorizedBlock<'_>, first: usize, g: &[F32x16], ws: &mut Workspace) {
    let sub = SubBlock::at(v, block.format, &ws.scales, first);
    let mut cost = v.load(&ws.cost.0);
    let mut change = [F32x16::default(); MAX_SUB];
    for at in (0..block.format.sub).step_by(TILE) {
        let mut t = [v.splat(0.0); TILE];
        for i in 0..TILE {
            t[i] = v.load(&g[at + i].0);
        }
        let mut g = dots(v, block.h, block.stride, (first + at, first), &change[..at], t);
        for i in 0..TILE {
            let j = first + at + i;
            let h = block.h[j * block.stride + j];
            let old = sub.values(v, v.load(&ws.q[j].0));
            let q = sub.codes(v, block.format, v.mul_add(g[i], v.splat(1.0 / h), old));
            let value = sub.values(v, q);
            let b = v.sub(old, value);
            v.store(q, &mut ws.q[j].0);
            v.store(v.sub(v.load(&ws.w[j].0), value), &mut ws.e[j].0);
            v.store(b, &mut change[at + i].0);
            let slope = v.mul_add(v.splat(h), b, v.add(g[i], g[i]));
            cost = v.mul_add(b, slope, cost);
            for k in i + 1..TILE {
                g[k] = v.mul_add(v.splat(block.h[(first + at + k) * block.stride + j]), b, g[k]);
            }
        }
    }
    v.store(cost, &mut ws.cost.0);
}

/// Moves the scale and the min of the sub-block at column `first` to better ones under J, given its codes. `g` is `H e`
/// and is kept up to date.
#[inline(always)]
fn refit_scale<V: Vector>(
    v: V,
    block: FactorizedBlock<'_>,
    first: usize,
    g: &mut [F32x16],
    ws: &mut Workspace,
) {
    let (scales, i) =
        (&mut ws.scales[first / block.format.block], first % block.format.block / block.format.sub);
    let q = &ws.q[first..first + block.format.sub];
    let mut hq = [[F32x16::default(); MAX_SUB]];
    all_dots(v, block.h, block.stride, (first..first + q.len(), first), [q], &mut hq);
    let hq = &hq[0][..q.len()];
    let mut ones = [0.0; MAX_SUB];
    if block.format.mins {
        for (j, ones) in ones.iter_mut().enumerate().take(block.format.sub) {
            *ones = sum(&block.h[(first + j) * block.stride + first..][..block.format.sub]);
        }
    }
    let form = Quadratic::of(v, block.format, q, g, hq, sum(&ones));
    let before = SubBlock::of(v, scales, i);
    match block.format.scales {
        Some(_) => form.refit_integers(v, block.format, scales, i),
        None if block.format.scale_is_f16 => form.refit_floats(v, block.format, scales),
        None => {}
    }
    let after = SubBlock::of(v, scales, i);
    let (a, b) = (v.sub(after.step, before.step), v.sub(after.offset, before.offset));
    v.store(v.add(v.load(&ws.cost.0), form.cost(v, a, b)), &mut ws.cost.0);
    for j in 0..block.format.sub {
        let value = after.values(v, v.load(&ws.q[first + j].0));
        v.store(v.sub(v.load(&ws.w[first + j].0), value), &mut ws.e[first + j].0);
        let reduced = v.sub(v.load(&g[j].0), v.mul(a, v.load(&hq[j].0)));
        v.store(v.mul_add(b, v.splat(ones[j]), reduced), &mut g[j].0);
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
    xx: V::F,
    xy: V::F,
    yy: V::F,
    xg: V::F,
    yg: V::F,
}

impl<V: Vector> Quadratic<V> {
    /// Returns the function for a sub-block with the codes `q`. `ones` is the sum of the sub-block's square of H.
    #[inline(always)]
    fn of(v: V, format: &Format, q: &[F32x16], g: &[F32x16], hq: &[F32x16], ones: f32) -> Self {
        let zero = v.splat(0.0);
        let mut form = Self { xx: zero, xy: zero, yy: v.splat(ones), xg: zero, yg: zero };
        for j in 0..format.sub {
            let (q, g, hq) = (v.load(&q[j].0), v.load(&g[j].0), v.load(&hq[j].0));
            form.xx = v.mul_add(q, hq, form.xx);
            form.xg = v.mul_add(q, g, form.xg);
            if format.mins {
                form.xy = v.add(form.xy, hq);
                form.yg = v.add(form.yg, g);
            }
        }
        form
    }

    /// Gives sub-block `i` the integer scale and min with the smallest J among the neighbours of the best real numbers.
    #[inline(always)]
    fn refit_integers(self, v: V, format: &Format, scales: &mut Scales, i: usize) {
        let (low, high) = format.scales.unwrap_or((1.0, 1.0));
        let (low, high) = (v.splat(low), v.splat(high));
        let (d, dmin) = (v.load(&scales.d.0), v.load(&scales.dmin.0));
        let (scale, min) = (v.load(&scales.scale[i].0), v.load(&scales.min[i].0));
        let (inv_d, inv_dmin) = (signed_inverse(v, d), signed_inverse(v, dmin));
        let ideal = v.add(scale, integer_steps(v, v.mul(self.best_a(v, format.mins, dmin), inv_d)));
        let (mut lowest, mut best, mut best_min) = (v.splat(0.0), scale, min);
        // The last candidate keeps the scale, because a better min alone may still lower J.
        for step in [Some(0.0), Some(-1.0), Some(1.0), None] {
            let new = match step {
                Some(step) => v.min(v.max(v.add(ideal, v.splat(step)), low), high),
                None => scale,
            };
            let a = v.mul(v.sub(new, scale), d);
            let (mut new_min, mut b) = (min, v.splat(0.0));
            if format.mins {
                let ideal_min = v.add(min, integer_steps(v, v.mul(self.best_b(v, a), inv_dmin)));
                new_min = v.min(v.max(ideal_min, v.splat(0.0)), high);
                b = v.mul(v.sub(new_min, min), dmin);
            }
            let cost = self.cost(v, a, b);
            let better = v.lt(cost, lowest);
            lowest = v.select(better, cost, lowest);
            best = v.select(better, new, best);
            best_min = v.select(better, new_min, best_min);
        }
        v.store(best, &mut scales.scale[i].0);
        v.store(best_min, &mut scales.min[i].0);
    }

    /// Gives a block with one f16 scale and, with `MINS`, one f16 offset the best values, rounded to f16.
    #[inline(always)]
    fn refit_floats(self, v: V, format: &Format, scales: &mut Scales) {
        let (d, dmin) = (v.load(&scales.d.0), v.load(&scales.dmin.0));
        let new = finite_f16(v, v.add(d, self.best_a(v, format.mins, v.splat(1.0))));
        let a = v.sub(new, d);
        let new_min = if format.mins { finite_f16(v, v.add(dmin, self.best_b(v, a))) } else { dmin };
        let b = v.sub(new_min, dmin);
        let better = v.lt(self.cost(v, a, b), v.splat(0.0));
        v.store(v.select(better, new, d), &mut scales.d.0);
        v.store(v.select(better, new_min, dmin), &mut scales.dmin.0);
    }

    /// Returns the scale step a that minimizes J. If the format has mins and `dmin > 0`, b is eliminated first: b takes its
    /// optimal value for each a. Otherwise b is 0.
    #[inline(always)]
    fn best_a(self, v: V, mins: bool, dmin: V::F) -> V::F {
        let zero = v.splat(0.0);
        let alone = v.select(v.lt(zero, self.xx), v.div(self.xg, self.xx), zero);
        if !mins {
            return alone;
        }
        let product = v.mul(self.xx, self.yy);
        let both = v.sub(product, v.mul(self.xy, self.xy));
        let joint = v.div(v.sub(v.mul(self.xg, self.yy), v.mul(self.xy, self.yg)), both);
        let free = v.mask_and(v.lt(zero, dmin), v.lt(v.mul(v.splat(MIN_DETERMINANT), product), both));
        v.select(free, joint, alone)
    }

    /// Returns the b that minimizes J for a given a.
    #[inline(always)]
    fn best_b(self, v: V, a: V::F) -> V::F {
        let b = v.div(v.sub(v.mul(a, self.xy), self.yg), self.yy);
        v.select(v.lt(v.splat(0.0), self.yy), b, v.splat(0.0))
    }

    /// Returns the change of J.
    #[inline(always)]
    fn cost(self, v: V, a: V::F, b: V::F) -> V::F {
        let twice = |value| v.add(value, value);
        let first = v.mul(a, v.sub(v.mul(a, self.xx), twice(v.mul(b, self.xy))));
        let square = v.add(first, v.mul(b, v.mul(b, self.yy)));
        v.sub(square, twice(v.sub(v.mul(a, self.xg), v.mul(b, self.yg))))
    }
}

/// Returns the nearest number of integer steps, at most [`MAX_CHANGE`].
#[inline(always)]
fn integer_steps<V: Vector>(v: V, by: V::F) -> V::F {
    v.round_ties_even(v.min(v.max(by, v.splat(-MAX_CHANGE)), v.splat(MAX_CHANGE)))
}
