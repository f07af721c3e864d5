//! What IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S share: the magnitudes of groups of 4 or 8 weights are points of a grid,
//! and the signs are stored apart.
//!
//! A weight is `d * (a + b * scale) * c` times the level of its coordinate, with its sign. `d` is an f16, `scale` an integer
//! of four bits for each sub-block of 16 or 32 weights, and `a`, `b` and `c` are constants of the format. In some formats
//! the number of negative signs among 8 weights is even, so that seven bits hold eight signs.
//!
//! The grids are ggml's (see NOTICE); `scripts/make_grids.py` wrote them to `grids/`.
//!
//! The search minimizes `sum h (w - v)^2`, where `h` is the importance of the column (1 without an imatrix). A lane of a
//! vector is a group. For a few scales of a sub-block the nearest point of each group is found among all points: the costs
//! of the first and of the second half of the coordinates are tables, and the points are sorted by their first halves, so
//! that a point costs one minimum. The best scale for given points follows by least squares. `d` is chosen among
//! candidates, and fitted again to the points that the rounded scales get.

use std::array;
use std::ops::Range;

use super::format::RUN;
use super::weighting::Columns;
use crate::dtype::QK_K;
use crate::simd::{Simd, Vector, f16};

/// Number of sub-blocks, at most.
const MAX_SUBS: usize = 16;
/// Number of groups in a block, at most.
const MAX_GROUPS: usize = 64;
/// Number of combinations of levels in half a group, at most: four of three levels, or two of eight.
const MAX_HALVES: usize = 81;
/// Number of points, at most.
const MAX_POINTS: usize = 1024;
/// Groups that are searched together. A vector of so many lanes has two registers or more on all CPUs, and what is read of
/// the grid serves all of them.
const LANES: usize = 32;
/// Room for the costs of all halves: a power of two.
const HALVES: usize = MAX_HALVES.next_power_of_two();
/// The bits of a cost that hold the number of a half.
const HALF_BITS: u32 = HALVES as u32 - 1;
/// The largest integer scale.
const MAX_SCALE: f32 = 15.0;
/// Shares of the outermost level that the largest magnitude of a sub-block is mapped to.
const REACH: [f32; 5] = [1.0, 0.88, 1.12, 0.78, 0.94];
/// The integer scales that the largest scale is mapped to.
const SCALE_CANDIDATES: [f32; 4] = [15.0, 14.5, 14.0, 15.5];

/// Implements [`Encoding`](super::format::Encoding) for a format of this module: its type, the weights in a group, and the
/// largest magnitude that `d`, the largest scale and the outermost level can express.
macro_rules! encoding {
    ($format:ty, $ty:ident, $group:expr, $largest:expr) => {
        impl $crate::quant::format::Encoding for $format {
            const TYPE: $crate::dtype::GgmlType = $crate::dtype::GgmlType::$ty;
            const MAX_ABS: f32 = $largest;
            const HAS_STEPS: bool = true;

            fn weights(importance: &[f32]) -> Option<Vec<f32>> {
                $crate::quant::weighting::normalize(importance)
            }

            #[inline(always)]
            fn quantize<S: $crate::simd::Simd>(
                simd: S,
                rows: &[f32],
                columns: Option<$crate::quant::weighting::Columns<'_>>,
                out: &mut [u8],
            ) {
                const BYTES: usize = $crate::dtype::GgmlType::$ty.block_bytes();
                $crate::quant::lattice::quantize::<Self, S, $group>(simd, rows, columns, BYTES, out);
            }

            #[inline(always)]
            fn steps(blocks: &[u8], out: &mut [f32]) {
                const BYTES: usize = $crate::dtype::GgmlType::$ty.block_bytes();
                $crate::quant::lattice::steps::<Self, $group>(blocks, BYTES, out);
            }

            #[inline(always)]
            fn dequantize<S: $crate::simd::Simd>(_simd: S, bytes: &[u8], out: &mut [f32]) {
                const BYTES: usize = $crate::dtype::GgmlType::$ty.block_bytes();
                $crate::quant::lattice::dequantize::<Self, $group>(bytes, BYTES, out);
            }
        }
    };
}
pub(super) use encoding;

/// A point of a grid: the number of the combination of levels of each half. See [`grid`].
type Point = [u8; 2];

/// The points of a grid, in ggml's order and sorted by their first halves. See [`grid`].
pub struct Grid {
    points: [Point; MAX_POINTS],
    /// Where the points with each first half begin among the sorted points.
    starts: [u16; MAX_HALVES + 1],
    /// The second halves of the sorted points.
    seconds: [u8; MAX_POINTS],
    /// The numbers of the sorted points.
    numbers: [u16; MAX_POINTS],
    /// The levels of each half. Where a half has two coordinates, the last two are 0.
    levels: [[f32; 4]; MAX_HALVES],
}

/// A format. `G` is the number of weights in a group, 4 or 8.
pub trait Lattice<const G: usize> {
    /// Weights in a sub-block, which share a scale: 16 or 32.
    const SUB: usize;
    /// The magnitudes in ascending order.
    const LEVELS: &'static [f32];
    /// The points.
    const GRID: &'static Grid;
    /// Whether the number of negative signs among 8 weights is even.
    const EVEN_SIGNS: bool;
    /// `(a, b, c)`: the scale `s` of a sub-block multiplies `d` by `(a + b s) c`.
    const FACTOR: (f32, f32, f32);

    /// Reads a block.
    fn unpack(block: &[u8]) -> Parts;
    /// Writes a block.
    fn pack(parts: &Parts, block: &mut [u8]);
}

/// The parts of a block.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// The scale of the block, an f16.
    pub d: f32,
    /// The integer scale of each sub-block.
    pub scales: [u8; MAX_SUBS],
    /// The point of each group.
    pub points: [u16; MAX_GROUPS],
    /// The signs of eight weights in each byte; a set bit is a negative weight.
    pub signs: [u8; QK_K / 8],
}

impl Parts {
    /// Parts that are all zero.
    pub const ZERO: Self =
        Self { d: 0.0, scales: [0; MAX_SUBS], points: [0; MAX_GROUPS], signs: [0; QK_K / 8] };
}

/// Returns the grid of a format, which has `N` points. Each word of two bytes holds the numbers of the levels of `G`
/// coordinates, from the low bits up: two bits each for three levels, and three bits each for eight. The number of a half
/// has the numbers of its levels as digits, to the base of the number of levels.
pub const fn grid<L: Lattice<G>, const G: usize, const N: usize>(words: &[u8]) -> Grid {
    assert!(words.len() == 2 * N);
    let (base, n) = (L::LEVELS.len(), G / 2);
    let bits = if base == 8 { 3 } else { 2 };
    let mut all = Grid {
        points: [[0; 2]; MAX_POINTS],
        starts: [0; MAX_HALVES + 1],
        seconds: [0; MAX_POINTS],
        numbers: [0; MAX_POINTS],
        levels: [[0.0; 4]; MAX_HALVES],
    };
    let mut i = 0;
    while i < N {
        let word = words[2 * i] as usize | (words[2 * i + 1] as usize) << 8;
        let mut half = 0;
        while half < 2 {
            let mut k = n;
            while k > 0 {
                k -= 1;
                let level = word >> (bits * (half * n + k)) & ((1 << bits) - 1);
                all.points[i][half] = all.points[i][half] * base as u8 + level as u8;
            }
            half += 1;
        }
        i += 1;
    }
    let (mut half, mut sorted) = (0, 0);
    while half < MAX_HALVES {
        let (mut rest, mut k) = (half, 0);
        while k < n {
            all.levels[half][k] = L::LEVELS[rest % base];
            rest /= base;
            k += 1;
        }
        all.starts[half] = sorted as u16;
        let mut i = 0;
        while i < N {
            if all.points[i][0] as usize == half {
                all.seconds[sorted] = all.points[i][1];
                all.numbers[sorted] = i as u16;
                sorted += 1;
            }
            i += 1;
        }
        half += 1;
    }
    all.starts[MAX_HALVES] = sorted as u16;
    all
}

impl Grid {
    /// The places of the points with a first half among the sorted points.
    #[inline(always)]
    fn with_first(&self, half: usize) -> Range<usize> {
        usize::from(self.starts[half])..usize::from(self.starts[half + 1])
    }

    /// The number of the point with these halves.
    #[inline(always)]
    fn number(&self, [first, second]: Point) -> u16 {
        let places = self.with_first(usize::from(first));
        let place = places.clone().find(|&at| self.seconds[at] == second);
        self.numbers[place.unwrap_or(places.start)]
    }
}

/// Reads blocks, in ggml's order of operations.
#[inline(always)]
pub fn dequantize<L: Lattice<G>, const G: usize>(bytes: &[u8], size: usize, out: &mut [f32]) {
    let (a, b, c) = L::FACTOR;
    for (block, out) in bytes.chunks_exact(size).zip(out.as_chunks_mut::<QK_K>().0) {
        let parts = L::unpack(block);
        for (group, out) in out.as_chunks_mut::<G>().0.iter_mut().enumerate() {
            let scale = f32::from(parts.scales[group * G / L::SUB]);
            let step = parts.d * (a + b * scale) * c;
            let point = L::GRID.points[usize::from(parts.points[group])];
            for (i, out) in out.iter_mut().enumerate() {
                let level = L::GRID.levels[usize::from(point[2 * i / G])][i % (G / 2)];
                let at = group * G + i;
                let sign = if parts.signs[at / 8] >> (at % 8) & 1 == 1 { -1.0 } else { 1.0 };
                *out = step * level * sign;
            }
        }
    }
}

/// Writes the mean distance of neighboring magnitudes for each 32 weights.
#[inline(always)]
pub fn steps<L: Lattice<G>, const G: usize>(blocks: &[u8], size: usize, out: &mut [f32]) {
    let between = L::LEVELS.len() - 1;
    let distance = (L::LEVELS[between] - L::LEVELS[0]) / between as f32;
    for (block, out) in blocks.chunks_exact(size).zip(out.chunks_exact_mut(QK_K / RUN)) {
        let parts = L::unpack(block);
        for (i, step) in out.iter_mut().enumerate() {
            *step = parts.d.abs() * factor_of(L::FACTOR, parts.scales[i * RUN / L::SUB]) * distance;
        }
    }
}

/// Quantizes whole blocks of `size` bytes; see [`Encoding::quantize`](super::Encoding::quantize).
#[inline(always)]
pub fn quantize<L: Lattice<G>, S: Simd, const G: usize>(
    simd: S,
    rows: &[f32],
    columns: Option<Columns<'_>>,
    size: usize,
    out: &mut [u8],
) {
    let v = simd.x32();
    let even = [1.0; QK_K];
    for (i, (x, out)) in rows.as_chunks::<QK_K>().0.iter().zip(out.chunks_exact_mut(size)).enumerate() {
        let h = columns.map_or(&even, |columns| columns.block(i));
        L::pack(&search::<L, _, G>(v, x, h), out);
    }
}

/// [`LANES`] groups, transposed.
struct Groups<V: Vector, const G: usize> {
    /// Magnitudes. One that has the wrong sign, because the number of negative signs must be even, is negative.
    x: [V::F; G],
    /// Weights of the squared errors.
    w: [V::F; G],
}

/// The points of the groups, and sums over the weights `x` of the sub-block of each lane and the levels `q`: `w x q` and
/// `w q^2`.
struct Found<V: Vector> {
    points: [Point; LANES],
    xq: V::F,
    qq: V::F,
}

/// The costs of the halves of groups: a vector for each first half, and for each second half.
type Tables<V> = [[<V as Vector>::F; HALVES]; 2];

/// Returns the parts of a block.
#[inline(always)]
fn search<L: Lattice<G>, V: Vector, const G: usize>(v: V, x: &[f32; QK_K], h: &[f32; QK_K]) -> Parts {
    let mut parts = Parts::ZERO;
    let magnitudes = split_signs(x, h, L::EVEN_SIGNS, &mut parts.signs);
    let largest = magnitudes.iter().fold(0.0f32, |a, &x| if x > a { x } else { a });
    if largest < f32::MIN_POSITIVE {
        parts.signs = [0; QK_K / 8];
        return parts;
    }
    // Magnitudes count in units of the largest one, so that no square vanishes or overflows.
    let unit = 1.0 / largest;
    let lanes = L::SUB / G;
    let chunk = LANES * G;
    let mut tables: Tables<V> = [[v.splat(0.0); HALVES]; 2];
    let (mut scales, mut curvatures) = ([0.0; MAX_SUBS], [0.0; MAX_SUBS]);
    for at in (0..QK_K).step_by(chunk) {
        let groups = Groups::<V, G>::load(v, &magnitudes[at..], &h[at..], unit);
        let (scale, curvature) = fit::<L, V, G>(v, &groups, &mut tables);
        let (mut all, mut weights) = ([0.0; LANES], [0.0; LANES]);
        v.store(scale, &mut all);
        v.store(curvature, &mut weights);
        for sub in 0..LANES / lanes {
            scales[at / L::SUB + sub] = all[sub * lanes];
            curvatures[at / L::SUB + sub] = weights[sub * lanes];
        }
    }
    let subs = QK_K / L::SUB;
    let d = common_factor(&scales[..subs], &curvatures[..subs], L::FACTOR, largest, &mut parts.scales);
    if d == 0.0 {
        return Parts::ZERO;
    }
    let (mut xq, mut qq) = (0.0, 0.0);
    for at in (0..QK_K).step_by(chunk) {
        let groups = Groups::<V, G>::load(v, &magnitudes[at..], &h[at..], unit);
        let mut factors = [0.0; LANES];
        for (lane, factor) in factors.iter_mut().enumerate() {
            *factor = factor_of(L::FACTOR, parts.scales[(at + lane * G) / L::SUB]);
        }
        let scale = v.mul(v.load(&factors), v.splat(d * unit));
        let found = nearest::<L, V, G>(v, &groups, scale, &mut tables);
        for (to, point) in parts.points[at / G..].iter_mut().zip(found.points) {
            *to = L::GRID.number(point);
        }
        let (mut more_xq, mut more_qq) = ([0.0; LANES], [0.0; LANES]);
        v.store(found.xq, &mut more_xq);
        v.store(found.qq, &mut more_qq);
        for lane in (0..LANES).step_by(lanes) {
            xq += more_xq[lane] * factors[lane];
            qq += more_qq[lane] * factors[lane] * factors[lane];
        }
    }
    // `d` by least squares for these points, kept if it is better after rounding.
    parts.d = d;
    if qq > 0.0 && xq > 0.0 {
        let new = f16::decode(f16::encode((xq / qq * largest).min(f16::MAX)));
        let error = |d: f32| d * unit * (d * unit * qq - 2.0 * xq);
        if error(new) < error(d) {
            parts.d = new;
        }
    }
    parts
}

/// Returns the magnitudes of a block, and its signs. Where the number of negative signs among 8 weights must be even and is
/// not, the sign of the weight that costs least is wrong, and its magnitude is negative.
#[inline(always)]
fn split_signs(x: &[f32; QK_K], h: &[f32; QK_K], even: bool, signs: &mut [u8; QK_K / 8]) -> [f32; QK_K] {
    let mut magnitudes = x.map(f32::abs);
    for (i, byte) in signs.iter_mut().enumerate() {
        let at = 8 * i;
        for k in 0..8 {
            *byte |= u8::from(x[at + k] < 0.0) << k;
        }
        if even && byte.count_ones() % 2 == 1 {
            let mut least = 0;
            for k in 1..8 {
                let cost = |k: usize| h[at + k] * x[at + k] * x[at + k];
                if cost(k) < cost(least) {
                    least = k;
                }
            }
            *byte ^= 1 << least;
            magnitudes[at + least] = -magnitudes[at + least];
        }
    }
    magnitudes
}

/// Returns what the integer scale `s` multiplies `d` by.
#[inline(always)]
fn factor_of((a, b, c): (f32, f32, f32), s: u8) -> f32 {
    (a + b * f32::from(s)) * c
}

impl<V: Vector, const G: usize> Groups<V, G> {
    /// Reads the groups. The magnitudes are multiplied by `unit`.
    #[inline(always)]
    fn load(v: V, x: &[f32], h: &[f32], unit: f32) -> Self {
        let zero = v.splat(0.0);
        let mut groups = Self { x: [zero; G], w: [zero; G] };
        for (part, (x_to, w_to)) in
            groups.x.as_chunks_mut::<4>().0.iter_mut().zip(groups.w.as_chunks_mut::<4>().0).enumerate()
        {
            *x_to = v.load_transposed(&x[4 * part..], G);
            *w_to = v.load_transposed(&h[4 * part..], G);
        }
        for x in &mut groups.x {
            *x = v.mul(*x, v.splat(unit));
        }
        groups
    }
}

/// Returns in each lane the sum over the lanes of its sub-block, which are 2, 4 or 8.
#[inline(always)]
fn sum_lanes<V: Vector>(v: V, a: V::F, lanes: usize) -> V::F {
    let a = v.add(a, v.swap::<1>(a));
    let a = if lanes > 2 { v.add(a, v.swap::<2>(a)) } else { a };
    if lanes > 4 { v.add(a, v.swap::<4>(a)) } else { a }
}

/// Returns in each lane the maximum over the lanes of its sub-block.
#[inline(always)]
fn max_lanes<V: Vector>(v: V, a: V::F, lanes: usize) -> V::F {
    let a = v.max(a, v.swap::<1>(a));
    let a = if lanes > 2 { v.max(a, v.swap::<2>(a)) } else { a };
    if lanes > 4 { v.max(a, v.swap::<4>(a)) } else { a }
}

/// Returns the best scale of the sub-block of each lane, and half the second derivative of the error.
#[inline(always)]
fn fit<L: Lattice<G>, V: Vector, const G: usize>(
    v: V,
    g: &Groups<V, G>,
    tables: &mut Tables<V>,
) -> (V::F, V::F) {
    let zero = v.splat(0.0);
    let mut largest = zero;
    for &x in &g.x {
        largest = v.max(largest, x);
    }
    let largest = max_lanes(v, largest, L::SUB / G);
    let top = L::LEVELS[L::LEVELS.len() - 1];
    let (mut best, mut most, mut curvature) = (zero, zero, zero);
    for round in 0..=REACH.len() {
        // The last round starts from the best scale.
        let scale = match REACH.get(round) {
            Some(reach) => v.mul(largest, v.splat(1.0 / (reach * top))),
            None => best,
        };
        let found = nearest::<L, V, G>(v, g, scale, tables);
        let fitted = v.div(found.xq, found.qq);
        let gain = v.mul(found.xq, fitted);
        // No NaN is greater: a sub-block of zeros has none.
        let better = v.mask_and(v.gt(gain, most), v.gt(fitted, zero));
        best = v.select(better, fitted, best);
        most = v.select(better, gain, most);
        curvature = v.select(better, found.qq, curvature);
    }
    (best, curvature)
}

/// Returns the points nearest to the groups, with the scale of each lane.
///
/// The low bits of the costs of second halves are replaced by the number of the half, so that the least cost says which
/// half it is of. Costs that differ by less than 2^-16 of themselves may be taken for each other.
#[inline(always)]
fn nearest<L: Lattice<G>, V: Vector, const G: usize>(
    v: V,
    g: &Groups<V, G>,
    scale: V::F,
    tables: &mut Tables<V>,
) -> Found<V> {
    let zero = v.splat(0.0);
    let n = G / 2;
    let base = L::LEVELS.len();
    let halves = base.pow(n as u32);
    let square = v.mul(scale, scale);
    let twice = v.add(scale, scale);
    for (half, table) in tables.iter_mut().enumerate() {
        // The costs of the first k coordinates are extended by those of the next.
        table[0] = zero;
        let mut len = 1;
        for k in 0..n {
            let (x, w) = (g.x[half * n + k], g.w[half * n + k]);
            let (quadratic, linear) = (v.mul(w, square), v.mul(v.mul(w, x), twice));
            for level in (0..base).rev() {
                let l = L::LEVELS[level];
                let cost = v.sub(v.mul(quadratic, v.splat(l * l)), v.mul(linear, v.splat(l)));
                for i in 0..len {
                    table[level * len + i] = v.add(table[i], cost);
                }
            }
            len *= base;
        }
    }
    let [of_first, of_second] = tables;
    let high = v.splat_u32(!HALF_BITS);
    for (half, cost) in of_second[..halves].iter_mut().enumerate() {
        *cost = v.from_bits(v.or(v.and(v.to_bits(*cost), high), v.splat_u32(half as u32)));
    }
    let (mut least, mut first, mut second) = (v.splat(f32::INFINITY), v.splat_u32(0), zero);
    for (half, &cost) in of_first[..halves].iter().enumerate() {
        let mut best = v.splat(f32::INFINITY);
        for &second in &L::GRID.seconds[L::GRID.with_first(half)] {
            best = v.min(best, of_second[usize::from(second) % HALVES]);
        }
        let cost = v.add(cost, best);
        let better = v.lt(cost, least);
        least = v.min(cost, least);
        first = v.select_u32(better, v.splat_u32(half as u32), first);
        second = v.select(better, best, second);
    }
    let (mut firsts, mut seconds) = ([0; LANES], [0; LANES]);
    v.store_u32(first, &mut firsts);
    v.store_u32(v.and(v.to_bits(second), v.splat_u32(HALF_BITS)), &mut seconds);
    let points: [Point; LANES] = array::from_fn(|lane| [firsts[lane] as u8, seconds[lane] as u8]);
    // The levels of the points lie group behind group, as weights do.
    let mut levels = [[0.0; G]; LANES];
    for (levels, point) in levels.iter_mut().zip(points) {
        for (levels, half) in levels.chunks_exact_mut(n).zip(point) {
            levels.copy_from_slice(&L::GRID.levels[usize::from(half)][..n]);
        }
    }
    let levels = levels.as_flattened();
    let (mut xq, mut qq) = (zero, zero);
    for (part, (x, w)) in g.x.as_chunks::<4>().0.iter().zip(g.w.as_chunks::<4>().0).enumerate() {
        let levels = v.load_transposed(&levels[4 * part..], G);
        for ((q, &x), &w) in levels.into_iter().zip(x).zip(w) {
            let wq = v.mul(w, q);
            xq = v.add(xq, v.mul(wq, x));
            qq = v.add(qq, v.mul(wq, q));
        }
    }
    let lanes = L::SUB / G;
    Found { points, xq: sum_lanes(v, xq, lanes), qq: sum_lanes(v, qq, lanes) }
}

/// Returns `d`, an f16, for the scales of the sub-blocks, which are in units of `unit`, and sets their integers.
#[inline(always)]
fn common_factor(
    scales: &[f32],
    weights: &[f32],
    factor: (f32, f32, f32),
    unit: f32,
    integers: &mut [u8; MAX_SUBS],
) -> f32 {
    let (a, b, c) = factor;
    let largest = scales.iter().fold(0.0f32, |a, &s| if s > a { s } else { a });
    let (mut best, mut least) = (0.0, f32::INFINITY);
    for candidate in SCALE_CANDIDATES {
        let first = largest / ((a + b * candidate) * c);
        if first * unit < f16::MIN_POSITIVE {
            continue;
        }
        let mut rounded = [0u8; MAX_SUBS];
        let (mut sq, mut qq) = (0.0, 0.0);
        for ((&s, &w), to) in scales.iter().zip(weights).zip(&mut rounded) {
            *to = ((s / (first * c) - a) / b).clamp(0.0, MAX_SCALE).round_ties_even() as u8;
            let q = factor_of(factor, *to);
            sq += w * s * q;
            qq += w * q * q;
        }
        let ideal = if qq > 0.0 { sq / qq } else { first };
        let d = f16::decode(f16::encode((ideal * unit).min(f16::MAX)));
        let mut error = 0.0;
        for ((&s, &w), &q) in scales.iter().zip(weights).zip(&rounded) {
            let off = s - d / unit * factor_of(factor, q);
            error += w * off * off;
        }
        if error < least {
            (best, least, *integers) = (d, error, rounded);
        }
    }
    best
}

/// Returns eight signs, of which the last makes the number of negative ones even.
#[inline(always)]
pub fn eight_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}
