//! The search of the formats with blocks of 32 weights, for one block. See [`block32`](crate::quant::block32) for the
//! method.

use super::k_affine::{F16_MAX, MARGIN, NOISE, TINY, inverse, least, most, nearest, round16};
use crate::quant::block32::Block32;

const QK: usize = 32;
type Block = [f32; QK];

/// Scale and offset of a block, f16 numbers. The offset of symmetric formats is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    pub scale: f32,
    pub offset: f32,
}

/// Rounds of least squares and rounding on the winner.
const REFITS: usize = 2;

/// Returns the scale, the offset and the codes of one block; `h` is positive somewhere.
pub fn search<F: Block32>(x: &Block, h: &Block) -> (Grid, Block) {
    if F::MINS {
        let top = F::LEVELS.1;
        let grid = Affine::new(x, h, top).grid(F::CANDIDATES);
        let inv = inverse(grid.scale);
        (grid, x.map(|x| code((x - grid.offset) * inv, top)))
    } else {
        let half = -F::LEVELS.0;
        let search = Symmetric { x, h, half };
        let grid = search.grid(F::CANDIDATES);
        let inv = signed_inverse(grid.scale);
        (grid, x.map(|x| search.code(x * inv) + half))
    }
}

/// `1 / s`, or 0 where `s` is no usable scale.
fn signed_inverse(s: f32) -> f32 {
    if s.abs() > TINY { 1.0 / s } else { 0.0 }
}

/// `a / b`, or `other` where `b` is not positive.
fn ratio_or(a: f32, b: f32, other: f32) -> f32 {
    if b > 0.0 { a / b } else { other }
}

/// The f16 nearest to `t`, kept finite.
fn finite16(t: f32) -> f32 {
    round16(least(most(t, -F16_MAX), F16_MAX))
}

/// `t` cut to `[0, top]`, then rounded.
fn code(t: f32, top: f32) -> f32 {
    nearest(least(most(t, 0.0), top))
}

/// The smallest and the largest weight.
fn range(x: &Block) -> (f32, f32) {
    x.iter().fold((x[0], x[0]), |(low, high), &x| (least(low, x), most(high, x)))
}

/// A grid and its squared error.
struct Measured {
    grid: Grid,
    error: f32,
}

impl Measured {
    fn keep_better(&mut self, other: Self) {
        if self.error > other.error {
            *self = other;
        }
    }
}

/// The search for a scale.
struct Symmetric<'a> {
    x: &'a Block,
    h: &'a Block,
    half: f32,
}

impl Symmetric<'_> {
    fn grid(&self, extremes: &[(f32, f32)]) -> Grid {
        let (low, high) = range(self.x);
        let extreme = if high > 0.0 - low { high } else { low };
        let mut best = self.measure(extreme * (-1.0 / self.half)).0;
        let mut scale = self.best_try(extremes, extreme);
        for _ in 0..=REFITS {
            let (measured, next) = self.measure(scale);
            best.keep_better(measured);
            scale = next;
        }
        best.grid
    }

    /// The scale of the codes that take most off the error.
    fn best_try(&self, extremes: &[(f32, f32)], extreme: f32) -> f32 {
        let inv_extreme = signed_inverse(extreme);
        let (mut best, mut most_gain) = (0.0, 0.0);
        for (reach, _) in extremes {
            let (xq, qq) = self.sums((0.0 - reach) * inv_extreme);
            let scale = xq / qq;
            let gain = xq * scale;
            if gain > most_gain * MARGIN {
                (best, most_gain) = (scale, gain);
            }
        }
        best
    }

    fn code(&self, t: f32) -> f32 {
        nearest(least(most(t, -self.half), self.half - 1.0))
    }

    /// `sum h x q` and `sum h q^2`.
    fn sums(&self, inv: f32) -> (f32, f32) {
        let (mut xq, mut qq) = (0.0, 0.0);
        for (&x, &h) in self.x.iter().zip(self.h) {
            let q = self.code(x * inv);
            xq += h * x * q;
            qq += h * q * q;
        }
        (xq, qq)
    }

    /// The error with `scale` as f16, and the best scale for the codes it gives.
    fn measure(&self, scale: f32) -> (Measured, f32) {
        let scale = finite16(scale);
        let inv = signed_inverse(scale);
        let mut error = 0.0;
        for (&x, &h) in self.x.iter().zip(self.h) {
            let e = scale * self.code(x * inv) - x;
            error += h * (e * e);
        }
        let (xq, qq) = self.sums(inv);
        (Measured { grid: Grid { scale, offset: 0.0 }, error }, ratio_or(xq, qq, scale))
    }
}

/// The search for a scale and an offset.
struct Affine<'a> {
    x: &'a Block,
    h: &'a Block,
    top: f32,
    inv_sum_h: f32,
    /// Weighted mean of `x`.
    mean: f32,
    /// `h (x - mean)`
    c: Block,
}

/// Sums over codes: `h q`, `h q^2` and `h (x - mean) q`.
#[derive(Default)]
struct Sums {
    q: f32,
    qq: f32,
    cq: f32,
}

impl<'a> Affine<'a> {
    fn new(x: &'a Block, h: &'a Block, top: f32) -> Self {
        let (mut sum_h, mut first) = (0.0, 0.0);
        for (x, h) in x.iter().zip(h) {
            sum_h += h;
            first += h * x;
        }
        let inv_sum_h = 1.0 / sum_h;
        let mean = first * inv_sum_h;
        Self { x, h, top, inv_sum_h, mean, c: std::array::from_fn(|i| h[i] * (x[i] - mean)) }
    }

    fn grid(&self, tries: &[(f32, f32)]) -> Grid {
        let (low, high) = range(self.x);
        let mut best = self.measure((high - low) * (1.0 / self.top), low).0;
        let (mut scale, mut mean_code) = self.best_try(tries, low, high);
        for _ in 0..=REFITS {
            let scale16 = finite16(scale);
            let (measured, sums) = self.measure(scale16, self.mean - scale16 * mean_code);
            best.keep_better(measured);
            mean_code = sums.q * self.inv_sum_h;
            scale = ratio_or(sums.cq, sums.qq - sums.q * mean_code, scale);
        }
        best.grid
    }

    /// Scale and mean code of the codes that take most off the error.
    fn best_try(&self, tries: &[(f32, f32)], low: f32, high: f32) -> (f32, f32) {
        let inv_range = inverse(high - low);
        let (mut best, mut most_gain) = ((0.0, 0.0), 0.0);
        for &(stretch, shift) in tries {
            let inv = (self.top + stretch) * inv_range;
            let s = self.sums(|x| code((x - low) * inv + shift, self.top));
            let mean_code = s.q * self.inv_sum_h;
            let spread = s.qq - s.q * mean_code;
            let scale = s.cq / spread;
            let gain = s.cq * scale;
            if spread > NOISE * s.qq && gain > most_gain * MARGIN {
                (best, most_gain) = ((scale, mean_code), gain);
            }
        }
        best
    }

    fn sums(&self, code: impl Fn(f32) -> f32) -> Sums {
        let mut s = Sums::default();
        for i in 0..QK {
            let q = code(self.x[i]);
            let hq = self.h[i] * q;
            s.q += hq;
            s.qq += hq * q;
            s.cq += self.c[i] * q;
        }
        s
    }

    /// The error with `scale` and `offset` as f16, and the sums of the codes they give.
    fn measure(&self, scale: f32, offset: f32) -> (Measured, Sums) {
        let (scale, offset) = (finite16(scale), finite16(offset));
        let inv = inverse(scale);
        let code = |x: f32| code((x - offset) * inv, self.top);
        let mut error = 0.0;
        for (&x, &h) in self.x.iter().zip(self.h) {
            let e = scale * code(x) + offset - x;
            error += h * (e * e);
        }
        (Measured { grid: Grid { scale, offset }, error }, self.sums(code))
    }
}
