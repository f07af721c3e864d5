//! The lanes as plain arrays: slow, without intrinsics, for the tests of the generic algorithm.

use half::f16;

use super::Lanes;
use crate::quant::search::{least, most, nearest};

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
