//! The derivatives of attention by its queries, keys and values.
//!
//! With the shares p of the softmax, the outputs o = sum p v, and the derivatives do of a number by o: dv = sum p do, and the score
//! s of a key has ds = p (do v - sum p do v), from which dq = scale sum ds k and dk = scale sum ds q.
//!
//! ```
//! use srd_rs::forward::arch::Reach;
//! use srd_rs::forward::attention::Shape;
//! use srd_rs::forward::attention_gradient::{Gradients, attention_gradient};
//!
//! let shape = Shape {
//!     n_head: 1, n_head_kv: 1, head_dim: 2, head_dim_v: 1, scale: 1.0, cap: None, window: None, reach: Reach::Back,
//!     causal: true, max_alibi_bias: 0.0,
//! };
//! // The first token attends to itself only, so its output is its value, whatever the scores are.
//! let (q, k, v) = ([1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0], [3.0, 7.0]);
//! let (mut dq, mut dk, mut dv) = ([0.0; 4], [0.0; 4], [0.0; 2]);
//! let to = Gradients { q: &mut dq, k: &mut dk, v: &mut dv };
//! attention_gradient(&shape, &[], [&q, &k, &v], &[1.0, 0.0], &[2], to);
//! assert_eq!((dq, dk, dv), ([0.0; 4], [0.0; 4], [1.0, 0.0]));
//! ```

use rayon::prelude::*;

use crate::forward::activation::cap_all;
use crate::forward::attention::{Shape, head_of, shares};
use crate::linalg::gemm::{Update, gemm};
use crate::linalg::matrix::{MatMut, MatRef};
use crate::simd::{Isa, dispatch};

/// Where the derivatives go, in the shapes of queries, keys and values.
pub struct Gradients<'a> {
    /// By the queries, `[tokens, n_head * head_dim]`.
    pub q: &'a mut [f32],
    /// By the keys, `[tokens, n_head_kv * head_dim]`.
    pub k: &'a mut [f32],
    /// By the values, `[tokens, n_head_kv * head_dim_v]`.
    pub v: &'a mut [f32],
}

/// Computes the derivatives of a number by the inputs of [`attend`](crate::forward::attention::attend): queries, keys and values.
/// `gradient` holds its derivatives by the outputs. The scores of a whole chunk are in memory for each thread. The function runs on
/// rayon's current pool, and its bits do not depend on the number of threads.
///
/// # Panics
/// As [`attend`](crate::forward::attention::attend).
pub fn attention_gradient(
    shape: &Shape,
    sinks: &[f32],
    [q, k, v]: [&[f32]; 3],
    gradient: &[f32],
    lengths: &[usize],
    to: Gradients,
) {
    assert!(shape.n_head_kv > 0 && shape.n_head.is_multiple_of(shape.n_head_kv), "{shape:?}");
    assert!(sinks.is_empty() || sinks.len() == shape.n_head, "{} sinks, {shape:?}", sinks.len());
    let (Gradients { q: mut dq, k: mut dk, v: mut dv }, mut chunks, mut first) = (to, Vec::new(), 0);
    for &length in lengths {
        let (of_q, rest_q) = dq.split_at_mut(length * shape.n_head * shape.head_dim);
        let (of_k, rest_k) = dk.split_at_mut(length * shape.n_head_kv * shape.head_dim);
        let (of_v, rest_v) = dv.split_at_mut(length * shape.n_head_kv * shape.head_dim_v);
        (dq, dk, dv) = (rest_q, rest_k, rest_v);
        chunks.push((first, length, Gradients { q: of_q, k: of_k, v: of_v }));
        first += length;
    }
    let isa = Isa::detect();
    chunks.into_par_iter().for_each_init(Scratch::default, |scratch, (first, length, mut to)| {
        for head in 0..shape.n_head {
            of_head(isa, shape, (head, sinks), [q, k, v, gradient], (first, length), &mut to, scratch);
        }
    });
}

/// Matrices with a row for each query of a chunk, and a column for each key.
#[derive(Default)]
struct Scratch {
    shares: Vec<f32>,
    /// The scores before their cap; empty without a cap.
    scores: Vec<f32>,
    gradients: Vec<f32>,
}

fn of_head(
    isa: Isa,
    shape: &Shape,
    (head, sinks): (usize, &[f32]),
    [q, k, v, gradient]: [&[f32]; 4],
    (first, n): (usize, usize),
    to: &mut Gradients,
    scratch: &mut Scratch,
) {
    let group = shape.n_head / shape.n_head_kv;
    let of_kv = head / group;
    // The first head of a group sets the sums of the keys and values that the group shares.
    let update = if head % group == 0 { Update::Set } else { Update::Add };
    let of_queries = |x, size: usize| head_of(x, first, n, shape.n_head * size, head, size);
    let of_keys = |x, size: usize| head_of(x, first, n, shape.n_head_kv * size, of_kv, size);
    let (q, k) = (of_queries(q, shape.head_dim), of_keys(k, shape.head_dim));
    let (v, gradient) = (of_keys(v, shape.head_dim_v), of_queries(gradient, shape.head_dim_v));
    let Scratch { shares: p, scores, gradients: ds } = scratch;
    p.resize(n * n, 0.0);
    ds.resize(n * n, 0.0);
    gemm(q, k.transpose(), MatMut::from_row_major_slice(p, n, n), Update::Set);
    scores.clear();
    scores.extend(p.iter().filter(|_| shape.cap.is_some()).map(|x| x * shape.scale));
    shares(isa, shape, (head, sinks), p, 0..n, 0..n, n);
    let p_of = MatRef::from_row_major_slice(p, n, n);
    gemm(p_of.transpose(), gradient, columns(to.v, shape.head_dim_v, shape.n_head_kv, of_kv), update);
    gemm(gradient, v.transpose(), MatMut::from_row_major_slice(ds, n, n), Update::Set);
    for (i, (ds, p)) in ds.chunks_exact_mut(n).zip(p.chunks_exact(n)).enumerate() {
        by_scores(isa, ds, p, shape.scale);
        if let Some(cap) = shape.cap {
            by_uncapped(isa, ds, &mut scores[i * n..][..n], cap);
        }
    }
    let ds = MatRef::from_row_major_slice(ds, n, n);
    gemm(ds, k, columns(to.q, shape.head_dim, shape.n_head, head), Update::Set);
    gemm(ds.transpose(), q, columns(to.k, shape.head_dim, shape.n_head_kv, of_kv), update);
}

/// Returns one head of rows of `heads` heads.
fn columns(x: &mut [f32], size: usize, heads: usize, head: usize) -> MatMut<'_> {
    let rows = x.len() / (size * heads);
    MatMut::from_row_major_slice_with_stride(&mut x[head * size..], rows, size, heads * size)
}

dispatch! {
    /// Turns the derivatives by the shares `p` of one query into those by its products with the keys.
    fn by_scores(_simd: S, ds: &mut [f32], p: &[f32], scale: f32) {
        let mut sums = [0.0f32; 8];
        for (ds, p) in ds.chunks(8).zip(p.chunks(8)) {
            ds.iter().zip(p).zip(&mut sums).for_each(|((ds, p), sum)| *sum += ds * p);
        }
        let mean = sums.iter().sum::<f32>();
        ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = scale * p * (*ds - mean));
    }

    /// Multiplies by the derivatives of `cap tanh(x / cap)`.
    fn by_uncapped(_simd: S, ds: &mut [f32], scores: &mut [f32], cap: f32) {
        cap_all(scores, cap);
        let inverse = 1.0 / cap;
        ds.iter_mut().zip(scores).for_each(|(ds, score)| {
            let t = *score * inverse;
            *ds *= 1.0 - t * t;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::arch::Reach;
    use crate::forward::attention::attend;
    use crate::forward::attention::tests::values;

    #[test]
    fn the_derivatives_are_the_quotients_of_differences() {
        let lengths = [9, 4];
        let n: usize = lengths.iter().sum();
        for (window, cap, causal, sinks) in [
            (None, None, true, vec![]),
            (Some(3), None, true, vec![0.5, -1.0, 0.0, 2.0]),
            (None, Some(1.5), true, vec![]),
            (None, None, false, vec![]),
        ] {
            let shape = Shape {
                n_head: 4,
                n_head_kv: 2,
                head_dim: 6,
                head_dim_v: 5,
                scale: 0.9,
                cap,
                window,
                reach: Reach::Back,
                causal,
                max_alibi_bias: 0.0,
            };
            let inputs = [values(n * 24, 1), values(n * 12, 2), values(n * 10, 3)];
            let by = values(n * 20, 4);
            let number = |[q, k, v]: &[Vec<f32>; 3]| {
                let mut out = vec![0.0; n * 20];
                attend(&shape, &sinks, q, k, v, &lengths, &mut out);
                out.iter().zip(&by).map(|(o, g)| f64::from(*o) * f64::from(*g)).sum::<f64>()
            };
            let [mut q, mut k, mut v] = inputs.clone().map(|x| vec![f32::NAN; x.len()]);
            let to = Gradients { q: &mut q, k: &mut k, v: &mut v };
            attention_gradient(&shape, &sinks, inputs.each_ref().map(Vec::as_slice), &by, &lengths, to);
            for (which, found) in [q, k, v].iter().enumerate() {
                for at in (0..found.len()).step_by(7) {
                    let moved = |step: f32| {
                        let mut inputs = inputs.clone();
                        inputs[which][at] += step;
                        number(&inputs)
                    };
                    let expected = (moved(1.0 / 256.0) - moved(-1.0 / 256.0)) * 128.0;
                    let error = (f64::from(found[at]) - expected).abs();
                    assert!(error < 1e-3, "{shape:?} {which} {at}: {} {expected}", found[at]);
                }
            }
        }
    }
}
