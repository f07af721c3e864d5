//! The searches written plainly, for one block at a time: what the tests compare the vector code with.
//!
//! The vector code performs the same arithmetic with blocks or sub-blocks side by side and must give the same bits. Hence
//! the rules kept here: sums over the weights of a sub-block run in order, sums over sub-blocks as a fixed tree
//! ([`k_affine::sum8`]), and products are rounded before they are added.

mod block32;
mod k_affine;
mod q6_k;

use super::block32::Block32;
use super::format::{BlockFormat, MAX_SUBS, Scales};
use super::k_affine::KAffine;
use super::weighting::normalize;
use super::{q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k as format_q6_k};
use crate::dtype::GgmlType;

/// Quantizes whole rows; see [`quantize`](super::quantize). Returns false if there is no oracle for the type.
pub fn quantize(
    ty: GgmlType,
    rows: &[f32],
    n_per_row: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> bool {
    match ty {
        GgmlType::Q4_K => {
            rows_of(k_affine_block::<q4_k::Q4K>, ty, rows, n_per_row, &k_weights(importance), out)
        }
        GgmlType::Q5_K => {
            rows_of(k_affine_block::<q5_k::Q5K>, ty, rows, n_per_row, &k_weights(importance), out)
        }
        GgmlType::Q6_K => rows_of(q6_k_block, ty, rows, n_per_row, &k_weights(importance), out),
        GgmlType::Q4_0 => rows_of(block32_block::<q4_0::Q40>, ty, rows, n_per_row, &weights(importance), out),
        GgmlType::Q4_1 => rows_of(block32_block::<q4_1::Q41>, ty, rows, n_per_row, &weights(importance), out),
        GgmlType::Q5_0 => rows_of(block32_block::<q5_0::Q50>, ty, rows, n_per_row, &weights(importance), out),
        GgmlType::Q5_1 => rows_of(block32_block::<q5_1::Q51>, ty, rows, n_per_row, &weights(importance), out),
        _ => return false,
    }
    true
}

fn k_weights(importance: Option<&[f32]>) -> Option<Vec<f32>> {
    importance.and_then(normalize)
}

fn weights(importance: Option<&[f32]>) -> Option<Vec<f32>> {
    importance.map(super::block32::weights)
}

fn rows_of(
    block: impl Fn(&[f32], Option<&[f32]>, &mut [u8]),
    ty: GgmlType,
    rows: &[f32],
    n_per_row: usize,
    h: &Option<Vec<f32>>,
    out: &mut [u8],
) {
    let len = ty.block_len();
    for (i, (x, out)) in rows.chunks_exact(len).zip(out.chunks_exact_mut(ty.block_bytes())).enumerate() {
        let at = i * len % n_per_row;
        block(x, h.as_ref().map(|h| &h[at..at + len]), out);
    }
}

fn k_affine_block<F: KAffine>(x: &[f32], h: Option<&[f32]>, out: &mut [u8]) {
    let x = x.try_into().expect("a super-block");
    let h = h.map(|h| h.try_into().expect("a super-block"));
    let grid = k_affine::search::<F>(x, &k_affine::weights(x, h));
    let mut scales = Scales::one(grid.d.to_f32());
    scales.dmin = grid.dmin.to_f32();
    for j in 0..8 {
        scales.scales[j] = grid.scales[j].into();
        scales.mins[j] = grid.mins[j].into();
    }
    F::pack(&scales, &k_affine::assign::<F>(x, &grid), out);
}

fn q6_k_block(x: &[f32], h: Option<&[f32]>, out: &mut [u8]) {
    let x = x.try_into().expect("a super-block");
    let h = h.map(|h| h.try_into().expect("a super-block"));
    let grid = q6_k::search(x, &q6_k::weights(x, h));
    let scales =
        Scales { d: grid.d.to_f32(), dmin: 0.0, scales: grid.scales.map(f32::from), mins: [0.0; MAX_SUBS] };
    format_q6_k::Q6K::pack(&scales, &q6_k::assign(x, &grid), out);
}

fn block32_block<F: Block32>(x: &[f32], h: Option<&[f32]>, out: &mut [u8]) {
    let h = h.map_or([1.0; 32], |h| h.try_into().expect("a block"));
    let (grid, codes) = block32::search::<F>(x.try_into().expect("a block"), &h);
    let scales = if F::MINS { Scales::with_offset(grid.scale, grid.offset) } else { Scales::one(grid.scale) };
    F::pack(&scales, &codes.map(|q| q as u8), out);
}
