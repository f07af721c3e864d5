//! The search of Q6_K for one super-block. See [`q6_k`](crate::quant::q6_k) for the method.

use half::f16;

use super::k_affine::{F16_MAX, F16_MIN, MARGIN, TINY, least, most, nearest, round16, sum8};

const QK_K: usize = 256;
const SUB: usize = 16;
const SUBS: usize = 16;

/// Steps per extreme tried in [`fit`]: the extreme weight is given this code, or cut to -32.
const REACH: [f32; 6] = [32.0, 31.5, 31.0, 30.5, 30.0, 32.5];
/// Largest scale divided by these is tried as `d`.
const TOPS: [f32; 4] = [128.0, 126.3, 124.7, 123.1];
/// Steps on the grid of scales tried in [`settle`].
const NEIGHBOURS: [f32; 3] = [0.0, -1.0, 1.0];

/// Scales of a super-block: everything but the codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    pub d: f16,
    pub scales: [i8; SUBS],
}

/// Nearest code in -32..=31.
#[inline(always)]
fn code(t: f32) -> f32 {
    nearest(least(most(t, -32.0), 31.0))
}

/// Nearest signed byte.
#[inline(always)]
fn byte(t: f32) -> f32 {
    nearest(least(most(t, -128.0), 127.0))
}

/// `1/s` of either sign, or 0 where `s` is no usable scale.
#[inline(always)]
fn signed_inverse(s: f32) -> f32 {
    if s.abs() > TINY { 1.0 / s } else { 0.0 }
}

/// Sum over the sub-blocks in the order of a butterfly of vector shuffles.
#[inline(always)]
fn sum16(v: impl Fn(usize) -> f32) -> f32 {
    sum8(&v) + sum8(|j| v(8 + j))
}

/// Weighted sums over codes: `w x q` and `w q q`.
#[derive(Clone, Copy, Default)]
struct Sums {
    xq: f32,
    qq: f32,
}

fn sums(x: &[f32; SUB], w: &[f32; SUB], inv: f32) -> Sums {
    let mut s = Sums::default();
    for i in 0..SUB {
        let q = code(x[i] * inv);
        s.xq += (w[i] * x[i]) * q;
        s.qq += w[i] * q * q;
    }
    s
}

/// A sub-block's best scale, before it is rounded to a byte.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f32,
    /// How much the squared error is below that of all zeros.
    gain: f32,
    /// Half the second derivative of the error.
    curvature: f32,
}

impl Fit {
    /// The least-squares scale for the codes of `s`, where it gains more (no NaN does).
    fn or_better(self, s: &Sums) -> Self {
        let scale = s.xq / s.qq;
        let gain = s.xq * scale;
        if gain > self.gain * MARGIN { Self { scale, gain, curvature: s.qq } } else { self }
    }
}

/// The least-squares scale over a few sets of codes, and once more with the codes of the best.
fn fit(x: &[f32; SUB], w: &[f32; SUB]) -> Fit {
    let (mut low, mut high) = (x[0], x[0]);
    for &v in x {
        low = least(low, v);
        high = most(high, v);
    }
    let extreme = if high > 0.0 - low { high } else { low };
    let inv_extreme = signed_inverse(extreme);
    let mut best = Fit::default();
    for reach in REACH {
        best = best.or_better(&sums(x, w, (0.0 - reach) * inv_extreme));
    }
    best.or_better(&sums(x, w, signed_inverse(best.scale)))
}

/// `d`, an f16, and signed bytes for the scales `v` with weights `w`. The largest scale comes out
/// near -128, the longer side.
fn common_factor(v: &[f32; SUBS], w: &[f32; SUBS]) -> (f32, [f32; SUBS]) {
    let low = v.iter().fold(0.0, |a, &b| least(a, b));
    let high = v.iter().fold(0.0, |a, &b| most(a, b));
    let largest = if high > 0.0 - low { high } else { low };
    let size = largest.abs();
    let sign = if largest > 0.0 { -1.0 } else { 1.0 };
    let mut best = (f32::INFINITY, 0.0, [0.0; SUBS]);
    for top in TOPS {
        let first = sign * most(round16(least(size * (1.0 / top), F16_MAX)), F16_MIN);
        let inv = 1.0 / first;
        let q = v.map(|v| byte(v * inv));
        let num = sum16(|j| w[j] * q[j] * v[j]);
        let den = sum16(|j| w[j] * q[j] * q[j]);
        let ideal = least(most(num / den, 0.0 - F16_MAX), F16_MAX);
        let factor = if den > 0.0 { round16(ideal) } else { first };
        let error = sum16(|j| {
            let e = v[j] - factor * q[j];
            w[j] * e * e
        });
        if error < best.0 {
            best = (error, factor, q);
        }
    }
    (best.1, best.2)
}

/// What a sub-block's error at `scale` is above the least for its codes. Centred on that least: no
/// large terms cancel.
fn excess(s: &Sums, scale: f32) -> f32 {
    let ideal = if s.qq > 0.0 { s.xq / s.qq } else { 0.0 };
    let off = scale - ideal;
    s.qq * (off * off)
}

/// Neighbours of `start` on the grid of scales, each with its own codes and then the best scale
/// for those; the least error stays.
fn settle(x: &[f32; SUB], w: &[f32; SUB], start: f32, d: f32) -> (f32, Sums) {
    let inv_d = signed_inverse(d);
    let mut best = (0.0, Sums::default());
    let mut least_error = f32::INFINITY;
    for step in NEIGHBOURS {
        let scale = most(least(start + step, 127.0), -128.0) * d;
        let s = sums(x, w, signed_inverse(scale));
        let ideal = if s.qq > 0.0 { s.xq / s.qq } else { 0.0 };
        let q = byte(ideal * inv_d);
        let e = excess(&s, q * d) - s.xq * ideal;
        if e < least_error {
            least_error = e;
            best = (q, s);
        }
    }
    best
}

/// Scales of a super-block `x` with weights `u >= 0`.
pub fn search(x: &[f32; QK_K], u: &[f32; QK_K]) -> Grid {
    let (x, _) = x.as_chunks::<SUB>();
    let (u, _) = u.as_chunks::<SUB>();
    let fits: [Fit; SUBS] = std::array::from_fn(|j| fit(&x[j], &u[j]));
    let (d, scales) = common_factor(&fits.map(|f| f.scale), &fits.map(|f| f.curvature));
    let at: [(f32, Sums); SUBS] = std::array::from_fn(|j| settle(&x[j], &u[j], scales[j], d));
    // d by least squares for these codes, if it is better after rounding.
    let num = sum16(|j| at[j].0 * at[j].1.xq);
    let den = sum16(|j| at[j].0 * at[j].0 * at[j].1.qq);
    let ideal = least(most(num / den, 0.0 - F16_MAX), F16_MAX);
    let new = if den > 0.0 { round16(ideal) } else { d };
    let total = |d: f32| sum16(|j| excess(&at[j].1, at[j].0 * d));
    let d = if total(new) < total(d) { new } else { d };
    Grid { d: f16::from_f32(d), scales: at.map(|s| s.0 as i8) }
}

/// Codes, 0..=63, of a super-block under `grid`: the nearest of each weight.
pub fn assign(x: &[f32; QK_K], grid: &Grid) -> [u8; QK_K] {
    let d = grid.d.to_f32();
    std::array::from_fn(|i| {
        let inv = signed_inverse(d * f32::from(grid.scales[i / SUB]));
        (code(x[i] * inv) + 32.0) as u8
    })
}

/// Weights for the search: the importance of the columns, or `|w|`, with which both the plain error
/// and the one weighted by `w^2` come out well.
pub fn weights(x: &[f32; QK_K], h: Option<&[f32; QK_K]>) -> [f32; QK_K] {
    match h {
        Some(h) => *h,
        None => x.map(f32::abs),
    }
}
