//! Activation functions on an exponential of the crate's own, so that every machine computes the same bits.
//!
//! The loops contain multiplications, additions, divisions and operations on bits only. A compiler can turn such loops
//! into vectors of any width without a change of a bit.
//!
//! ```
//! use srd_rs::forward::activation::gated;
//! use srd_rs::forward::arch::Activation;
//!
//! let (mut gate, up) = ([0.0, 1.0, -20.0], [3.0, 2.0, 1.0]);
//! gated(Activation::Silu, &mut gate, &up);
//! assert!(gate[0] == 0.0 && (gate[1] - 2.0 * 0.731_058_6).abs() < 1e-6 && gate[2].abs() < 1e-7);
//! ```

use rayon::prelude::*;

use crate::forward::arch::Activation;
use crate::simd::{Isa, dispatch};

/// Number of values in a parallel piece of work.
const PIECE: usize = 1 << 14;
/// The numbers of the tanh form of GELU: 2 sqrt(2 / pi), and the factor of the cube.
const TWICE_SQRT_2_PI: f32 = 1.595_769_2;
const CUBIC: f32 = 0.044_715;

/// Computes `gate = f(gate) * up`.
pub fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
    let (f, isa) = (gated_function(activation), Isa::detect());
    gate.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE)).for_each(|(gate, up)| f(isa, gate, up));
}

/// Computes `x = x sigmoid(gate)`.
pub fn gated_by_sigmoid(x: &mut [f32], gate: &[f32]) {
    let isa = Isa::detect();
    x.par_chunks_mut(PIECE).zip(gate.par_chunks(PIECE)).for_each(|(x, gate)| sigmoid_gated(isa, x, gate));
}

/// Computes `x = x f(gate)`, where `f` is ln(1 + e^x) or the logistic function. Each value of `gate` is for as many
/// neighbours in `x` as `x` is longer.
pub fn gated_by_heads(x: &mut [f32], gate: &[f32], by_softplus: bool) {
    let n = x.len() / gate.len().max(1);
    let f: fn(f32) -> f32 = if by_softplus { softplus } else { sigmoid };
    x.par_chunks_mut(n.max(1)).zip(gate).for_each(|(x, gate)| {
        let factor = f(*gate);
        x.iter_mut().for_each(|x| *x *= factor);
    });
}

/// The numbers of xIELU in a layer.
#[derive(Debug, Clone, Copy)]
pub struct Xielu {
    /// Factor of the exponential below 0.
    pub alpha_n: f32,
    /// Factor of the square above 0.
    pub alpha_p: f32,
    /// Factor of x.
    pub beta: f32,
    /// Largest exponent.
    pub eps: f32,
}

impl Xielu {
    /// Computes `x = f(x)` (Huang and Schlag 2024).
    pub fn apply(self, x: &mut [f32]) {
        x.par_chunks_mut(PIECE).for_each(|x| x.iter_mut().for_each(|x| *x = self.of(*x)));
    }

    fn of(self, x: f32) -> f32 {
        let curved =
            if x > 0.0 { self.alpha_p * x * x } else { (libm::expm1f(x.min(self.eps)) - x) * self.alpha_n };
        curved + self.beta * x
    }
}

/// Returns ln(1 + e^x). Above 20 the result is x.
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { libm::log1pf(libm::expf(x)) }
}

/// Computes `x = f(x)`.
pub fn plain(activation: Activation, x: &mut [f32]) {
    let (f, isa) = (plain_function(activation), Isa::detect());
    x.par_chunks_mut(PIECE).for_each(|x| f(isa, x));
}

/// Computes `x = cap tanh(x / cap)`.
pub fn soft_cap(x: &mut [f32], cap: f32) {
    let isa = Isa::detect();
    x.par_chunks_mut(PIECE).for_each(|x| soft_cap_piece(isa, x, cap));
}

/// Turns the inputs `gate` and `up` of [`gated`] into the derivatives of a number by them. `gradient` holds its derivatives by the
/// outputs.
pub fn gated_gradient(activation: Activation, gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    let isa = Isa::detect();
    let pieces = gate.par_chunks_mut(PIECE).zip(up.par_chunks_mut(PIECE)).zip(gradient.par_chunks(PIECE));
    pieces.for_each(|((gate, up), gradient)| gated_gradient_piece(isa, activation, gate, up, gradient));
}

/// Turns the inputs `x` of [`plain`] into the derivatives of a number by them. `gradient` holds its derivatives by the outputs.
pub fn plain_gradient(activation: Activation, x: &mut [f32], gradient: &[f32]) {
    let isa = Isa::detect();
    let pieces = x.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE));
    pieces.for_each(|(x, gradient)| plain_gradient_piece(isa, activation, x, gradient));
}

/// Returns whether the derivative of an activation is known to [`gated_gradient`] and [`plain_gradient`].
pub fn has_gradient(activation: Activation) -> bool {
    matches!(activation, Activation::Silu | Activation::Gelu | Activation::ReluSquared)
}

fn gated_function(activation: Activation) -> fn(Isa, &mut [f32], &[f32]) {
    match activation {
        Activation::Silu => silu_gated,
        Activation::Gelu => gelu_gated,
        Activation::ReluSquared => relu_squared_gated,
        Activation::Xielu => unreachable!("a network with this activation has no gate"),
        Activation::ClampedSwiglu => clamped_swiglu,
    }
}

fn plain_function(activation: Activation) -> fn(Isa, &mut [f32]) {
    match activation {
        Activation::Silu => silu,
        Activation::Gelu => gelu,
        Activation::ReluSquared => relu_squared,
        Activation::Xielu => unreachable!("this activation has numbers of its layer"),
        Activation::ClampedSwiglu => unreachable!("the shapes are checked: this activation needs a gate"),
    }
}

dispatch! {
    fn silu_gated(_simd: S, gate: &mut [f32], up: &[f32]) {
        each_gated(gate, up, silu_of);
    }

    fn gelu_gated(_simd: S, gate: &mut [f32], up: &[f32]) {
        each_gated(gate, up, gelu_of);
    }

    fn relu_squared_gated(_simd: S, gate: &mut [f32], up: &[f32]) {
        each_gated(gate, up, relu_squared_of);
    }

    fn clamped_swiglu(_simd: S, gate: &mut [f32], up: &[f32]) {
        gate.iter_mut().zip(up).for_each(|(g, u)| *g = clamped_swiglu_of(*g, *u));
    }

    fn sigmoid_gated(_simd: S, x: &mut [f32], gate: &[f32]) {
        x.iter_mut().zip(gate).for_each(|(x, g)| *x *= sigmoid(*g));
    }

    fn silu(_simd: S, x: &mut [f32]) {
        each(x, silu_of);
    }

    fn gelu(_simd: S, x: &mut [f32]) {
        each(x, gelu_of);
    }

    fn relu_squared(_simd: S, x: &mut [f32]) {
        each(x, relu_squared_of);
    }

    fn soft_cap_piece(_simd: S, x: &mut [f32], cap: f32) {
        cap_all(x, cap);
    }

    fn gated_gradient_piece(_simd: S, of: Activation, gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
        match of {
            Activation::Silu => each_gated_gradient(gate, up, gradient, silu_with_slope),
            Activation::Gelu => each_gated_gradient(gate, up, gradient, gelu_with_slope),
            Activation::ReluSquared => each_gated_gradient(gate, up, gradient, relu_squared_with_slope),
            Activation::Xielu | Activation::ClampedSwiglu => unreachable!("`has_gradient` says no"),
        }
    }

    fn plain_gradient_piece(_simd: S, of: Activation, x: &mut [f32], gradient: &[f32]) {
        match of {
            Activation::Silu => each_gradient(x, gradient, silu_with_slope),
            Activation::Gelu => each_gradient(x, gradient, gelu_with_slope),
            Activation::ReluSquared => each_gradient(x, gradient, relu_squared_with_slope),
            Activation::Xielu | Activation::ClampedSwiglu => unreachable!("`has_gradient` says no"),
        }
    }
}

#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    x.iter_mut().for_each(|x| *x = f(*x));
}

#[inline(always)]
fn each_gated(gate: &mut [f32], up: &[f32], f: impl Fn(f32) -> f32) {
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = f(*g) * u);
}

/// `f` returns an activation and its derivative.
#[inline(always)]
fn each_gated_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32], f: impl Fn(f32) -> (f32, f32)) {
    for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradient) {
        let (value, slope) = f(*gate);
        (*gate, *up) = (gradient * *up * slope, gradient * value);
    }
}

#[inline(always)]
fn each_gradient(x: &mut [f32], gradient: &[f32], f: impl Fn(f32) -> (f32, f32)) {
    x.iter_mut().zip(gradient).for_each(|(x, gradient)| *x = gradient * f(*x).1);
}

/// Computes `x = cap tanh(x / cap)` inside a function that is compiled for an instruction set.
#[inline(always)]
pub(super) fn cap_all(x: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    each(x, |x| cap * tanh(x * inverse));
}

/// Returns e^x with a relative error below 2^-22. Below -87 the result stays at e^-87, above 88 at e^88.
///
/// The argument is reduced as by Cody and Waite (1980): x = n ln 2 + r with |r| <= ln 2 / 2, where ln 2 is split into two
/// parts so that the product of n and the first part is exact. The exponent bits of the result hold n, and a Taylor
/// polynomial gives e^r.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// A sum with this number has the nearest integer of the other summand in its low bits.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let tail =
        ((((r * (1.0 / 5040.0) + 1.0 / 720.0) * r + 1.0 / 120.0) * r + 1.0 / 24.0) * r + 1.0 / 6.0) * r + 0.5;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    (tail * r * r + r + 1.0) * power
}

/// Returns the logistic function of x.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Returns tanh(x) with an absolute error of about 1e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

#[inline(always)]
fn silu_of(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
fn silu_with_slope(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s + x * s * (1.0 - s))
}

/// Returns GELU in its tanh form (Hendrycks and Gimpel 2016): x (1 + tanh u) / 2 = x sigmoid(2 u) with
/// u = sqrt(2 / pi) (x + 0.044715 x^3).
#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    x * sigmoid(TWICE_SQRT_2_PI * x * (1.0 + CUBIC * x * x))
}

#[inline(always)]
fn gelu_with_slope(x: f32) -> (f32, f32) {
    let s = sigmoid(TWICE_SQRT_2_PI * x * (1.0 + CUBIC * x * x));
    (x * s, s + x * s * (1.0 - s) * TWICE_SQRT_2_PI * (1.0 + 3.0 * CUBIC * x * x))
}

/// Returns g sigmoid(1.702 g) (u + 1) of the clamped gate g and the clamped u.
#[inline(always)]
fn clamped_swiglu_of(gate: f32, up: f32) -> f32 {
    const LIMIT: f32 = 7.0;
    let gate = gate.min(LIMIT);
    gate * sigmoid(1.702 * gate) * (up.clamp(-LIMIT, LIMIT) + 1.0)
}

#[inline(always)]
fn relu_squared_of(x: f32) -> f32 {
    let x = x.max(0.0);
    x * x
}

#[inline(always)]
fn relu_squared_with_slope(x: f32) -> (f32, f32) {
    (relu_squared_of(x), 2.0 * x.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns numbers all over the range of the exponential, which a rounded product may leave.
    fn sweep() -> impl Iterator<Item = f32> {
        (-87_000..=88_000).map(|i| (i as f32 * 1e-3).clamp(-87.0, 88.0))
    }

    #[test]
    fn the_relative_error_of_the_exponential_is_below_its_bound() {
        for x in sweep() {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2f64.powi(-22), "{x}: {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), exp(-87.0));
        assert!(exp(1e30).is_finite());
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
            let numbers = Xielu { alpha_n: 0.5, alpha_p: 0.25, beta: 0.5, eps: -1e-6 };
            let mut curved = [x];
            numbers.apply(&mut curved);
            let exact = if v > 0.0 { 0.25 * v * v } else { 0.5 * (v.exp_m1() - v) } + 0.5 * v;
            assert!((f64::from(curved[0]) - exact).abs() < 2e-6 * exact.abs() + 2e-6, "xIELU {x}");
            let mut capped = [x];
            soft_cap(&mut capped, 30.0);
            assert!((f64::from(capped[0]) - 30.0 * (v / 30.0).tanh()).abs() < 1e-5);
        }
    }

    #[test]
    fn gradients_are_the_quotients_of_differences() {
        let value = |activation, gate: f32, up: f32| {
            let mut gate = [gate];
            gated(activation, &mut gate, &[up]);
            f64::from(gate[0])
        };
        for activation in [Activation::Silu, Activation::Gelu, Activation::ReluSquared] {
            assert!(has_gradient(activation));
            for x in (-60..=60).map(|i| i as f32 * 0.11) {
                let (mut gate, mut up, mut alone) = ([x], [1.5f32], [x]);
                gated_gradient(activation, &mut gate, &mut up, &[2.0]);
                plain_gradient(activation, &mut alone, &[2.0]);
                let step = 1.0 / 128.0;
                let by_gate = value(activation, x + step, 1.5) - value(activation, x - step, 1.5);
                assert!((f64::from(gate[0]) - by_gate * 128.0).abs() < 0.02, "{activation:?} {x}: {gate:?}");
                assert!((f64::from(up[0]) - 2.0 * value(activation, x, 1.0)).abs() < 1e-4);
                assert!((alone[0] - gate[0] / 1.5).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn every_instruction_set_computes_the_bits_of_one_value_at_a_time() {
        let x: Vec<f32> = sweep().step_by(11).collect();
        for activation in [Activation::Silu, Activation::Gelu, Activation::ReluSquared] {
            for isa in Isa::available() {
                let mut together = x.clone();
                plain_function(activation)(isa, &mut together);
                for (x, together) in x.iter().zip(together) {
                    let mut alone = [*x];
                    plain_function(activation)(Isa::PORTABLE, &mut alone);
                    assert_eq!(alone[0].to_bits(), together.to_bits(), "{activation:?} {isa:?} {x}");
                }
            }
        }
    }
}
