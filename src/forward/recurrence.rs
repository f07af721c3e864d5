//! Recurrences along the tokens of a chunk. Every head of every chunk has a state of its own and goes through the chunk's
//! tokens in order; the heads run in parallel.

use rayon::prelude::*;

use crate::forward::buffers::Buffers;

/// A head of a chunk.
pub struct Track<'a> {
    /// Row of the chunk's first token.
    pub first: usize,
    /// Number of the head.
    pub head: usize,
    /// The outputs of the head, `[tokens of the chunk, dim]`.
    pub out: &'a mut [f32],
}

/// Calls `run` for every head of every chunk, and collects the outputs as `[tokens, heads * dim]`.
pub fn each_head(
    buffers: &Buffers,
    lengths: &[usize],
    heads: usize,
    dim: usize,
    out: &mut [f32],
    run: impl Fn(&mut Track) + Sync,
) {
    let mut by_head = buffers.take(out.len());
    let (mut tracks, mut first, mut rest) = (Vec::new(), 0, &mut by_head[..]);
    for &length in lengths {
        for head in 0..heads {
            let (mine, others) = rest.split_at_mut(length * dim);
            rest = others;
            tracks.push(Track { first, head, out: mine });
        }
        first += length;
    }
    tracks.into_par_iter().for_each(|mut track| run(&mut track));
    let mut first = 0;
    for &length in lengths {
        let rows = &mut out[first * heads * dim..][..length * heads * dim];
        let of_chunk = &by_head[first * heads * dim..][..length * heads * dim];
        rows.par_chunks_mut(heads * dim).enumerate().for_each(|(token, row)| {
            for (head, to) in row.chunks_exact_mut(dim).enumerate() {
                to.copy_from_slice(&of_chunk[(head * length + token) * dim..][..dim]);
            }
        });
        first += length;
    }
}

/// Returns the product of two vectors. Eight partial sums make the bits the same for vectors of any width.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let ((pieces_a, rest_a), (pieces_b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in pieces_a.iter().zip(pieces_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(rest_a).zip(rest_b) {
        *sum += a * b;
    }
    sums.iter().sum()
}
