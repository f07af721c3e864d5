//! Codes and scales of [`ROWS`] rows under one diagonal block of H.
//!
//! With `e = w - v` the block costs `J = e^T H e`. Its factorisation (see [`crate::linalg::ldl`]) makes that
//! `sum_j D_j (e_j + sum_{k<j} e_k A_kj)^2`, so the best target for column j, once the columns before it are
//! settled, is `w_j + sum_{k<j} (w_k - v_k) A_kj`: the residual of each column is diffused into those to come. This
//! is GPTQ's update (Frantar et al. 2022) in the form of LDLQ (Chee et al. 2023), which needs no inverse.
//!
//! Then coordinate descent on J: each code given all others, and each sub-block's scale and min given the codes.

use super::grid::{Format, Grid, search_grid};
use super::lanes::{Lane, ROWS, ZERO, add_matrix_product, add_product, add_scaled, map, zip};
use crate::quant::search::{F16_MAX, TINY, least, most, nearest, round16};

/// Columns that are settled one by one before the others hear of them.
const TILE: usize = 32;

/// One diagonal block of H, damped, with its factorisation. All row-major with rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Moments<'a> {
    pub len: usize,
    pub stride: usize,
    pub h: &'a [f32],
    /// Strictly upper: `A_kj` in row k, column j.
    pub a: &'a [f32],
    /// Importance of the columns for the search of scales.
    pub importance: &'a [f32],
}

/// What is done beyond the search of scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Steps {
    pub feedback: bool,
    /// Rounds of descent: on the codes, from the second one on after one on the scales.
    pub polish: usize,
}

/// Buffers of one worker: a block of H wide.
#[derive(Default)]
pub(super) struct Work {
    /// The weights, and what is made of them: targets, values, codes, `w - v`, `H (w - v)`.
    pub w: Vec<Lane>,
    t: Vec<Lane>,
    v: Vec<Lane>,
    pub q: Vec<Lane>,
    e: Vec<Lane>,
    g: Vec<Lane>,
    pub grids: Vec<Grid>,
    delta: Vec<Lane>,
    rows: Vec<f32>,
    blocks: Vec<u8>,
}

impl Work {
    pub fn resize<F: Format>(&mut self, len: usize) {
        for lanes in [&mut self.w, &mut self.t, &mut self.v, &mut self.q, &mut self.e, &mut self.g] {
            lanes.resize(len, ZERO);
        }
        self.delta.resize(TILE, ZERO);
        self.grids.resize(len / F::BLOCK, Grid::default());
    }

    /// Column j gets the values `v`; returns by how much `w - v` grows.
    #[inline(always)]
    fn change(&mut self, j: usize, v: Lane) -> Lane {
        let back = zip(&self.v[j], &v, |old, new| old - new);
        self.v[j] = v;
        self.e[j] = zip(&self.e[j], &back, |e, b| e + b);
        back
    }
}

/// `1/s` of either sign, or 0 where `s` is no usable scale.
#[inline(always)]
fn inverse(s: f32) -> f32 {
    if s.abs() > TINY { 1.0 / s } else { 0.0 }
}

/// A sub-block's scale in every lane.
struct Sub {
    step: Lane,
    offset: Lane,
    inverse: Lane,
}

impl Sub {
    #[inline(always)]
    fn at<F: Format>(grids: &[Grid], column: usize) -> Self {
        let (grid, i) = (&grids[column / F::BLOCK], column % F::BLOCK / F::SUB);
        let step = zip(&grid.d, &grid.scale[i], |d, s| d * s);
        let offset = zip(&grid.dmin, &grid.min[i], |d, m| d * m);
        Self { step, offset, inverse: map(&step, inverse) }
    }

    /// Nearest codes to `t`.
    #[inline(always)]
    fn codes<F: Format>(&self, t: &Lane) -> Lane {
        let mut q = ZERO;
        for l in 0..ROWS {
            q[l] = nearest(least(most((t[l] + self.offset[l]) * self.inverse[l], F::CODES.0), F::CODES.1));
        }
        q
    }

    #[inline(always)]
    fn values(&self, q: &Lane) -> Lane {
        let mut v = ZERO;
        for l in 0..ROWS {
            v[l] = self.step[l] * q[l] - self.offset[l];
        }
        v
    }
}

/// Quantises `work.w`; codes and grids are left in `work`. `noise`: what is added to each target, in steps, before
/// it is rounded. Returns J of each row.
#[inline(always)]
pub(super) fn solve<F: Format>(
    m: Moments<'_>,
    steps: Steps,
    noise: Option<&[Lane]>,
    work: &mut Work,
) -> Lane {
    propose::<F>(m, steps.feedback, noise, work);
    gradient(m, work);
    for round in 0..steps.polish {
        if round > 0 {
            settle_scales::<F>(m, work);
        }
        settle_codes::<F>(m, work);
    }
    cost(m, work)
}

/// One trajectory: scales and codes, block after block and column after column.
#[inline(always)]
fn propose<F: Format>(m: Moments<'_>, feedback: bool, noise: Option<&[Lane]>, work: &mut Work) {
    work.t.copy_from_slice(&work.w);
    for (i, start) in (0..m.len).step_by(F::BLOCK).enumerate() {
        let end = start + F::BLOCK;
        if feedback {
            add_matrix_product(m.a, m.stride, (0, start), &work.e[..start], &mut work.t[start..end]);
        }
        let h = &m.importance[start..end];
        work.grids[i] = search_grid::<F>(&work.t[start..end], h, &mut work.rows, &mut work.blocks);
        for from in (start..end).step_by(TILE) {
            let to = from + TILE;
            for sub in (from..to).step_by(F::SUB) {
                propose_sub::<F>(m, feedback, noise, (sub, to), work);
            }
            if feedback && to < end {
                let (e, t) = (&work.e[from..to], &mut work.t[to..end]);
                add_matrix_product(m.a, m.stride, (from, to), e, t);
            }
        }
    }
}

/// The columns of the sub-block at `from`; the targets up to `to` hear of their residuals.
#[inline(always)]
fn propose_sub<F: Format>(
    m: Moments<'_>,
    feedback: bool,
    noise: Option<&[Lane]>,
    (from, to): (usize, usize),
    work: &mut Work,
) {
    let sub = Sub::at::<F>(&work.grids, from);
    for j in from..from + F::SUB {
        let mut t = work.t[j];
        if let Some(noise) = noise {
            add_product(&mut t, &noise[j], &sub.step);
        }
        let q = sub.codes::<F>(&t);
        let v = sub.values(&q);
        let e = zip(&work.w[j], &v, |w, v| w - v);
        (work.q[j], work.v[j], work.e[j]) = (q, v, e);
        if feedback {
            let a = &m.a[j * m.stride + j + 1..j * m.stride + to];
            for (t, &a) in work.t[j + 1..to].iter_mut().zip(a) {
                add_scaled(t, a, &e);
            }
        }
    }
}

/// `g = H e`
#[inline(always)]
fn gradient(m: Moments<'_>, work: &mut Work) {
    work.g.fill(ZERO);
    add_matrix_product(m.h, m.stride, (0, 0), &work.e[..m.len], &mut work.g[..m.len]);
}

#[inline(always)]
fn cost(m: Moments<'_>, work: &Work) -> Lane {
    let mut sum = ZERO;
    for j in 0..m.len {
        add_product(&mut sum, &work.e[j], &work.g[j]);
    }
    sum
}

/// Every code in turn to the best one given the others: v would change by `g_j / H_jj`.
#[inline(always)]
fn settle_codes<F: Format>(m: Moments<'_>, work: &mut Work) {
    for from in (0..m.len).step_by(TILE) {
        for sub in (from..from + TILE).step_by(F::SUB) {
            settle_sub::<F>(m, from, sub, work);
        }
        let (before, rest) = work.g.split_at_mut(from);
        let delta = &work.delta[..TILE];
        add_matrix_product(m.h, m.stride, (from, 0), delta, before);
        add_matrix_product(m.h, m.stride, (from, from + TILE), delta, &mut rest[TILE..m.len - from]);
    }
}

/// The codes of the sub-block at `first`; the gradient within the tile at `from` follows.
#[inline(always)]
fn settle_sub<F: Format>(m: Moments<'_>, from: usize, first: usize, work: &mut Work) {
    let sub = Sub::at::<F>(&work.grids, first);
    for j in first..first + F::SUB {
        let h = &m.h[j * m.stride..][..m.len];
        let inverse = 1.0 / h[j];
        let target = zip(&work.v[j], &work.g[j], |v, g| g.mul_add(inverse, v));
        let q = sub.codes::<F>(&target);
        work.q[j] = q;
        let back = work.change(j, sub.values(&q));
        work.delta[j - from] = back;
        for (g, &h) in work.g[from..from + TILE].iter_mut().zip(&h[from..from + TILE]) {
            add_scaled(g, h, &back);
        }
    }
}

/// Every sub-block's scale and min, given the codes, to better ones under J.
#[inline(always)]
fn settle_scales<F: Format>(m: Moments<'_>, work: &mut Work) {
    for from in (0..m.len).step_by(F::SUB) {
        let form = Quadratic::of::<F>(m, from, work);
        let (grid, i) = (&mut work.grids[from / F::BLOCK], from % F::BLOCK / F::SUB);
        match F::SCALES {
            Some(_) => form.settle_integers::<F>(grid, i),
            None => form.settle_floats::<F>(grid),
        }
        let sub = Sub::at::<F>(&work.grids, from);
        for j in from..from + F::SUB {
            let v = sub.values(&work.q[j]);
            work.delta[j - from] = work.change(j, v);
        }
        add_matrix_product(m.h, m.stride, (from, 0), &work.delta[..F::SUB], &mut work.g[..m.len]);
    }
}

/// J as a function of how two vectors x and y, with which v grows by `a x - b y`, are scaled:
/// `a^2 xx - 2 a b xy + b^2 yy - 2 (a xg - b yg)`, beyond what it is.
struct Quadratic {
    xx: Lane,
    xy: Lane,
    yy: Lane,
    xg: Lane,
    yg: Lane,
}

impl Quadratic {
    /// Of the sub-block at `from`: x its codes, y all ones.
    #[inline(always)]
    fn of<F: Format>(m: Moments<'_>, from: usize, work: &Work) -> Self {
        let (q, g) = (&work.q[from..from + F::SUB], &work.g[from..from + F::SUB]);
        let mut form = Self { xx: ZERO, xy: ZERO, yy: ZERO, xg: ZERO, yg: ZERO };
        let mut hq = [ZERO; TILE];
        add_matrix_product(m.h, m.stride, (from, from), q, &mut hq[..F::SUB]);
        let mut ones = 0.0;
        for j in 0..F::SUB {
            add_product(&mut form.xx, &q[j], &hq[j]);
            add_product(&mut form.xg, &q[j], &g[j]);
            if F::MINS {
                form.xy = zip(&form.xy, &hq[j], |a, b| a + b);
                form.yg = zip(&form.yg, &g[j], |a, b| a + b);
                for k in 0..F::SUB {
                    ones += m.h[(from + j) * m.stride + from + k];
                }
            }
        }
        form.yy = [ones; ROWS];
        form
    }

    /// Sub-block `i` of `grid` gets the integers with the least J among the neighbours of the best numbers.
    #[inline(always)]
    fn settle_integers<F: Format>(&self, grid: &mut Grid, i: usize) {
        let (low, high) = F::SCALES.unwrap_or((1.0, 1.0));
        for l in 0..ROWS {
            let (d, dmin, scale, min) = (grid.d[l], grid.dmin[l], grid.scale[i][l], grid.min[i][l]);
            let (inv_d, inv_dmin) = (inverse(d), inverse(dmin));
            let ideal = scale + nearest(self.best_a(l, F::MINS && dmin > 0.0) * inv_d);
            let mut least_cost = 0.0;
            // The last one keeps the scale: the min alone may still gain.
            for wanted in [ideal, ideal - 1.0, ideal + 1.0, scale] {
                let new = least(most(wanted, low), high);
                let a = (new - scale) * d;
                let new_min = match F::MINS {
                    true => least(most(min + nearest(self.best_b(l, a) * inv_dmin), 0.0), high),
                    false => min,
                };
                let cost = self.cost(l, a, (new_min - min) * dmin);
                if cost < least_cost {
                    (least_cost, grid.scale[i][l], grid.min[i][l]) = (cost, new, new_min);
                }
            }
        }
    }

    /// The same for a block of one f16 scale and, with `MINS`, one f16 offset.
    #[inline(always)]
    fn settle_floats<F: Format>(&self, grid: &mut Grid) {
        let half = |v: f32| round16(least(most(v, -F16_MAX), F16_MAX));
        for l in 0..ROWS {
            let (d, dmin) = (grid.d[l], grid.dmin[l]);
            let new = half(d + self.best_a(l, F::MINS));
            let new_min = if F::MINS { half(dmin + self.best_b(l, new - d)) } else { dmin };
            if self.cost(l, new - d, new_min - dmin) < 0.0 {
                (grid.d[l], grid.dmin[l]) = (new, new_min);
            }
        }
    }

    /// The best a, b being the best one for it where it is `free`, else 0.
    #[inline(always)]
    fn best_a(&self, l: usize, free: bool) -> f32 {
        let both = self.xx[l] * self.yy[l] - self.xy[l] * self.xy[l];
        if free && both > 1e-5 * (self.xx[l] * self.yy[l]) {
            return (self.xg[l] * self.yy[l] - self.xy[l] * self.yg[l]) / both;
        }
        if self.xx[l] > 0.0 { self.xg[l] / self.xx[l] } else { 0.0 }
    }

    /// The best b for an a.
    #[inline(always)]
    fn best_b(&self, l: usize, a: f32) -> f32 {
        if self.yy[l] > 0.0 { (a * self.xy[l] - self.yg[l]) / self.yy[l] } else { 0.0 }
    }

    #[inline(always)]
    fn cost(&self, l: usize, a: f32, b: f32) -> f32 {
        let square = a * (a * self.xx[l] - 2.0 * (b * self.xy[l])) + b * (b * self.yy[l]);
        square - 2.0 * (a * self.xg[l] - b * self.yg[l])
    }
}
