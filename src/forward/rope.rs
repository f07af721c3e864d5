//! Rotary position embedding (RoPE, Su et al. 2021) with linear, YaRN (Peng et al. 2023), Llama 3 and LongRoPE scaling. The
//! last two come as divisors of the frequencies with the model.
//!
//! ```
//! use srd_rs::forward::arch::RopeStyle;
//! use srd_rs::forward::rope::Rope;
//!
//! let rope = Rope {
//!     style: RopeStyle::Adjacent, dims: 2, base: 10_000.0, scale: 1.0, extrapolation: 0.0, magnitude: 1.0,
//!     beta_fast: 32.0, beta_slow: 1.0, original_context: 2048, divisors: None,
//! };
//! // One head of two values at position 1: a rotation by one radian.
//! let mut x = [1.0, 0.0];
//! rope.table(2).rotate(&mut x, 2, 2, &[1]);
//! assert!((x[0] - 1f32.cos()).abs() < 1e-6 && (x[1] - 1f32.sin()).abs() < 1e-6);
//! ```

use rayon::prelude::*;

use crate::forward::arch::RopeStyle;

/// The parameters of a rotation. The positions of a chunk start at 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which values of a head a rotation pairs.
    pub style: RopeStyle,
    /// Number of values of a head that are rotated.
    pub dims: usize,
    /// Base of the frequencies: pair i of n has the frequency base^(-i/n).
    pub base: f64,
    /// Factor of the frequencies: 1 / the scaling factor.
    pub scale: f64,
    /// The share of the high frequencies that stays unscaled: 1 for YaRN, else 0.
    pub extrapolation: f64,
    /// Factor of the rotated values.
    pub magnitude: f64,
    /// YaRN: pairs with more rotations than this over the original context stay unscaled.
    pub beta_fast: f64,
    /// YaRN: pairs with fewer rotations than this over the original context are scaled in full.
    pub beta_slow: f64,
    /// Number of tokens of the context that the model was trained with before its context was extended.
    pub original_context: usize,
    /// Divisor of each frequency, `[dims / 2]`.
    pub divisors: Option<Vec<f32>>,
}

/// The cosines and sines of every position and pair.
#[derive(Debug)]
pub struct Table {
    style: RopeStyle,
    pairs: usize,
    /// For each position `pairs` cosines, then `pairs` sines.
    values: Vec<f32>,
}

impl Rope {
    /// Computes the table for the given number of positions.
    pub fn table(&self, positions: usize) -> Table {
        let pairs = self.dims / 2;
        let magnitude = self.magnitude * self.yarn_magnitude();
        let (low, high) = self.ramp();
        let frequency: Vec<(f64, f64)> = (0..pairs)
            .map(|i| {
                let divisor = self.divisors.as_ref().map_or(1.0, |d| f64::from(d[i]));
                let plain = libm::pow(self.base, -2.0 * i as f64 / self.dims as f64) / divisor;
                let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let kept = (1.0 - ramp) * self.extrapolation;
                (plain * self.scale, kept * plain * (1.0 - self.scale))
            })
            .collect();
        let mut values = vec![0.0; positions * 2 * pairs];
        values.par_chunks_mut((2 * pairs).max(1)).enumerate().for_each(|(position, row)| {
            let (cos, sin) = row.split_at_mut(pairs);
            for (i, &(scaled, kept)) in frequency.iter().enumerate() {
                let angle = position as f64 * (scaled + kept);
                cos[i] = (libm::cos(angle) * magnitude) as f32;
                sin[i] = (libm::sin(angle) * magnitude) as f32;
            }
        });
        Table { style: self.style, pairs, values }
    }

    /// Returns YaRN's attention temperature as a factor of queries and keys.
    fn yarn_magnitude(&self) -> f64 {
        if self.extrapolation == 0.0 { 1.0 } else { 1.0 + 0.1 * libm::log(1.0 / self.scale) }
    }

    /// Returns the pairs between which YaRN goes from unscaled to scaled frequencies.
    fn ramp(&self) -> (f64, f64) {
        let pair_of = |rotations: f64| {
            let wave = self.original_context as f64 / (rotations * 2.0 * std::f64::consts::PI);
            self.dims as f64 * libm::log(wave) / (2.0 * libm::log(self.base))
        };
        let low = libm::floor(pair_of(self.beta_fast)).max(0.0);
        let high = libm::ceil(pair_of(self.beta_slow)).min(self.dims as f64 - 1.0);
        (low, high)
    }
}

impl Table {
    /// Rotates every head of `head_dim` values in rows of `width` values. `positions` holds the position of each row.
    ///
    /// # Panics
    /// Panics if a position is beyond the table, or if a head has fewer values than the table rotates.
    pub fn rotate(&self, x: &mut [f32], width: usize, head_dim: usize, positions: &[u32]) {
        self.turn(x, width, head_dim, positions, 1.0);
    }

    /// Turns the derivatives of a number by the outputs of [`Table::rotate`] into its derivatives by the inputs: the rotation is
    /// undone, and the magnitude is applied again.
    ///
    /// # Panics
    /// As [`Table::rotate`].
    pub fn gradient(&self, gradient: &mut [f32], width: usize, head_dim: usize, positions: &[u32]) {
        self.turn(gradient, width, head_dim, positions, -1.0);
    }

    /// Rotates by the angles times `sign`, which is 1 or -1.
    fn turn(&self, x: &mut [f32], width: usize, head_dim: usize, positions: &[u32], sign: f32) {
        let pairs = self.pairs;
        x.par_chunks_mut(width).zip(positions).for_each(|(row, &position)| {
            let at = position as usize * 2 * pairs;
            let (cos, sin) = self.values[at..at + 2 * pairs].split_at(pairs);
            row.chunks_exact_mut(head_dim).for_each(|head| match self.style {
                RopeStyle::Adjacent => rotate_adjacent(&mut head[..2 * pairs], cos, sin, sign),
                RopeStyle::Halves => rotate_halves(&mut head[..2 * pairs], cos, sin, sign),
            });
        });
    }
}

fn rotate_adjacent(x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    for ((pair, c), s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b, s) = (pair[0], pair[1], sign * s);
        pair[0] = a * c - b * s;
        pair[1] = a * s + b * c;
    }
}

fn rotate_halves(x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let s = sign * s;
        (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(style: RopeStyle, dims: usize) -> Rope {
        Rope {
            style,
            dims,
            base: 10_000.0,
            scale: 1.0,
            extrapolation: 0.0,
            magnitude: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 2048,
            divisors: None,
        }
    }

    #[test]
    fn rotates_by_position_times_frequency() {
        let head: Vec<f32> = (0..10).map(|i| i as f32 - 3.5).collect();
        for style in [RopeStyle::Adjacent, RopeStyle::Halves] {
            // 8 of 10 values are rotated, the last two stay. Two heads at positions 0 and 7.
            let mut x = [head.clone(), head.clone(), head.clone(), head.clone()].concat();
            plain(style, 8).table(8).rotate(&mut x, 20, 10, &[0, 7]);
            assert_eq!(&x[..10], &head[..]);
            assert_eq!(&x[20..30], &x[30..]);
            assert_eq!(&x[28..30], &head[8..]);
            for i in 0..4 {
                let (a, b) = if style == RopeStyle::Adjacent { (2 * i, 2 * i + 1) } else { (i, i + 4) };
                let angle = 7.0 * 10_000f64.powf(-(2.0 * i as f64) / 8.0);
                let (re, im) = (f64::from(head[a]), f64::from(head[b]));
                let (c, s) = (angle.cos(), angle.sin());
                assert!((f64::from(x[20 + a]) - (re * c - im * s)).abs() < 1e-5);
                assert!((f64::from(x[20 + b]) - (re * s + im * c)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn divisors_and_linear_scaling_slow_the_rotation() {
        let divided = Rope { divisors: Some(vec![4.0; 4]), ..plain(RopeStyle::Adjacent, 8) };
        let scaled = Rope { scale: 0.25, ..plain(RopeStyle::Adjacent, 8) };
        let (a, b) = (divided.table(9), scaled.table(9));
        assert_eq!(a.values, b.values);
        assert_eq!(a.values[8 * 8..], plain(RopeStyle::Adjacent, 8).table(3).values[2 * 8..]);
    }

    #[test]
    fn yarn_keeps_high_frequencies_and_scales_low_ones() {
        let yarn = Rope { scale: 0.25, extrapolation: 1.0, ..plain(RopeStyle::Halves, 128) };
        let magnitude = 1.0 + 0.1 * 4f64.ln();
        let table = yarn.table(2);
        let sin = |i: usize| f64::from(table.values[128 + 64 + i]);
        assert!((sin(0) - 1f64.sin() * magnitude).abs() < 1e-6);
        let last = 10_000f64.powf(-126.0 / 128.0);
        assert!((sin(63) - (last / 4.0).sin() * magnitude).abs() < 1e-9);
    }
}
