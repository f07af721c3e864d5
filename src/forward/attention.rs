//! Attention of whole chunks: per head the scores of a block of queries, their softmax, and the sum of the values.

use rayon::prelude::*;

use crate::forward::activation::kernels;
use crate::forward::simd;
use crate::linalg::gemm::{Update, gemm};
use crate::linalg::matrix::{MatMut, MatRef};

/// Queries whose scores are held at a time, per thread.
const BLOCK: usize = 128;

/// What attention needs to know of a layer. Heads lie one after another in a token's row.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub n_head: usize,
    /// Divides `n_head`; consecutive query heads share a head of keys and values.
    pub n_head_kv: usize,
    /// Values of a head of queries and of keys.
    pub head: usize,
    pub head_v: usize,
    pub scale: f32,
    /// Scores become `cap tanh(score / cap)`.
    pub cap: Option<f32>,
    /// Tokens that a token sees, itself included.
    pub window: Option<usize>,
    /// Nothing behind a token is seen.
    pub causal: bool,
}

impl Shape {
    /// The keys that the query at `position` of a chunk of `length` sees.
    fn seen(&self, position: usize, length: usize) -> std::ops::Range<usize> {
        let end = if self.causal { position + 1 } else { length };
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))..end
    }
}

/// A block of queries of a chunk and where its outputs go.
struct Block<'a> {
    /// Row of the chunk's first token.
    chunk: usize,
    length: usize,
    queries: std::ops::Range<usize>,
    out: &'a mut [f32],
}

/// `out`: for each token its heads' sums of values, `[tokens, n_head * head_v]`; `lengths`: tokens of each chunk.
/// `q` `[tokens, n_head * head]`, `k` `[tokens, n_head_kv * head]`, `v` `[tokens, n_head_kv * head_v]`.
pub fn attend(shape: &Shape, q: &[f32], k: &[f32], v: &[f32], lengths: &[usize], out: &mut [f32]) {
    let blocks = blocks(shape, lengths, out);
    blocks.into_par_iter().for_each_init(Vec::new, |scores, block| {
        for head in 0..shape.n_head {
            attend_head(shape, q, k, v, block.chunk, block.length, &block.queries, head, scores, block.out);
        }
    });
}

fn blocks<'a>(shape: &Shape, lengths: &[usize], mut out: &'a mut [f32]) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    let mut chunk = 0;
    for &length in lengths {
        for start in (0..length).step_by(BLOCK) {
            let queries = start..(start + BLOCK).min(length);
            let (mine, rest) = out.split_at_mut(queries.len() * shape.n_head * shape.head_v);
            out = rest;
            blocks.push(Block { chunk, length, queries, out: mine });
        }
        chunk += length;
    }
    blocks
}

#[allow(clippy::too_many_arguments)]
fn attend_head(
    shape: &Shape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    chunk: usize,
    length: usize,
    queries: &std::ops::Range<usize>,
    head: usize,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let of_kv = head / (shape.n_head / shape.n_head_kv);
    let keys = shape.seen(queries.start, length).start..shape.seen(queries.end - 1, length).end;
    let (n, m) = (queries.len(), keys.len());
    scores.resize(n * m, 0.0);
    let rows =
        |data, first: usize, rows, width, head: usize, size| strided(data, first, rows, width, head, size);
    let q = rows(q, chunk + queries.start, n, shape.n_head * shape.head, head, shape.head);
    let k = rows(k, chunk + keys.start, m, shape.n_head_kv * shape.head, of_kv, shape.head);
    let v = rows(v, chunk + keys.start, m, shape.n_head_kv * shape.head_v, of_kv, shape.head_v);
    gemm(q, k.transpose(), MatMut::from_row_major_slice(scores, n, m), Update::Set);
    for (row, position) in scores.chunks_exact_mut(m).zip(queries.clone()) {
        let seen = shape.seen(position, length);
        let (from, to) = (seen.start - keys.start, seen.end - keys.start);
        row[..from].fill(0.0);
        row[to..].fill(0.0);
        simd::softmax(&mut row[from..to], shape.scale, shape.cap.unwrap_or(0.0));
    }
    let (out, stride) = (&mut out[head * shape.head_v..], shape.n_head * shape.head_v);
    let out = MatMut::from_row_major_slice_with_stride(out, n, shape.head_v, stride);
    gemm(MatRef::from_row_major_slice(scores, n, m), v, out, Update::Set);
}

/// One head (`size` values) of `rows` rows of `width` values.
fn strided(data: &[f32], first: usize, rows: usize, width: usize, head: usize, size: usize) -> MatRef<'_> {
    let data = &data[first * width + head * size..];
    MatRef::from_slice_with_strides(data, rows, size, width, 1)
}

#[inline(always)]
pub(super) fn softmax_kernel(x: &mut [f32], scale: f32, cap: f32) {
    x.iter_mut().for_each(|x| *x *= scale);
    if cap != 0.0 {
        kernels::soft_cap(x, cap);
    }
    let largest = x.iter().fold(f32::NEG_INFINITY, |a, &x| if x > a { x } else { a });
    let mut sums = [0.0f32; 8];
    let (pieces, rest) = x.as_chunks_mut::<8>();
    for piece in pieces {
        for (x, sum) in piece.iter_mut().zip(&mut sums) {
            *x = kernels::exp(*x - largest);
            *sum += *x;
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = kernels::exp(*x - largest);
        *sum += *x;
    }
    let inverse = 1.0 / sums.iter().sum::<f32>();
    x.iter_mut().for_each(|x| *x *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn softmax_is_its_definition() {
        let x = values(37, 1);
        for cap in [0.0f32, 2.0] {
            let mut y = x.clone();
            simd::softmax(&mut y, 5.0, cap);
            let score = |x: &f32| {
                let s = 5.0 * f64::from(*x);
                if cap == 0.0 { s } else { f64::from(cap) * (s / f64::from(cap)).tanh() }
            };
            let total: f64 = x.iter().map(|x| score(x).exp()).sum();
            for (x, y) in x.iter().zip(y) {
                assert!((f64::from(y) - score(x).exp() / total).abs() < 1e-6);
            }
        }
    }

    /// Every output from its definition, one value at a time.
    fn naive(shape: &Shape, q: &[f32], k: &[f32], v: &[f32], lengths: &[usize]) -> Vec<f64> {
        let (qw, kw) = (shape.n_head * shape.head, shape.n_head_kv * shape.head);
        let (vw, mut out, mut first) = (shape.n_head_kv * shape.head_v, Vec::new(), 0);
        for &length in lengths {
            for i in 0..length {
                for h in 0..shape.n_head {
                    let g = h / (shape.n_head / shape.n_head_kv);
                    let sees = |j: usize| (!shape.causal || j <= i) && shape.window.is_none_or(|w| j + w > i);
                    let weight = |j: usize| {
                        let dot: f64 = (0..shape.head)
                            .map(|d| {
                                let q = q[(first + i) * qw + h * shape.head + d];
                                f64::from(q) * f64::from(k[(first + j) * kw + g * shape.head + d])
                            })
                            .sum();
                        (dot * f64::from(shape.scale)).exp()
                    };
                    let seen: Vec<(usize, f64)> =
                        (0..length).filter(|&j| sees(j)).map(|j| (j, weight(j))).collect();
                    let total: f64 = seen.iter().map(|s| s.1).sum();
                    out.extend((0..shape.head_v).map(|d| {
                        let value = |j: usize| f64::from(v[(first + j) * vw + g * shape.head_v + d]);
                        seen.iter().map(|&(j, w)| w * value(j)).sum::<f64>() / total
                    }));
                }
            }
            first += length;
        }
        out
    }

    #[test]
    fn blocks_windows_and_groups_of_heads_are_as_defined() {
        let lengths = [150, 1, 37];
        for (window, causal) in [(None, true), (None, false), (Some(20), true), (Some(140), true)] {
            let shape =
                Shape { n_head: 4, n_head_kv: 2, head: 8, head_v: 6, scale: 0.7, cap: None, window, causal };
            let (q, k, v) = (values(188 * 32, 2), values(188 * 16, 3), values(188 * 12, 4));
            let mut out = vec![f32::NAN; 188 * 24];
            attend(&shape, &q, &k, &v, &lengths, &mut out);
            for (a, b) in out.iter().zip(naive(&shape, &q, &k, &v, &lengths)) {
                assert!((f64::from(*a) - b).abs() < 1e-5);
            }
        }
    }
}
