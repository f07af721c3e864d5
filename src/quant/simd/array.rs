//! The lanes as plain arrays: slow, without intrinsics, for the tests of the generic algorithm.

use half::f16;

use super::{Importance, Lanes, affine, pack, signed};
use crate::quant::q6_k;
use crate::quant::search::{Codes, least, most, nearest};

/// `N` lanes without instructions of their own.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Array<const N: usize>;

impl<const N: usize> Array<N> {
    fn map(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
        std::array::from_fn(|i| f(a[i], b[i]))
    }
}

impl<const N: usize> Lanes for Array<N> {
    type F = [f32; N];
    type M = [bool; N];

    fn splat(self, v: f32) -> [f32; N] {
        [v; N]
    }
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        Self::map(a, b, |a, b| a + b)
    }
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        Self::map(a, b, |a, b| a - b)
    }
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        Self::map(a, b, |a, b| a * b)
    }
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        Self::map(a, b, |a, b| a / b)
    }
    fn sqrt(self, a: [f32; N]) -> [f32; N] {
        a.map(f32::sqrt)
    }
    fn abs(self, a: [f32; N]) -> [f32; N] {
        a.map(f32::abs)
    }
    fn least(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        Self::map(a, b, least)
    }
    fn most(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        Self::map(a, b, most)
    }
    fn cut(self, a: [f32; N], top: [f32; N]) -> [f32; N] {
        Self::map(a, top, |a, top| least(most(a, 0.0), top))
    }
    fn below(self, a: [f32; N], top: [f32; N]) -> [f32; N] {
        Self::map(a, top, least)
    }
    fn nearest(self, a: [f32; N]) -> [f32; N] {
        a.map(nearest)
    }
    fn round16(self, a: [f32; N]) -> [f32; N] {
        a.map(|v| f16::from_f32(v).to_f32())
    }
    fn above(self, a: [f32; N], b: [f32; N]) -> [bool; N] {
        std::array::from_fn(|i| a[i] > b[i])
    }
    fn and(self, a: [bool; N], b: [bool; N]) -> [bool; N] {
        std::array::from_fn(|i| a[i] && b[i])
    }
    fn select(self, m: [bool; N], a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    fn swap1(self, a: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i ^ 1])
    }
    fn swap2(self, a: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i ^ 2])
    }
    fn swap4(self, a: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i ^ 4])
    }
    fn swap8(self, a: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[(i ^ 8) % N])
    }
    fn store(self, a: [f32; N], to: &mut [f32]) {
        to[..N].copy_from_slice(&a);
    }
    fn load_halves(self, first: &[f32; 8], second: &[f32; 8]) -> [f32; N] {
        std::array::from_fn(|i| if i < 8 { first[i] } else { second[i - 8] })
    }
    fn transpose(self, from: &[f32], len: usize) -> [[f32; N]; 4] {
        std::array::from_fn(|i| std::array::from_fn(|j| from[j * len + i]))
    }
    fn bytes(self, q: [[f32; N]; 4], to: &mut [u32; 16]) {
        for j in 0..N {
            to[j] = (0..4).map(|i| (nearest(q[i][j]) as u32) << (8 * i)).sum();
        }
    }
}

pub(super) fn affine_rows<C: Codes>(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    let l = Array::<8>;
    let mut work = affine::Group::new(l);
    let mut words = [[0; 16]; 8];
    for (i, (x, out)) in rows.chunks_exact(256).zip(out.chunks_exact_mut(C::BYTES)).enumerate() {
        work.fill(l, x, h.map(|h| [h.of(i); 2]));
        let g = work.search::<C>(l);
        work.assign::<C>(l, &g, &mut words);
        let grid = pack::Affine { d: g.d[0], dmin: g.dmin[0], scales: &g.scales, mins: &g.mins };
        pack::affine::<C>(&grid, &words, 0, out);
    }
}

pub(super) fn signed_rows(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    let l = Array::<16>;
    let mut work = [signed::Part::new(l)];
    let mut words = [[[0; 16]; 4]; 1];
    let out = out.as_chunks_mut::<{ q6_k::BYTES }>().0;
    for (i, (x, out)) in rows.as_chunks::<256>().0.iter().zip(out).enumerate() {
        signed::fill(l, &mut work, x, h.map(|h| h.of(i)));
        let g = signed::search(l, &work);
        signed::assign(l, &work, &g, &mut words);
        pack::q6_k(g.d[0], &g.scales[0], |k, j| words[0][k][j], out);
    }
}
