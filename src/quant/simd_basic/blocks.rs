//! The searches of [`crate::quant::block32`] over lanes: a lane is a block. Function for function the
//! arithmetic there; the reasons are given there. `W` says whether there are importances: without them
//! the multiplications by 1 are left out, which changes no bit.

use crate::quant::block32::{Block, Grid, Model, QK, REFITS, Searched, Words};
use crate::quant::search::{F16_MAX, MARGIN, NOISE, TINY};
use crate::quant::simd::Lanes;
#[cfg(target_arch = "aarch64")]
use crate::quant::simd::neon::Neon;
#[cfg(target_arch = "x86_64")]
use crate::quant::simd::{avx2::Avx2, avx512::Avx512};
use crate::simd_level::Level;

/// Quantises whole blocks, or returns false where there is no shell for the level. `h`: the importances
/// of a row, in blocks.
#[cfg(target_arch = "x86_64")]
pub fn quantize<F: Searched>(level: Level, rows: &[f32], h: Option<&[Block]>, out: &mut [u8]) -> bool {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
    fn with_avx512<F: Searched>(rows: &[f32], h: Option<&[Block]>, out: &mut [u8]) {
        all::<_, F, 16>(Avx512::new(), rows, h, out);
    }

    #[target_feature(enable = "avx2,f16c")]
    fn with_avx2<F: Searched>(rows: &[f32], h: Option<&[Block]>, out: &mut [u8]) {
        all::<_, F, 8>(Avx2::new(), rows, h, out);
    }

    match level.min(super::supported()) {
        Level::Scalar | Level::Neon => return false,
        // SAFETY: `supported` found AVX2 and F16C on this CPU.
        Level::Avx2 => unsafe { with_avx2::<F>(rows, h, out) },
        // SAFETY: `supported` found AVX-512 F, BW, DQ and VL, AVX2 and F16C on this CPU.
        Level::Avx512 => unsafe { with_avx512::<F>(rows, h, out) },
    }
    true
}

/// With NEON, which needs no check.
#[cfg(target_arch = "aarch64")]
pub fn quantize<F: Searched>(level: Level, rows: &[f32], h: Option<&[Block]>, out: &mut [u8]) -> bool {
    if level == Level::Scalar {
        return false;
    }
    all::<_, F, 8>(Neon, rows, h, out);
    true
}

/// Other architectures have no shell.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn quantize<F: Searched>(_: Level, _: &[f32], _: Option<&[Block]>, _: &mut [u8]) -> bool {
    false
}

#[inline(always)]
fn all<L: Lanes, F: Searched, const N: usize>(l: L, rows: &[f32], h: Option<&[Block]>, out: &mut [u8]) {
    match h {
        Some(h) => walk::<_, F, true, N>(l, rows, &cyclic(h, N), out),
        None => walk::<_, F, false, N>(l, rows, &[], out),
    }
}

/// The importances of a row and then of the beginning of the next, so that `lanes` blocks follow any one
/// of the first.
fn cyclic(h: &[Block], lanes: usize) -> Vec<Block> {
    h.iter().cycle().take(h.len() + lanes - 1).copied().collect()
}

/// Quantises `N` blocks at a time; `h` is [`cyclic`].
#[inline(always)]
fn walk<L: Lanes, F: Searched, const W: bool, const N: usize>(
    l: L,
    rows: &[f32],
    h: &[Block],
    out: &mut [u8],
) {
    let mut group = Group::<L>::new(l);
    let mut padded = [[0.0; QK]; N];
    let blocks_per_row = if W { h.len().saturating_sub(N - 1) } else { 1 };
    let out = out.chunks_mut(N * F::BYTES);
    for (i, (blocks, out)) in rows.as_chunks::<QK>().0.chunks(N).zip(out).enumerate() {
        let x = match blocks.first_chunk::<N>() {
            Some(blocks) => blocks,
            None => {
                padded[..blocks.len()].copy_from_slice(blocks);
                &padded
            }
        };
        let h = if W { &h[i * N % blocks_per_row..][..N] } else { &[] };
        group.quantize::<F, W>(l, x.as_flattened(), h.as_flattened(), out);
    }
}

/// `N` blocks, transposed. Made once for all.
struct Group<L: Lanes> {
    x: [L::F; QK],
    h: [L::F; QK],
    /// `h x`, or `h (x - mean)` where there is an offset.
    c: [L::F; QK],
    low: L::F,
    high: L::F,
    inv_sum_h: L::F,
    mean: L::F,
}

struct Sums<L: Lanes> {
    q: L::F,
    qq: L::F,
    cq: L::F,
    error: L::F,
}

/// Grids in lanes and their errors.
struct Measured<L: Lanes> {
    scale: L::F,
    offset: L::F,
    error: L::F,
}

impl<L: Lanes> Measured<L> {
    #[inline(always)]
    fn keep_better(&mut self, l: L, other: &Self) {
        let m = l.above(self.error, other.error);
        self.scale = l.select(m, other.scale, self.scale);
        self.offset = l.select(m, other.offset, self.offset);
        self.error = l.select(m, other.error, self.error);
    }
}

#[inline(always)]
fn inverse<L: Lanes>(l: L, s: L::F) -> L::F {
    l.select(l.above(s, l.splat(TINY)), l.div(l.splat(1.0), s), l.splat(0.0))
}

#[inline(always)]
fn signed_inverse<L: Lanes>(l: L, s: L::F) -> L::F {
    l.select(l.above(l.abs(s), l.splat(TINY)), l.div(l.splat(1.0), s), l.splat(0.0))
}

#[inline(always)]
fn ratio_or<L: Lanes>(l: L, a: L::F, b: L::F, other: L::F) -> L::F {
    l.select(l.above(b, l.splat(0.0)), l.div(a, b), other)
}

#[inline(always)]
fn finite16<L: Lanes>(l: L, t: L::F) -> L::F {
    l.round16(l.least(l.most(t, l.splat(-F16_MAX)), l.splat(F16_MAX)))
}

#[inline(always)]
fn code<L: Lanes>(l: L, t: L::F, top: f32) -> L::F {
    l.nearest(l.cut(t, l.splat(top)))
}

#[inline(always)]
fn signed_code<L: Lanes>(l: L, t: L::F, half: f32) -> L::F {
    l.nearest(l.below(l.most(t, l.splat(-half)), l.splat(half - 1.0)))
}

impl<L: Lanes> Group<L> {
    #[inline(always)]
    fn new(l: L) -> Self {
        let zero = l.splat(0.0);
        let rows = [zero; QK];
        Self { x: rows, h: rows, c: rows, low: zero, high: zero, inv_sum_h: zero, mean: zero }
    }

    #[inline(always)]
    fn quantize<F: Searched, const W: bool>(&mut self, l: L, x: &[f32], h: &[f32], out: &mut [u8]) {
        self.fill::<W>(l, x, h);
        let mut words = [[0; 16]; QK / 4];
        let (mut scales, mut offsets) = ([0.0; 16], [0.0; 16]);
        let grid = match F::MODEL {
            Model::Symmetric { half, reaches } => {
                let grid = self.symmetric::<W>(l, half, reaches);
                let inv = signed_inverse(l, grid.scale);
                let code = |x| l.add(signed_code(l, l.mul(x, inv), half), l.splat(half));
                self.assign(l, code, &mut words);
                grid
            }
            Model::Affine { top, tries } => {
                let grid = self.affine::<W>(l, top, tries);
                let inv = inverse(l, grid.scale);
                self.assign(l, |x| code(l, l.mul(l.sub(x, grid.offset), inv), top), &mut words);
                grid
            }
        };
        l.store(grid.scale, &mut scales);
        l.store(grid.offset, &mut offsets);
        for (j, out) in out.chunks_exact_mut(F::BYTES).enumerate() {
            let mut codes: Words = [0; QK / 4];
            for (code, words) in codes.iter_mut().zip(&words) {
                *code = words[j];
            }
            F::pack(Grid { scale: scales[j], offset: offsets[j] }, &codes, out);
        }
    }

    /// Takes in blocks and, where there are any, importances.
    #[inline(always)]
    fn fill<const W: bool>(&mut self, l: L, x: &[f32], h: &[f32]) {
        for (part, to) in self.x.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *to = l.transpose(&x[part * 4..], QK);
        }
        if W {
            for (part, to) in self.h.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *to = l.transpose(&h[part * 4..], QK);
            }
        }
        (self.low, self.high) = (self.x[0], self.x[0]);
        for &x in &self.x {
            self.low = l.least(self.low, x);
            self.high = l.most(self.high, x);
        }
    }

    #[inline(always)]
    fn assign(&self, l: L, code: impl Fn(L::F) -> L::F, words: &mut [[u32; 16]; QK / 4]) {
        for (x, to) in self.x.as_chunks::<4>().0.iter().zip(words) {
            l.bytes([code(x[0]), code(x[1]), code(x[2]), code(x[3])], to);
        }
    }

    #[inline(always)]
    fn weighted<const W: bool>(&self, l: L, i: usize, v: L::F) -> L::F {
        if W { l.mul(self.h[i], v) } else { v }
    }

    /// The sums over the codes that `code` gives; the error is that of `decode`. What is not used of them
    /// is not computed.
    #[inline(always)]
    fn sums<const W: bool>(
        &self,
        l: L,
        code: impl Fn(L::F) -> L::F,
        decode: impl Fn(L::F) -> L::F,
    ) -> Sums<L> {
        let zero = l.splat(0.0);
        let mut s = Sums::<L> { q: zero, qq: zero, cq: zero, error: zero };
        for i in 0..QK {
            let q = code(self.x[i]);
            let hq = self.weighted::<W>(l, i, q);
            s.q = l.add(s.q, hq);
            s.qq = l.add(s.qq, l.mul(hq, q));
            s.cq = l.add(s.cq, l.mul(self.c[i], q));
            let e = l.sub(decode(q), self.x[i]);
            s.error = l.add(s.error, self.weighted::<W>(l, i, l.mul(e, e)));
        }
        s
    }

    #[inline(always)]
    fn symmetric<const W: bool>(&mut self, l: L, half: f32, reaches: &[f32]) -> Measured<L> {
        for i in 0..QK {
            self.c[i] = self.weighted::<W>(l, i, self.x[i]);
        }
        let zero = l.splat(0.0);
        let extreme = l.select(l.above(self.high, l.sub(zero, self.low)), self.high, self.low);
        let mut best = self.measure_symmetric::<W>(l, l.mul(extreme, l.splat(-1.0 / half)), half).0;
        let mut scale = self.best_reach::<W>(l, extreme, half, reaches);
        for _ in 0..=REFITS {
            let (measured, next) = self.measure_symmetric::<W>(l, scale, half);
            best.keep_better(l, &measured);
            scale = next;
        }
        best
    }

    #[inline(always)]
    fn best_reach<const W: bool>(&self, l: L, extreme: L::F, half: f32, reaches: &[f32]) -> L::F {
        let inv_extreme = signed_inverse(l, extreme);
        let (mut best, mut most_gain) = (l.splat(0.0), l.splat(0.0));
        for &reach in reaches {
            let inv = l.mul(l.splat(0.0 - reach), inv_extreme);
            let s = self.sums::<W>(l, |x| signed_code(l, l.mul(x, inv), half), |q| q);
            let scale = l.div(s.cq, s.qq);
            let gain = l.mul(s.cq, scale);
            let m = l.above(gain, l.mul(most_gain, l.splat(MARGIN)));
            best = l.select(m, scale, best);
            most_gain = l.select(m, gain, most_gain);
        }
        best
    }

    #[inline(always)]
    fn measure_symmetric<const W: bool>(&self, l: L, scale: L::F, half: f32) -> (Measured<L>, L::F) {
        let scale = finite16(l, scale);
        let inv = signed_inverse(l, scale);
        let s = self.sums::<W>(l, |x| signed_code(l, l.mul(x, inv), half), |q| l.mul(scale, q));
        let measured = Measured { scale, offset: l.splat(0.0), error: s.error };
        (measured, ratio_or(l, s.cq, s.qq, scale))
    }

    #[inline(always)]
    fn affine<const W: bool>(&mut self, l: L, top: f32, tries: &[(f32, f32)]) -> Measured<L> {
        let (mut sum_h, mut first) = (l.splat(0.0), l.splat(0.0));
        for i in 0..QK {
            sum_h = l.add(sum_h, self.weighted::<W>(l, i, l.splat(1.0)));
            first = l.add(first, self.weighted::<W>(l, i, self.x[i]));
        }
        self.inv_sum_h = l.div(l.splat(1.0), sum_h);
        self.mean = l.mul(first, self.inv_sum_h);
        for i in 0..QK {
            self.c[i] = self.weighted::<W>(l, i, l.sub(self.x[i], self.mean));
        }
        let step = l.mul(l.sub(self.high, self.low), l.splat(1.0 / top));
        let mut best = self.measure_affine::<W>(l, step, self.low, top).0;
        let (mut scale, mut mean_code) = self.best_try::<W>(l, top, tries);
        for _ in 0..=REFITS {
            let scale16 = finite16(l, scale);
            let offset = l.sub(self.mean, l.mul(scale16, mean_code));
            let (measured, s) = self.measure_affine::<W>(l, scale16, offset, top);
            best.keep_better(l, &measured);
            mean_code = l.mul(s.q, self.inv_sum_h);
            scale = ratio_or(l, s.cq, l.sub(s.qq, l.mul(s.q, mean_code)), scale);
        }
        best
    }

    #[inline(always)]
    fn best_try<const W: bool>(&self, l: L, top: f32, tries: &[(f32, f32)]) -> (L::F, L::F) {
        let zero = l.splat(0.0);
        let inv_range = inverse(l, l.sub(self.high, self.low));
        let (mut best, mut best_mean, mut most_gain) = (zero, zero, zero);
        for &(stretch, shift) in tries {
            let inv = l.mul(l.splat(top + stretch), inv_range);
            let (by, top) = (l.splat(shift), l.splat(top));
            let t = |x| l.add(l.mul(l.sub(x, self.low), inv), by);
            let s = self.sums::<W>(l, |x| l.nearest(l.cut(t(x), top)), |q| q);
            let mean_code = l.mul(s.q, self.inv_sum_h);
            let spread = l.sub(s.qq, l.mul(s.q, mean_code));
            let scale = l.div(s.cq, spread);
            let gain = l.mul(s.cq, scale);
            let real = l.above(spread, l.mul(l.splat(NOISE), s.qq));
            let m = l.and(real, l.above(gain, l.mul(most_gain, l.splat(MARGIN))));
            best = l.select(m, scale, best);
            best_mean = l.select(m, mean_code, best_mean);
            most_gain = l.select(m, gain, most_gain);
        }
        (best, best_mean)
    }

    #[inline(always)]
    fn measure_affine<const W: bool>(
        &self,
        l: L,
        scale: L::F,
        offset: L::F,
        top: f32,
    ) -> (Measured<L>, Sums<L>) {
        let (scale, offset) = (finite16(l, scale), finite16(l, offset));
        let inv = inverse(l, scale);
        let code = |x| code(l, l.mul(l.sub(x, offset), inv), top);
        let s = self.sums::<W>(l, code, |q| l.add(l.mul(scale, q), offset));
        (Measured { scale, offset, error: s.error }, s)
    }
}

#[cfg(test)]
pub(in crate::quant) mod tests {
    use super::*;
    use crate::quant::block32::{self, tests::COLUMNS};
    use crate::quant::simd::array::Array;

    /// The generic algorithm gives the reference's bytes with lanes that are plain arrays too.
    pub fn check_generic<F: Searched>(rows: &[f32], h: &[f32]) {
        let h: Vec<f32> = h[..COLUMNS].iter().map(|h| h.abs()).collect();
        for importance in [None, Some(&h[..])] {
            let blank = vec![0xAA; rows.len() / QK * F::BYTES];
            let mut expected = blank.clone();
            block32::quantize::<F>(Level::Scalar, rows, COLUMNS, importance, &mut expected);
            let (mut eight, mut sixteen) = (blank.clone(), blank);
            let h = importance.map(block32::normalized);
            all::<_, F, 8>(Array::<8>, rows, h.as_deref(), &mut eight);
            all::<_, F, 16>(Array::<16>, rows, h.as_deref(), &mut sixteen);
            assert!(eight == expected && sixteen == expected);
        }
    }
}
