//! Attention of whole chunks (Vaswani et al. 2017): for each head the scores of a block of queries, their softmax, and the
//! weighted sum of the values.
//!
//! ```
//! use srd_rs::forward::arch::Reach;
//! use srd_rs::forward::attention::{Shape, attend};
//!
//! let shape = Shape {
//!     n_head: 1, n_head_kv: 1, head_dim: 2, head_dim_v: 1, scale: 1.0, cap: None, window: None, reach: Reach::Back,
//!     causal: true, max_alibi_bias: 0.0,
//! };
//! // A chunk of two tokens. The first token attends to itself only; the second one finds its own key alone.
//! let (q, k, v) = ([1.0, 0.0, 0.0, 50.0], [1.0, 0.0, 0.0, 1.0], [3.0, 7.0]);
//! let mut out = [0.0; 2];
//! attend(&shape, &[], &q, &k, &v, &[2], &mut out);
//! assert_eq!(out, [3.0, 7.0]);
//! ```

use std::ops::Range;

use rayon::prelude::*;

use crate::forward::activation::{cap_all, exp};
use crate::forward::arch::Reach;
use crate::linalg::gemm::{Update, gemm};
use crate::linalg::matrix::{MatMut, MatRef};
use crate::simd::{Isa, dispatch};

/// Number of queries whose scores a thread holds at a time.
const BLOCK: usize = 128;

/// The shape of a layer's attention. The heads of a token lie one after another in the token's row.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of query heads.
    pub n_head: usize,
    /// Number of heads of keys and values, a divisor of `n_head`. Consecutive query heads share a head of keys and values.
    pub n_head_kv: usize,
    /// Number of values in a head of queries or keys.
    pub head_dim: usize,
    /// Number of values in a head of values.
    pub head_dim_v: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// If given, the scores become `cap tanh(score / cap)`.
    pub cap: Option<f32>,
    /// Sliding window: the number of tokens to which a token attends, including itself. `None`: all tokens.
    pub window: Option<usize>,
    /// The tokens to which the window reaches.
    pub reach: Reach,
    /// Causal mask: a token attends only to itself and to earlier tokens.
    pub causal: bool,
    /// ALiBi (Press et al. 2022): if not 0, a score loses its distance in tokens times the slope of the head, and the slopes
    /// are powers of 2 down to minus this number.
    pub max_alibi_bias: f32,
}

impl Shape {
    /// Returns the keys to which the query at `position` of a chunk of `length` tokens attends.
    fn visible(&self, position: usize, length: usize) -> Range<usize> {
        let (start, end) = match (self.window, self.reach) {
            (None, _) => (0, length),
            (Some(w), Reach::Back) => ((position + 1).saturating_sub(w), length),
            (Some(w), Reach::BothSides) => {
                (position.saturating_sub(w / 2), (position + w / 2 + 1).min(length))
            }
            (Some(w), Reach::Piece) => (position / w * w, length),
        };
        start..if self.causal { position + 1 } else { end }
    }

    /// Returns the slope of a head of ALiBi. Where the number of heads is no power of 2, the heads beyond the largest power
    /// have the odd slopes of twice as many heads.
    fn slope(&self, head: usize) -> f32 {
        let n = 1usize << self.n_head.ilog2();
        let step = self.max_alibi_bias / n as f32;
        let exponent =
            if head < n { step * (head + 1) as f32 } else { step / 2.0 * (2 * (head - n) + 1) as f32 };
        libm::exp2f(-exponent)
    }
}

/// A block of queries of a chunk, and the place of its outputs.
struct Block<'a> {
    /// Row of the first token of the chunk.
    chunk: usize,
    length: usize,
    queries: Range<usize>,
    out: &'a mut [f32],
}

/// Computes attention for chunks of `lengths` tokens, which do not attend to each other.
///
/// `q` is `[tokens, n_head * head_dim]`, `k` is `[tokens, n_head_kv * head_dim]`, `v` is `[tokens, n_head_kv * head_dim_v]`,
/// and `out` receives `[tokens, n_head * head_dim_v]`. `sinks` is empty or has a score for each head, which takes part in the
/// softmax as if it belonged to a token whose values are 0. The function runs on rayon's current pool.
///
/// # Panics
/// Panics if `n_head_kv` does not divide `n_head`, or if a slice is shorter than its shape.
pub fn attend(
    shape: &Shape,
    sinks: &[f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    lengths: &[usize],
    out: &mut [f32],
) {
    assert!(shape.n_head_kv > 0 && shape.n_head.is_multiple_of(shape.n_head_kv), "{shape:?}");
    assert!(sinks.is_empty() || sinks.len() == shape.n_head, "{} sinks, {shape:?}", sinks.len());
    let (inputs, isa) = (Inputs { q, k, v, sinks }, Isa::detect());
    blocks(shape, lengths, out).into_par_iter().for_each_init(Vec::new, |scores, mut block| {
        for head in 0..shape.n_head {
            attend_head(isa, shape, inputs, &mut block, head, scores);
        }
    });
}

fn blocks<'a>(shape: &Shape, lengths: &[usize], mut out: &'a mut [f32]) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    let mut chunk = 0;
    for &length in lengths {
        for start in (0..length).step_by(BLOCK) {
            let queries = start..(start + BLOCK).min(length);
            let (mine, rest) = out.split_at_mut(queries.len() * shape.n_head * shape.head_dim_v);
            out = rest;
            blocks.push(Block { chunk, length, queries, out: mine });
        }
        chunk += length;
    }
    blocks
}

/// Queries, keys and values of all chunks.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    sinks: &'a [f32],
}

/// Computes one head of a block of queries. `scores` is scratch memory.
fn attend_head(
    isa: Isa,
    shape: &Shape,
    Inputs { q, k, v, sinks }: Inputs<'_>,
    block: &mut Block<'_>,
    head: usize,
    scores: &mut Vec<f32>,
) {
    let Block { chunk, length, ref queries, ref mut out } = *block;
    let of_kv = head / (shape.n_head / shape.n_head_kv);
    let keys = shape.visible(queries.start, length).start..shape.visible(queries.end - 1, length).end;
    let (n, m) = (queries.len(), keys.len());
    scores.resize(n * m, 0.0);
    let q = head_of(q, chunk + queries.start, n, shape.n_head * shape.head_dim, head, shape.head_dim);
    let k = head_of(k, chunk + keys.start, m, shape.n_head_kv * shape.head_dim, of_kv, shape.head_dim);
    let v = head_of(v, chunk + keys.start, m, shape.n_head_kv * shape.head_dim_v, of_kv, shape.head_dim_v);
    gemm(q, k.transpose(), MatMut::from_row_major_slice(scores, n, m), Update::Set);
    shares(isa, shape, (head, sinks), scores, queries.clone(), keys, length);
    let (out, stride) = (&mut out[head * shape.head_dim_v..], shape.n_head * shape.head_dim_v);
    let out = MatMut::from_row_major_slice_with_stride(out, n, shape.head_dim_v, stride);
    gemm(MatRef::from_row_major_slice(scores, n, m), v, out, Update::Set);
}

/// Turns the products of `queries` and `keys` of a chunk into the shares of the softmax, row by row. Keys that a query does not see
/// have the share 0.
pub(super) fn shares(
    isa: Isa,
    shape: &Shape,
    (head, sinks): (usize, &[f32]),
    scores: &mut [f32],
    queries: Range<usize>,
    keys: Range<usize>,
    length: usize,
) {
    for (row, position) in scores.chunks_exact_mut(keys.len()).zip(queries) {
        let visible = shape.visible(position, length);
        let (from, to) = (visible.start - keys.start, visible.end - keys.start);
        row[..from].fill(0.0);
        row[to..].fill(0.0);
        let sink = sinks.get(head).copied().unwrap_or(f32::NEG_INFINITY);
        let (row, mut scale) = (&mut row[from..to], shape.scale);
        if shape.max_alibi_bias > 0.0 {
            let slope = shape.slope(head);
            for (score, key) in row.iter_mut().zip(visible) {
                *score = *score * scale - slope * position.abs_diff(key) as f32;
            }
            scale = 1.0;
        }
        softmax(isa, row, scale, shape.cap.unwrap_or(0.0), sink);
    }
}

/// Returns one head (`size` values) of `rows` rows of `width` values.
pub(super) fn head_of(
    data: &[f32],
    first: usize,
    rows: usize,
    width: usize,
    head: usize,
    size: usize,
) -> MatRef<'_> {
    let data = &data[first * width + head * size..];
    MatRef::from_slice_with_strides(data, rows, size, width, 1)
}

dispatch! {
    /// Computes the softmax of `scale x`, or of `cap tanh(scale x / cap)` if `cap` is not 0. `sink` is one more score, whose
    /// share is left out; minus infinity stands for no sink.
    pub(super) fn softmax(_simd: S, x: &mut [f32], scale: f32, cap: f32, sink: f32) {
        x.iter_mut().for_each(|x| *x *= scale);
        if cap != 0.0 {
            cap_all(x, cap);
        }
        let max = x.iter().fold(sink, |a, &x| if x > a { x } else { a });
        let mut sums = [0.0f32; 8];
        let (pieces, rest) = x.as_chunks_mut::<8>();
        for piece in pieces {
            for (x, sum) in piece.iter_mut().zip(&mut sums) {
                *x = exp(*x - max);
                *sum += *x;
            }
        }
        for (x, sum) in rest.iter_mut().zip(&mut sums) {
            *x = exp(*x - max);
            *sum += *x;
        }
        let sum = sums.iter().sum::<f32>();
        let of_sink = if sink == f32::NEG_INFINITY { 0.0 } else { exp(sink - max) };
        let inverse = 1.0 / (sum + of_sink);
        x.iter_mut().for_each(|x| *x *= inverse);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns numbers between -1 and 1 that look random.
    pub(in crate::forward) fn values(n: usize, seed: u32) -> Vec<f32> {
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
            softmax(Isa::detect(), &mut y, 5.0, cap, f32::NEG_INFINITY);
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

    #[test]
    fn a_sink_takes_its_share_of_the_softmax() {
        let mut y = [1.0f32, 2.0];
        softmax(Isa::detect(), &mut y, 1.0, 0.0, 3.0);
        let total = 1f32.exp() + 2f32.exp() + 3f32.exp();
        assert!((y[0] - 1f32.exp() / total).abs() < 1e-6 && (y[1] - 2f32.exp() / total).abs() < 1e-6);
    }

    /// Computes every output from its definition, one value at a time.
    fn naive(shape: &Shape, q: &[f32], k: &[f32], v: &[f32], lengths: &[usize]) -> Vec<f64> {
        let (qw, kw) = (shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim);
        let (vw, mut out, mut first) = (shape.n_head_kv * shape.head_dim_v, Vec::new(), 0);
        for &length in lengths {
            for i in 0..length {
                for h in 0..shape.n_head {
                    let g = h / (shape.n_head / shape.n_head_kv);
                    let near = |w: usize, j: usize| match shape.reach {
                        Reach::Back => j + w > i,
                        Reach::BothSides => i.abs_diff(j) <= w / 2,
                        Reach::Piece => j / w >= i / w,
                    };
                    let attends =
                        |j: usize| (!shape.causal || j <= i) && shape.window.is_none_or(|w| near(w, j));
                    let slope = match (shape.max_alibi_bias, h) {
                        (0.0, _) => 0.0,
                        // Three heads: two as in a model of two heads, and the first odd one of a model of four.
                        (bias, 2) => (f64::from(-bias) / 4.0).exp2(),
                        (bias, _) => (f64::from(-bias) / 2.0 * (h + 1) as f64).exp2(),
                    };
                    let weight = |j: usize| {
                        let dot: f64 = (0..shape.head_dim)
                            .map(|d| {
                                let q = q[(first + i) * qw + h * shape.head_dim + d];
                                f64::from(q) * f64::from(k[(first + j) * kw + g * shape.head_dim + d])
                            })
                            .sum();
                        (dot * f64::from(shape.scale) - slope * i.abs_diff(j) as f64).exp()
                    };
                    let seen: Vec<(usize, f64)> =
                        (0..length).filter(|&j| attends(j)).map(|j| (j, weight(j))).collect();
                    let total: f64 = seen.iter().map(|s| s.1).sum();
                    out.extend((0..shape.head_dim_v).map(|d| {
                        let value = |j: usize| f64::from(v[(first + j) * vw + g * shape.head_dim_v + d]);
                        seen.iter().map(|&(j, w)| w * value(j)).sum::<f64>() / total
                    }));
                }
            }
            first += length;
        }
        out
    }

    #[test]
    fn distant_tokens_count_less_with_alibi() {
        let shape = Shape {
            n_head: 3,
            n_head_kv: 1,
            head_dim: 8,
            head_dim_v: 6,
            scale: 0.7,
            cap: None,
            window: None,
            reach: Reach::Back,
            causal: false,
            max_alibi_bias: 8.0,
        };
        let (q, k, v) = (values(140 * 24, 2), values(140 * 8, 3), values(140 * 6, 4));
        let mut out = vec![f32::NAN; 140 * 18];
        attend(&shape, &[], &q, &k, &v, &[137, 3], &mut out);
        for (a, b) in out.iter().zip(naive(&shape, &q, &k, &v, &[137, 3])) {
            assert!((f64::from(*a) - b).abs() < 1e-5);
        }
    }

    #[test]
    fn blocks_windows_and_groups_of_heads_are_as_defined() {
        let lengths = [150, 1, 37];
        for (window, reach, causal) in [
            (None, Reach::Back, true),
            (None, Reach::Back, false),
            (Some(20), Reach::Back, true),
            (Some(140), Reach::Back, true),
            (Some(20), Reach::BothSides, false),
            (Some(140), Reach::BothSides, false),
            (Some(40), Reach::Piece, true),
        ] {
            let shape = Shape {
                n_head: 4,
                n_head_kv: 2,
                head_dim: 8,
                head_dim_v: 6,
                scale: 0.7,
                cap: None,
                window,
                reach,
                causal,
                max_alibi_bias: 0.0,
            };
            let (q, k, v) = (values(188 * 32, 2), values(188 * 16, 3), values(188 * 12, 4));
            let mut out = vec![f32::NAN; 188 * 24];
            attend(&shape, &[], &q, &k, &v, &lengths, &mut out);
            for (a, b) in out.iter().zip(naive(&shape, &q, &k, &v, &lengths)) {
                assert!((f64::from(*a) - b).abs() < 1e-5);
            }
        }
    }
}
