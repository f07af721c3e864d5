//! Rows of Q4_K and Q5_K: the walk over super-blocks that both share.

use super::search::{self, Codes, Grid, SUB, SUBS};
use crate::dtype::QK_K;

/// Weights of a super-block for the search: from the importance of its columns, or data-free.
pub fn weights(x: &[f32; QK_K], h: Option<&[f32; QK_K]>) -> [f32; QK_K] {
    match h {
        Some(h) => search::importance_weights(x, h),
        None => {
            let mut u = [0.0; QK_K];
            for (u, x) in u.as_chunks_mut::<SUB>().0.iter_mut().zip(x.as_chunks::<SUB>().0) {
                *u = search::plain_weights(x);
            }
            u
        }
    }
}

/// The scalar reference: searches, assigns and packs block by block.
pub fn quantize_row<C: Codes, const BYTES: usize>(
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    pack: impl Fn(&Grid, &[u8; QK_K], &mut [u8; BYTES]),
) {
    let importance = importance.and_then(search::normalised_importance);
    let (blocks, rest) = row.as_chunks::<QK_K>();
    assert!(rest.is_empty() && out.len() == blocks.len() * BYTES, "a row is whole super-blocks");
    for (i, (x, out)) in blocks.iter().zip(out.as_chunks_mut::<BYTES>().0).enumerate() {
        let h = importance.as_ref().map(|h| &h.as_chunks::<QK_K>().0[i]);
        let grid = search::search::<C>(x, &weights(x, h));
        pack(&grid, &search::assign::<C>(x, &grid), out);
    }
}

/// `d * scale * q - dmin * min` in ggml's order of operations, so that the bits are ggml's.
pub fn dequantize_row<const BYTES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    unpack: impl Fn(&[u8; BYTES]) -> (Grid, [u8; QK_K]),
) {
    let (blocks, rest) = bytes.as_chunks::<BYTES>();
    assert!(rest.is_empty() && out.len() == blocks.len() * QK_K, "whole blocks");
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<QK_K>().0) {
        let (grid, codes) = unpack(block);
        let (d, dmin) = (grid.d.to_f32(), grid.dmin.to_f32());
        for j in 0..SUBS {
            let (s, m) = (d * f32::from(grid.scales[j]), dmin * f32::from(grid.mins[j]));
            for i in j * SUB..(j + 1) * SUB {
                out[i] = s * f32::from(codes[i]) - m;
            }
        }
    }
}
