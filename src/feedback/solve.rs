//! Codes and scales of [`ROWS`] rows under one diagonal block of H.
//!
//! With `e = w - v` the block costs `J = e^T H e`. Its factorisation (see [`crate::linalg::ldl`]) makes that
//! `sum_p D_p (e_p + sum_{k<p} e_k A_kp)^2`, so the best target for the column at position p, once those before it are
//! settled, is `w_p + sum_{k<p} (w_k - v_k) A_kp`: the residual of each column is diffused into those to come. This
//! is GPTQ's update (Frantar et al. 2022) in the form of LDLQ (Chee et al. 2023), which needs no inverse.
//!
//! All sums are pulled when they are needed (a dot product of a row of A or H with the residuals so far) rather than
//! pushed into the columns to come: sums stay in registers and nothing but residuals is stored.

use std::ops::Range;

use super::grid::{Format, Grid, search_grids};
use super::lanes::{Lane, Lanes, ROWS, TILE, dots, lanes_of, rows_of};
use super::polish::polish;
use super::survivors::{self, Survivors};
use crate::quant::search::TINY;

/// Columns whose order is free and whose scales are searched together: a super-block, or as many smaller blocks.
pub(super) const GROUP: usize = 256;
/// Sub-blocks of a group at most.
pub(super) const SUBS: usize = GROUP / 16;

/// One diagonal block of H, damped, with its factorisation. All row-major with rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Moments<'a> {
    pub len: usize,
    pub stride: usize,
    pub h: &'a [f32],
    /// Strictly lower, by position: `A_kp` in row p, column k.
    pub a: &'a [f32],
    /// By position.
    pub d: &'a [f32],
    /// The column at each position; positions of a [`GROUP`] hold its columns.
    pub order: &'a [u32],
    /// Importance of the columns for the search of scales.
    pub importance: &'a [f32],
}

/// What is done beyond the search of scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Steps {
    pub feedback: bool,
    /// Trajectories that are kept, at least one.
    pub proposals: usize,
    /// Noise on a single trajectory.
    pub unselected: bool,
    /// Rounds of descent.
    pub polish: usize,
}

/// Fills in the noise, in steps, by column.
pub(super) type Draw<'a> = &'a mut dyn FnMut(&mut [Lane]);

/// Buffers of one worker: a block of H wide.
#[derive(Default)]
pub(super) struct Work {
    /// [`ROWS`] rows of the block, one after another: the weights, and when they are quantised their codes.
    pub rows: Vec<f32>,
    pub grids: Vec<Grid>,
    pub w: Vec<Lane>,
    pub q: Vec<Lane>,
    /// `w - v`, by column and by position.
    pub e: Vec<Lane>,
    by_position: Vec<Lane>,
    /// J of each row.
    pub cost: Lane,
    survivors: Survivors,
    targets: Vec<Lane>,
    noise: Vec<Lane>,
    /// For the search of scales: rows of a group, and its blocks.
    group: Vec<f32>,
    blocks: Vec<u8>,
}

impl Work {
    pub fn resize<F: Format>(&mut self, len: usize) {
        let lanes = [
            &mut self.w,
            &mut self.q,
            &mut self.e,
            &mut self.by_position,
            &mut self.targets,
            &mut self.noise,
        ];
        for lanes in lanes {
            lanes.resize(len, Lane::default());
        }
        self.rows.resize(ROWS * len, 0.0);
        self.grids.resize(len / F::BLOCK, Grid::default());
    }
}

/// A sub-block's scale: a weight is `step * q - offset`.
#[derive(Clone, Copy)]
pub(super) struct Sub<L: Lanes> {
    pub step: L::F,
    pub offset: L::F,
    pub inverse: L::F,
}

/// [`Sub`] in memory.
#[derive(Clone, Copy, Default)]
pub(super) struct StoredSub {
    step: Lane,
    offset: Lane,
    inverse: Lane,
}

/// `1/s` of either sign, or 0 where `s` is no usable scale.
#[inline(always)]
pub(super) fn inverse<L: Lanes>(l: L, s: L::F) -> L::F {
    let size = l.most(s, l.sub(l.splat(0.0), s));
    l.pick(l.less(l.splat(TINY), size), l.div(l.splat(1.0), s), l.splat(0.0))
}

impl<L: Lanes> Sub<L> {
    /// Of sub-block `i` of a block.
    #[inline(always)]
    pub fn of(l: L, grid: &Grid, i: usize) -> Self {
        let step = l.mul(l.load(&grid.d), l.load(&grid.scale[i]));
        let offset = l.mul(l.load(&grid.dmin), l.load(&grid.min[i]));
        Self { step, offset, inverse: inverse(l, step) }
    }

    /// Of the sub-block that a column belongs to.
    #[inline(always)]
    pub fn at<F: Format>(l: L, grids: &[Grid], column: usize) -> Self {
        Self::of(l, &grids[column / F::BLOCK], column % F::BLOCK / F::SUB)
    }

    #[inline(always)]
    pub fn load(l: L, from: &StoredSub) -> Self {
        Self { step: l.load(&from.step), offset: l.load(&from.offset), inverse: l.load(&from.inverse) }
    }

    #[inline(always)]
    fn store(self, l: L, to: &mut StoredSub) {
        l.store(self.step, &mut to.step);
        l.store(self.offset, &mut to.offset);
        l.store(self.inverse, &mut to.inverse);
    }

    /// Nearest codes to `t`.
    #[inline(always)]
    pub fn codes<F: Format>(self, l: L, t: L::F) -> L::F {
        let q = l.mul(l.add(t, self.offset), self.inverse);
        l.nearest(l.least(l.most(q, l.splat(F::CODES.0)), l.splat(F::CODES.1)))
    }

    #[inline(always)]
    pub fn values(self, l: L, q: L::F) -> L::F {
        l.sub(l.mul(self.step, q), self.offset)
    }
}

/// Quantises `work.rows`; codes, grids and J of each row are left in `work`.
#[inline(always)]
pub(super) fn solve<F: Format, L: Lanes>(
    l: L,
    m: Moments<'_>,
    steps: Steps,
    draw: Draw<'_>,
    work: &mut Work,
) {
    lanes_of(l, &work.rows, &mut work.w);
    if steps.proposals > 1 || steps.unselected {
        draw(&mut work.noise);
    }
    work.cost = Lane::default();
    work.survivors.reset();
    let selected = steps.feedback && steps.proposals > 1 && survivors::fit::<F>();
    for start in (0..m.len).step_by(GROUP) {
        let of = start..(start + GROUP).min(m.len);
        search_scales::<F, L>(l, m, steps.feedback, of.clone(), work);
        let mut subs = [StoredSub::default(); SUBS];
        for (i, sub) in subs.iter_mut().take(of.len() / F::SUB).enumerate() {
            Sub::at::<F>(l, &work.grids, start + i * F::SUB).store(l, sub);
        }
        match steps.proposals {
            2 if selected => select::<F, L, 2>(l, m, of, &subs, work),
            3..=4 if selected => select::<F, L, 4>(l, m, of, &subs, work),
            5.. if selected => select::<F, L, { survivors::MOST }>(l, m, of, &subs, work),
            _ => settle::<F, L>(l, m, steps, of, &subs, work),
        }
    }
    if !steps.feedback {
        cost(l, m, work);
    }
    for _ in 0..steps.polish {
        polish::<F, L>(l, m, work);
    }
    rows_of(l, &work.q, &mut work.rows);
}

/// Scales of the columns for what the groups before make of them.
#[inline(always)]
fn search_scales<F: Format, L: Lanes>(
    l: L,
    m: Moments<'_>,
    feedback: bool,
    of: Range<usize>,
    work: &mut Work,
) {
    let Work { w, targets, by_position, grids, group, blocks, .. } = work;
    let settled = if feedback { &by_position[..of.start] } else { &[] };
    if settled.is_empty() {
        targets[of.clone()].copy_from_slice(&w[of.clone()]);
    } else {
        for p in of.clone().step_by(TILE) {
            let t = dots(l, m.a, m.stride, (p, 0), settled, [l.splat(0.0); TILE]);
            for (i, t) in t.into_iter().enumerate() {
                let column = m.order[p + i] as usize;
                l.store(l.add(l.load(&w[column]), t), &mut targets[column]);
            }
        }
    }
    let to = &mut grids[of.start / F::BLOCK..of.end / F::BLOCK];
    search_grids::<F, L>(l, &targets[of.clone()], &m.importance[of], group, blocks, to);
}

/// The codes of a group of columns one after the other, nearest to their targets.
#[inline(always)]
fn settle<F: Format, L: Lanes>(
    l: L,
    m: Moments<'_>,
    steps: Steps,
    of: Range<usize>,
    subs: &[StoredSub; SUBS],
    work: &mut Work,
) {
    let mut cost = l.load(&work.cost);
    for p in of.clone().step_by(TILE) {
        let mut t = [l.splat(0.0); TILE];
        for i in 0..TILE {
            t[i] = l.load(&work.w[m.order[p + i] as usize]);
        }
        if steps.feedback {
            t = dots(l, m.a, m.stride, (p, 0), &work.by_position[..p], t);
        }
        for i in 0..TILE {
            let column = m.order[p + i] as usize;
            let sub = Sub::load(l, &subs[(column - of.start) / F::SUB]);
            let mut wanted = t[i];
            if steps.unselected {
                wanted = l.mul_add(l.load(&work.noise[column]), sub.step, wanted);
            }
            let q = sub.codes::<F>(l, wanted);
            let v = sub.values(l, q);
            let e = l.sub(l.load(&work.w[column]), v);
            l.store(q, &mut work.q[column]);
            l.store(e, &mut work.e[column]);
            l.store(e, &mut work.by_position[p + i]);
            if steps.feedback {
                let u = l.sub(t[i], v);
                cost = l.mul_add(l.mul(u, l.splat(m.d[p + i])), u, cost);
                for k in i + 1..TILE {
                    t[k] = l.mul_add(l.splat(m.a[(p + k) * m.stride + p + i]), e, t[k]);
                }
            }
        }
    }
    l.store(cost, &mut work.cost);
}

/// The codes of a group of columns, the best of several trajectories.
#[inline(always)]
fn select<F: Format, L: Lanes, const M: usize>(
    l: L,
    m: Moments<'_>,
    of: Range<usize>,
    subs: &[StoredSub; SUBS],
    work: &mut Work,
) {
    let Work { w, noise, q, e, by_position, survivors, .. } = work;
    let mut to = survivors::Settled { q, e, by_position };
    let tile = |at| survivors::Tile { at, group: of.start, subs, w, noise };
    for at in of.clone().step_by(TILE) {
        survivors.advance::<F, L, M>(l, m, &tile(at), &mut to);
    }
    survivors.finish::<L, M>(l, m, of.start, &mut to);
    work.cost = survivors.cost();
}

/// `e^T H e`
#[inline(always)]
fn cost<L: Lanes>(l: L, m: Moments<'_>, work: &mut Work) {
    let mut sum = l.splat(0.0);
    for j in (0..m.len).step_by(TILE) {
        let g = dots(l, m.h, m.stride, (j, 0), &work.e[..m.len], [l.splat(0.0); TILE]);
        for i in 0..TILE {
            sum = l.mul_add(l.load(&work.e[j + i]), g[i], sum);
        }
    }
    l.store(sum, &mut work.cost);
}
