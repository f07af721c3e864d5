//! Activations on our own exponential, so that every machine computes the same bits.

use rayon::prelude::*;

use crate::forward::arch::Activation;
use crate::forward::simd;

/// Values of a parallel piece.
const PIECE: usize = 1 << 14;

/// `gate = f(gate) * up`.
pub fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
    let f = match activation {
        Activation::Silu => simd::silu_gated,
        Activation::Gelu => simd::gelu_gated,
        Activation::ReluSquared => simd::relu_squared_gated,
    };
    gate.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE)).for_each(|(gate, up)| f(gate, up));
}

/// `x = f(x)`.
pub fn plain(activation: Activation, x: &mut [f32]) {
    let f = match activation {
        Activation::Silu => simd::silu,
        Activation::Gelu => simd::gelu,
        Activation::ReluSquared => simd::relu_squared,
    };
    x.par_chunks_mut(PIECE).for_each(f);
}

/// `x = cap tanh(x / cap)`.
pub fn soft_cap(x: &mut [f32], cap: f32) {
    x.par_chunks_mut(PIECE).for_each(|x| simd::soft_cap(x, cap));
}

/// The logistic function of one value.
pub fn sigmoid(x: f32) -> f32 {
    kernels::sigmoid(x)
}

/// Element-wise code that a compiler turns into vectors of any width without changing a bit: multiplications,
/// additions, divisions and bits only.
pub mod kernels {
    /// e^x within 2 units in the last place; below -87 it stays at e^-87, above 88 at e^88.
    ///
    /// x = n ln 2 + r with |r| <= ln 2 / 2; the exponent bits hold n, and a Taylor polynomial e^r.
    #[inline(always)]
    pub fn exp(x: f32) -> f32 {
        /// Adding it leaves the nearest integer in the low bits of the sum.
        const MAGIC: f32 = 12_582_912.0;
        /// ln 2 in two parts; products of the first with small integers are exact.
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let x = x.clamp(-87.0, 88.0);
        let shifted = x * std::f32::consts::LOG2_E + MAGIC;
        let n = shifted - MAGIC;
        let r = x - n * LN2_HIGH - n * LN2_LOW;
        let tail =
            ((((r * (1.0 / 5040.0) + 1.0 / 720.0) * r + 1.0 / 120.0) * r + 1.0 / 24.0) * r + 1.0 / 6.0) * r
                + 0.5;
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
        (tail * r * r + r + 1.0) * power
    }

    #[inline(always)]
    pub fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + exp(-x))
    }

    /// Absolute error about 1e-7.
    #[inline(always)]
    pub fn tanh(x: f32) -> f32 {
        2.0 * sigmoid(2.0 * x) - 1.0
    }

    #[inline(always)]
    fn silu_of(x: f32) -> f32 {
        x * sigmoid(x)
    }

    /// x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016).
    #[inline(always)]
    fn gelu_of(x: f32) -> f32 {
        const TWICE_SQRT_2_PI: f32 = 1.595_769_2;
        x * sigmoid(TWICE_SQRT_2_PI * x * (1.0 + 0.044_715 * x * x))
    }

    #[inline(always)]
    fn relu_squared_of(x: f32) -> f32 {
        let x = x.max(0.0);
        x * x
    }

    #[inline(always)]
    fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
        x.iter_mut().for_each(|x| *x = f(*x));
    }

    #[inline(always)]
    fn each_gated(gate: &mut [f32], up: &[f32], f: impl Fn(f32) -> f32) {
        gate.iter_mut().zip(up).for_each(|(g, u)| *g = f(*g) * u);
    }

    #[inline(always)]
    pub fn silu_gated(gate: &mut [f32], up: &[f32]) {
        each_gated(gate, up, silu_of);
    }

    #[inline(always)]
    pub fn gelu_gated(gate: &mut [f32], up: &[f32]) {
        each_gated(gate, up, gelu_of);
    }

    #[inline(always)]
    pub fn relu_squared_gated(gate: &mut [f32], up: &[f32]) {
        each_gated(gate, up, relu_squared_of);
    }

    #[inline(always)]
    pub fn silu(x: &mut [f32]) {
        each(x, silu_of);
    }

    #[inline(always)]
    pub fn gelu(x: &mut [f32]) {
        each(x, gelu_of);
    }

    #[inline(always)]
    pub fn relu_squared(x: &mut [f32]) {
        each(x, relu_squared_of);
    }

    #[inline(always)]
    pub fn soft_cap(x: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        each(x, |x| cap * tanh(x * inverse));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The range of the exponential, which a rounded product may leave.
    fn sweep() -> impl Iterator<Item = f32> {
        (-87_000..=88_000).map(|i| (i as f32 * 1e-3).clamp(-87.0, 88.0))
    }

    #[test]
    fn the_exponential_is_within_two_units_in_the_last_place() {
        for x in sweep() {
            let exact = f64::from(x).exp();
            let error = (f64::from(kernels::exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "{x}: {error:e}");
        }
        assert_eq!(kernels::exp(0.0), 1.0);
        assert_eq!(kernels::exp(-1e30), kernels::exp(-87.0));
        assert!(kernels::exp(1e30).is_finite());
    }

    #[test]
    fn activations_follow_their_definitions() {
        let up = [2.0f32];
        for x in sweep().step_by(37) {
            let v = f64::from(x);
            let gelu = 0.5 * v * (1.0 + (0.797_884_560_802_865_4 * (v + 0.044715 * v * v * v)).tanh());
            let expected = [
                (Activation::Silu, v / (1.0 + (-v).exp())),
                (Activation::Gelu, gelu),
                (Activation::ReluSquared, v.max(0.0).powi(2)),
            ];
            for (activation, exact) in expected {
                let (mut one, mut two) = ([x], [x]);
                plain(activation, &mut one);
                gated(activation, &mut two, &up);
                let tolerance = 1e-6 * exact.abs() + 1e-6;
                assert!((f64::from(one[0]) - exact).abs() < tolerance, "{activation:?} {x}");
                assert_eq!(two[0], one[0] * 2.0);
            }
            let mut capped = [x];
            soft_cap(&mut capped, 30.0);
            assert!((f64::from(capped[0]) - 30.0 * (v / 30.0).tanh()).abs() < 1e-5);
        }
    }

    #[test]
    fn vectors_compute_what_one_value_at_a_time_does() {
        let x: Vec<f32> = sweep().step_by(11).collect();
        let mut wide = x.clone();
        plain(Activation::Gelu, &mut wide);
        for (x, wide) in x.iter().zip(wide) {
            let mut one = [*x];
            kernels::gelu(&mut one);
            assert_eq!(one[0].to_bits(), wide.to_bits());
        }
    }
}
