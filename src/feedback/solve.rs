//! Chooses the codes and scales of [`ROWS`](super::vector::ROWS) rows under one diagonal block of H.
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
use super::vector::{F32x16, TILE, all_dots, dots, rows_from_vectors, vectors_from_rows};
use super::workspace::Workspace;
use crate::simd::Vector;

/// Quantizes `ws.rows`. Leaves the codes in `ws.rows` and `ws.q`, the scales in `ws.scales` and J of each row in
/// `ws.cost`.
#[inline(always)]
pub(super) fn solve<V: Vector>(
    v: V,
    block: FactorizedBlock<'_>,
    options: &SolverOptions,
    noise: NoiseSource<'_>,
    ws: &mut Workspace,
) {
    vectors_from_rows(v, &ws.rows, &mut ws.w);
    let has_beam = options.feedback && options.beam_width > 1 && beam::supports(block.format);
    if has_beam {
        noise(&mut ws.noise);
    }
    ws.cost = F32x16::default();
    ws.beam.reset();
    for start in (0..block.len).step_by(GROUP) {
        let group = start..(start + GROUP).min(block.len);
        search_scales(v, block, options.feedback, group.clone(), ws);
        let subs = sub_blocks(v, block.format, &ws.scales, &group);
        match options.beam_width {
            2 if has_beam => search_beam::<V, 2>(v, block, group, &subs, ws),
            4 if has_beam => search_beam::<V, 4>(v, block, group, &subs, ws),
            MAX_WIDTH if has_beam => search_beam::<V, MAX_WIDTH>(v, block, group, &subs, ws),
            _ => quantize_group(v, block, options.feedback, group, &subs, ws),
        }
    }
    if !options.feedback {
        compute_cost(v, block, ws);
    }
    for _ in 0..options.descent_rounds {
        descend(v, block, ws);
    }
    rows_from_vectors(v, &ws.q, &mut ws.rows);
}

/// Searches the scales of a group of columns, for the targets that the groups before leave to it.
#[inline(always)]
fn search_scales<V: Vector>(
    v: V,
    block: FactorizedBlock<'_>,
    feedback: bool,
    group: Range<usize>,
    ws: &mut Workspace,
) {
    let Workspace { w, targets, e_by_position, scales, group_rows, blocks, .. } = ws;
    let fixed = if feedback { &e_by_position[..group.start] } else { &[] };
    if fixed.is_empty() {
        targets[group.clone()].copy_from_slice(&w[group.clone()]);
    } else {
        let mut diffused = [F32x16::default(); GROUP];
        let diffused = &mut diffused[..group.len()];
        all_dots(v, block.a, block.stride, (group.start, 0), fixed, diffused);
        for (p, t) in group.clone().zip(diffused) {
            let column = block.order[p] as usize;
            v.store(v.add(v.load(&w[column].0), v.load(&t.0)), &mut targets[column].0);
        }
    }
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
            t[i] = v.load(&ws.w[block.order[p + i] as usize].0);
        }
        if feedback {
            t = dots(v, block.a, block.stride, (p, 0), &ws.e_by_position[..p], t);
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
    let Workspace { w, noise, q, e, e_by_position, beam, .. } = ws;
    let mut to = FinalColumns { q, e, e_by_position };
    let tile = |at| Tile { at, group: group.start, subs, w, noise };
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
