//! The search of Q4_K and Q5_K for one super-block. See [`k_affine`](crate::quant::k_affine) for the method.

use half::f16;

use crate::quant::k_affine::KAffine;

/// Weights in a sub-block of Q4_K and Q5_K.
pub const SUB: usize = 32;
/// Sub-blocks in a super-block of Q4_K and Q5_K.
pub const SUBS: usize = 8;
/// Largest 6-bit scale or min.
pub const TOP: f32 = 63.0;
/// Scales below this are zero: their reciprocal would overflow, and f16 cannot hold them anyway.
pub const TINY: f32 = 1e-30;
/// Smallest positive f16, 2^-24.
pub const F16_MIN: f32 = 5.960_464_5e-8;
/// Largest finite f16.
pub const F16_MAX: f32 = 65504.0;
/// Below this share of its square sum the spread of the codes is rounding noise.
pub const NOISE: f32 = 1e-6;
/// What a set of codes must gain over another to be better: less is rounding noise, and sub-blocks of
/// one or two values, which any codes fit, fare better with equal codes.
pub const MARGIN: f32 = 1.000_000_5;
/// Below this share of the product of its diagonal the determinant of [`refit`] is rounding noise.
pub const DEPENDENT: f32 = 1e-5;
/// Largest scales divided by these are tried as `d`, and mins as `dmin`.
pub const TOPS: [f32; 4] = [63.0, 62.0, 61.0, 60.0];
/// Steps on the 6-bit grid tried in [`settle`]: scale, min (after the min was fitted to the scale).
pub const NEIGHBOURS: [(f32, f32); 5] = [(0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)];

/// Scales and mins of a super-block of Q4_K or Q5_K: everything but the codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; SUBS],
    pub mins: [u8; SUBS],
}

/// `a` if `a < b`, else `b`: the `minps` of x86, which every path follows to the bit.
#[inline(always)]
pub fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// `a` if `a > b`, else `b`: the `maxps` of x86.
#[inline(always)]
pub fn most(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Nearest integer, ties to even, of `|t| < 2^22`.
#[inline(always)]
pub fn nearest(t: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: the unit of the last place is 1
    (t + MAGIC) - MAGIC
}

/// `t` cut to `[0, top]`, then rounded.
#[inline(always)]
pub fn code(t: f32, top: f32) -> f32 {
    nearest(least(most(t, 0.0), top))
}

/// Returns `1/s`, or 0 where `s` is no usable scale.
#[inline(always)]
pub fn inverse(s: f32) -> f32 {
    if s > TINY { 1.0 / s } else { 0.0 }
}

/// Nearest f16 as f32, for finite `t` of at most [`F16_MAX`].
#[inline(always)]
pub fn round16(t: f32) -> f32 {
    f16::from_f32(t).to_f32()
}

/// Nearest non-negative finite f16 as f32; 0 for NaN.
#[inline(always)]
pub fn positive16(t: f32) -> f32 {
    round16(least(most(t, 0.0), F16_MAX))
}

/// Sum over the sub-blocks of a super-block in the order of a butterfly of vector shuffles.
#[inline(always)]
pub fn sum8(v: impl Fn(usize) -> f32) -> f32 {
    ((v(0) + v(1)) + (v(2) + v(3))) + ((v(4) + v(5)) + (v(6) + v(7)))
}

/// Data-free weights of a sub-block: `rms + |w|`.
pub fn plain_weights(x: &[f32; SUB]) -> [f32; SUB] {
    let mut squares = 0.0;
    for &v in x {
        squares += v * v;
    }
    let rms = (squares * (1.0 / SUB as f32)).sqrt();
    x.map(|v| rms + v.abs())
}

/// Weights of a super-block from the importance `h` of its columns: `h sqrt(2 mean(w^2) + w^2)`.
pub fn importance_weights(x: &[f32; 256], h: &[f32; 256]) -> [f32; 256] {
    let squares = sum8(|j| x[j * SUB..][..SUB].iter().fold(0.0, |s, &v| s + v * v));
    let twice_mean = squares * (2.0 / 256.0);
    std::array::from_fn(|i| h[i] * (twice_mean + x[i] * x[i]).sqrt())
}

/// A sub-block and what its search needs that does not depend on the codes.
struct SubBlock<'a> {
    x: &'a [f32; SUB],
    /// Weights.
    w: &'a [f32; SUB],
    /// `w (x - mean)`
    wc: [f32; SUB],
    sum_w: f32,
    inv_w: f32,
    /// Weighted mean of `x`.
    mean: f32,
    /// Smallest `x`, or 0 if all are positive.
    low: f32,
    /// `max(x) - low`
    range: f32,
}

impl<'a> SubBlock<'a> {
    fn new(x: &'a [f32; SUB], w: &'a [f32; SUB]) -> Self {
        let (mut low, mut high) = (0.0, x[0]);
        let (mut sum_w, mut first) = (0.0, 0.0);
        for i in 0..SUB {
            low = least(low, x[i]);
            high = most(high, x[i]);
            sum_w += w[i];
            first += w[i] * x[i];
        }
        let mean = if sum_w > 0.0 { first / sum_w } else { 0.0 };
        let wc = std::array::from_fn(|i| w[i] * (x[i] - mean));
        Self { x, w, wc, sum_w, inv_w: inverse(sum_w), mean, low, range: high - low }
    }

    /// The sums of the codes of `(x + shift) * inv + offset`.
    fn sums<F: KAffine>(&self, shift: f32, inv: f32, offset: f32) -> Sums {
        let mut s = Sums::default();
        for i in 0..SUB {
            let q = code((self.x[i] + shift) * inv + offset, F::LEVELS.1);
            let wq = self.w[i] * q;
            s.q += wq;
            s.qq += wq * q;
            s.cq += self.wc[i] * q;
        }
        s
    }

    /// Error at `scale` and `min` for fixed codes, less a constant. Centred: no large terms cancel
    /// however far from zero the sub-block lies.
    fn error(&self, s: &Sums, scale: f32, min: f32) -> f32 {
        let mean_code = s.q * self.inv_w;
        let spread = s.qq - s.q * mean_code;
        let off = (scale * mean_code - min) - self.mean;
        scale * (scale * spread - (s.cq + s.cq)) + self.sum_w * (off * off)
    }
}

/// Weighted sums over codes `q` and centred weights `c = x - mean`.
#[derive(Clone, Copy, Default)]
struct Sums {
    q: f32,
    qq: f32,
    cq: f32,
}

/// A sub-block's best scale and min, before they are rounded to 6 bits.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f32,
    /// At least 0: the sub-block is `scale * q - min`.
    min: f32,
    /// How much the squared error is below that of the constant `mean`.
    gain: f32,
    /// Weighted mean of the codes.
    mean_code: f32,
    /// Half the second derivative of the error by the scale, the min following where it is free.
    curvature: f32,
}

impl Fit {
    /// `other` where it has a positive scale and more gain (no NaN has).
    fn or_better(self, other: Self) -> Self {
        if other.scale > 0.0 && other.gain > self.gain * MARGIN { other } else { self }
    }
}

/// Least squares for given codes; a scale that is not positive, or NaN, means that there is none.
fn solve(b: &SubBlock, s: &Sums) -> Fit {
    let mean_code = s.q * b.inv_w;
    let spread = s.qq - s.q * mean_code;
    let scale = s.cq / spread;
    let min = scale * mean_code - b.mean;
    if spread > NOISE * s.qq && min > 0.0 {
        return Fit { scale, min, gain: s.cq * scale, mean_code, curvature: spread };
    }
    // The min would be negative, or the codes are all equal: scale alone.
    let xq = s.cq + b.mean * s.q;
    let scale = xq / s.qq;
    let gain = xq * scale - b.sum_w * b.mean * b.mean;
    Fit { scale, min: 0.0, gain, mean_code, curvature: s.qq }
}

/// Step 1: the least-squares scale and min over a few sets of codes, then once more with the codes
/// of the best.
fn fit<F: KAffine>(b: &SubBlock) -> Fit {
    let inv_range = inverse(b.range);
    // Without codes: the mean if it is negative, else nothing.
    let above = most(b.mean, 0.0);
    let gain = 0.0 - b.sum_w * above * above;
    let mut best = Fit { min: most(0.0 - b.mean, 0.0), gain, ..Fit::default() };
    for (stretch, offset) in F::CANDIDATES {
        let inv = (F::LEVELS.1 + stretch) * inv_range;
        best = best.or_better(solve(b, &b.sums::<F>(0.0 - b.low, inv, *offset)));
    }
    best.or_better(solve(b, &b.sums::<F>(best.min, inverse(best.scale), 0.0)))
}

/// Step 2: a common factor, an f16, and 6-bit integers for the non-negative values `v` with weights
/// `w`. Returns the factor with the least weighted squared error among [`TOPS`], and the integers.
fn common_factor(v: &[f32; SUBS], w: &[f32; SUBS]) -> (f32, [f32; SUBS]) {
    let largest = v.iter().fold(0.0, |a, &b| most(a, b));
    let mut best = (f32::INFINITY, 0.0, [0.0; SUBS]);
    for top in TOPS {
        let first = most(positive16(largest * (1.0 / top)), F16_MIN);
        let inv = 1.0 / first;
        let q = v.map(|v| code(v * inv, TOP));
        let num = sum8(|j| w[j] * q[j] * v[j]);
        let den = sum8(|j| w[j] * q[j] * q[j]);
        let factor = if den > 0.0 { positive16(num / den) } else { first };
        let error = sum8(|j| {
            let e = v[j] - factor * q[j];
            w[j] * e * e
        });
        if error < best.0 {
            best = (error, factor, q);
        }
    }
    (best.1, best.2)
}

/// A sub-block on the 6-bit grid, with the sums of its codes.
#[derive(Clone, Copy, Default)]
struct Settled {
    scale: f32,
    min: f32,
    sums: Sums,
}

/// Step 3: neighbours of `scale` on the 6-bit grid; see the module's text.
fn settle<F: KAffine>(b: &SubBlock, start_scale: f32, mean_code: f32, d: f32, dmin: f32) -> Settled {
    let (inv_d, inv_dmin) = (inverse(d), inverse(dmin));
    let mut best = Settled::default();
    let mut least_error = f32::INFINITY;
    for (step, min_step) in NEIGHBOURS {
        let scale = most(least(start_scale + step, TOP), 0.0) * d;
        let min = code((scale * mean_code - b.mean) * inv_dmin, TOP);
        let min = most(least(min + min_step, TOP), 0.0) * dmin;
        let s = b.sums::<F>(min, inverse(scale), 0.0);
        // The best scale for these codes and this min, then the best min for that scale.
        let num = (s.cq + b.mean * s.q) + min * s.q;
        let ideal = if s.qq > 0.0 { num / s.qq } else { 0.0 };
        let q_scale = code(ideal * inv_d, TOP);
        let scale = q_scale * d;
        let q_min = code((scale * (s.q * b.inv_w) - b.mean) * inv_dmin, TOP);
        let error = b.error(&s, scale, q_min * dmin);
        if error < least_error {
            least_error = error;
            best = Settled { scale: q_scale, min: q_min, sums: s };
        }
    }
    best
}

/// Step 4: `d` and `dmin` by least squares over the super-block, if that is better after rounding.
fn refit(b: &[SubBlock; SUBS], at: &[Settled; SUBS], d: f32, dmin: f32) -> (f32, f32) {
    let ss = sum8(|j| at[j].scale * at[j].scale * at[j].sums.qq);
    let sm = sum8(|j| at[j].scale * at[j].min * at[j].sums.q);
    let mm = sum8(|j| at[j].min * at[j].min * b[j].sum_w);
    let sx = sum8(|j| at[j].scale * (at[j].sums.cq + b[j].mean * at[j].sums.q));
    let mx = sum8(|j| at[j].min * (b[j].sum_w * b[j].mean));
    let det = ss * mm - sm * sm;
    let both = (sx * mm - sm * mx) / det;
    let alone = (sx + sm * dmin) / ss;
    let wanted = if det > DEPENDENT * (ss * mm) { both } else { alone };
    let new_d = if ss > 0.0 { positive16(wanted) } else { d };
    let new_dmin = if mm > 0.0 { positive16((sm * new_d - mx) / mm) } else { dmin };
    let total = |d: f32, dmin: f32| sum8(|j| b[j].error(&at[j].sums, at[j].scale * d, at[j].min * dmin));
    if total(new_d, new_dmin) < total(d, dmin) { (new_d, new_dmin) } else { (d, dmin) }
}

/// Scales and mins of a super-block `x` with weights `u > 0` (0 only where all of `x` is 0).
pub fn search<F: KAffine>(x: &[f32; 256], u: &[f32; 256]) -> Grid {
    let (x, u) = (x.as_chunks().0, u.as_chunks().0);
    let b: [SubBlock; SUBS] = std::array::from_fn(|j| SubBlock::new(&x[j], &u[j]));
    let fits: [Fit; SUBS] = std::array::from_fn(|j| fit::<F>(&b[j]));
    let (d, scales) = common_factor(&fits.map(|f| f.scale), &fits.map(|f| f.curvature));
    let mins: [f32; SUBS] = std::array::from_fn(|j| most(scales[j] * d * fits[j].mean_code - b[j].mean, 0.0));
    let sums_w: [f32; SUBS] = std::array::from_fn(|j| b[j].sum_w);
    let (dmin, _) = common_factor(&mins, &sums_w);
    let at: [Settled; SUBS] =
        std::array::from_fn(|j| settle::<F>(&b[j], scales[j], fits[j].mean_code, d, dmin));
    let (d, dmin) = refit(&b, &at, d, dmin);
    Grid {
        d: f16::from_f32(d),
        dmin: f16::from_f32(dmin),
        scales: at.map(|s| s.scale as u8),
        mins: at.map(|s| s.min as u8),
    }
}

/// Codes of a super-block under `grid`: the nearest of each weight.
pub fn assign<F: KAffine>(x: &[f32; 256], grid: &Grid) -> [u8; 256] {
    let (d, dmin) = (grid.d.to_f32(), grid.dmin.to_f32());
    std::array::from_fn(|i| {
        let inv = inverse(d * f32::from(grid.scales[i / SUB]));
        let min = dmin * f32::from(grid.mins[i / SUB]);
        code((x[i] + min) * inv, F::LEVELS.1) as u8
    })
}

/// Weights of a super-block for the search: from the importance of its columns, or data-free.
pub fn weights(x: &[f32; 256], h: Option<&[f32; 256]>) -> [f32; 256] {
    match h {
        Some(h) => importance_weights(x, h),
        None => {
            let mut u = [0.0; 256];
            for (u, x) in u.as_chunks_mut::<SUB>().0.iter_mut().zip(x.as_chunks::<SUB>().0) {
                *u = plain_weights(x);
            }
            u
        }
    }
}
