//! Chooses the codes and scales of groups of [`ROWS`](super::vector::ROWS) rows under one diagonal block of H.
//!
//! With the residual `e = w - v` the block costs `J = e^T H e`. Its factorization (see [`crate::linalg::udu`]) gives
//! `J = sum_p D_p (e_p + sum_{k<p} e_k A_kp)^2`. So once the columns before position p are fixed, the best target of the
//! column at position p is `w_p + sum_{k<p} (w_k - v_k) A_kp`: the residual of each column is diffused into the later
//! columns. This is the update of GPTQ (Frantar et al. 2022) in the form of LDLQ (Chee et al. 2023), which needs no
//! inverse of H.
//!
//! Every sum is computed where it is needed, as a dot product of a row of A or H with the residuals so far. Pushing each
//! residual into all later columns would compute the same sums, but it would store them again and again.

use std::ops::Range;

use super::SolverOptions;
use super::beam::{self, FinalColumns, MAX_WIDTH, Tile};
use super::coordinate_descent::descend;
use super::scales::search_block_scales;
use super::state::sub_blocks;
use super::state::{FactorizedBlock, GROUP, NoiseSource, SUB_BLOCKS, StoredSubBlock, SubBlock};
use super::vector::{F32x16, TILE, TOGETHER, all_dots, dots, rows_from_vectors, vectors_from_rows};
use super::workspace::Workspace;
use crate::simd::Vector;

/// Number of rows of A that are multiplied by the residuals of all groups of rows before the next ones: they stay in the cache.
const STRIP: usize = 32;

/// Quantizes `ws.rows` of each group of rows. Leaves the codes in `ws.rows` and `ws.q`, the scales in `ws.scales` and J of each
/// row in `ws.cost`.
#[inline(always)]
pub(super) fn solve<V: Vector>(
    v: V,
    block: FactorizedBlock<'_>,
    options: &SolverOptions,
    noise: NoiseSource<'_>,
    groups: &mut [Workspace],
) {
    let has_beam = options.feedback && options.beam_width > 1 && beam::supports(block.format);
    for (number, ws) in groups.iter_mut().enumerate() {
        vectors_from_rows(v, &ws.rows, &mut ws.w);
        if has_beam {
            noise(number, &mut ws.noise);
        }
        ws.cost = F32x16::default();
        ws.beam.reset();
    }
    for start in (0..block.len).step_by(GROUP) {
        let columns = start..(start + GROUP).min(block.len);
        diffuse(v, block, options.feedback, columns.clone(), groups);
        for ws in groups.iter_mut() {
            search_scales(v, block, columns.clone(), ws);
            let subs = sub_blocks(v, block.format, &ws.scales, &columns);
            match options.beam_width {
                2 if has_beam => search_beam::<V, 2>(v, block, columns.clone(), &subs, ws),
                4 if has_beam => search_beam::<V, 4>(v, block, columns.clone(), &subs, ws),
                MAX_WIDTH if has_beam => search_beam::<V, MAX_WIDTH>(v, block, columns.clone(), &subs, ws),
                _ => quantize_group(v, block, options.feedback, columns.clone(), &subs, ws),
            }
        }
    }
    if !options.feedback {
        groups.iter_mut().for_each(|ws| compute_cost(v, block, ws));
    }
    for _ in 0..options.descent_rounds {
        descend(v, block, groups);
    }
    groups.iter_mut().for_each(|ws| rows_from_vectors(v, &ws.q, &mut ws.rows));
}

/// Computes the targets that the groups of columns before leave to a group of columns, for all groups of rows.
#[inline(always)]
fn diffuse<V: Vector>(
    v: V,
    block: FactorizedBlock<'_>,
    feedback: bool,
    columns: Range<usize>,
    groups: &mut [Workspace],
) {
    for ws in groups.iter_mut() {
        ws.targets[columns.clone()].copy_from_slice(&ws.w[columns.clone()]);
    }
    if !feedback || columns.start == 0 {
        return;
    }
    for start in columns.clone().step_by(STRIP) {
        let strip = start..(start + STRIP).min(columns.end);
        let mut sums = [[F32x16::default(); STRIP]; TOGETHER];
        let fixed = groups.iter().map(|ws| &ws.e_by_position[..columns.start]);
        all_dots(v, block.a, block.stride, (strip.clone(), 0), fixed, &mut sums);
        for (ws, sums) in groups.iter_mut().zip(&sums) {
            for (p, sum) in strip.clone().zip(sums) {
                let target = &mut ws.targets[block.order[p] as usize].0;
                v.store(v.add(v.load(target), v.load(&sum.0)), target);
            }
        }
    }
}

/// Searches the scales of a group of columns for its targets.
#[inline(always)]
fn search_scales<V: Vector>(v: V, block: FactorizedBlock<'_>, group: Range<usize>, ws: &mut Workspace) {
    let Workspace { targets, scales, group_rows, blocks, .. } = ws;
    let to = &mut scales[group.start / block.format.block..group.end / block.format.block];
    let importance = &block.importance[group.clone()];
    search_block_scales(v, block.format, &targets[group], importance, group_rows, blocks, to);
}

/// Fixes the columns of a group one after another, each at the code nearest to its target.
#[inline(always)]
fn quantize_group<V: Vector>(
    v: V,
    block: FactorizedBlock<'_>,
    feedback: bool,
    group: Range<usize>,
    subs: &[StoredSubBlock; SUB_BLOCKS],
    ws: &mut Workspace,
) {
    let mut cost = v.load(&ws.cost.0);
    for p in group.clone().step_by(TILE) {
        let mut t = [v.splat(0.0); TILE];
        for i in 0..TILE {
            t[i] = v.load(&ws.targets[block.order[p + i] as usize].0);
        }
        if feedback {
            t = dots(v, block.a, block.stride, (p, group.start), &ws.e_by_position[group.start..p], t);
        }
        for i in 0..TILE {
            let column = block.order[p + i] as usize;
            let sub = SubBlock::load(v, &subs[(column - group.start) / block.format.sub]);
            let q = sub.codes(v, block.format, t[i]);
            let value = sub.values(v, q);
            let e = v.sub(v.load(&ws.w[column].0), value);
            v.store(q, &mut ws.q[column].0);
            v.store(e, &mut ws.e[column].0);
            v.store(e, &mut ws.e_by_position[p + i].0);
            if feedback {
                let u = v.sub(t[i], value);
                cost = v.mul_add(v.mul(u, v.splat(block.d[p + i])), u, cost);
                for k in i + 1..TILE {
                    t[k] = v.mul_add(v.splat(block.a[(p + k) * block.stride + p + i]), e, t[k]);
                }
            }
        }
    }
    v.store(cost, &mut ws.cost.0);
}

/// Fixes the columns of a group as the best candidate of a beam of `M` has them.
#[inline(always)]
fn search_beam<V: Vector, const M: usize>(
    v: V,
    block: FactorizedBlock<'_>,
    group: Range<usize>,
    subs: &[StoredSubBlock; SUB_BLOCKS],
    ws: &mut Workspace,
) {
    let Workspace { w, targets, noise, q, e, e_by_position, beam, .. } = ws;
    let mut to = FinalColumns { q, e, e_by_position };
    let tile = |at| Tile { at, group: group.start, subs, w, targets, noise };
    for at in group.clone().step_by(TILE) {
        beam.advance::<V, M>(v, block, &tile(at), &mut to);
    }
    beam.finish::<V, M>(v, block, group.start, &mut to);
    ws.cost = beam.cost();
}

/// Computes `e^T H e` of each row.
#[inline(always)]
fn compute_cost<V: Vector>(v: V, block: FactorizedBlock<'_>, ws: &mut Workspace) {
    let mut sum = v.splat(0.0);
    for j in (0..block.len).step_by(TILE) {
        let g = dots(v, block.h, block.stride, (j, 0), &ws.e[..block.len], [v.splat(0.0); TILE]);
        for i in 0..TILE {
            sum = v.mul_add(v.load(&ws.e[j + i].0), g[i], sum);
        }
    }
    v.store(sum, &mut ws.cost.0);
}
