//! What the formats with blocks of 32 weights share: the walk over rows, and the search for the
//! scale (and offset) of a block, written plainly for one block.
//!
//! The search minimises `sum h (w - v)^2` over the block, `h` the importance of the columns (1
//! without), `v` what the block decodes to. Codes are tried for a few step widths around the one that
//! just spans the block; the best scale for given codes follows by least squares, and what it takes
//! off the error from the same sums. The best is rounded to f16, measured exactly, and fitted again to
//! the codes it then gets. The plain spanning scale, ggml's choice without an imatrix, is measured
//! too, so the result is never worse than it.
//!
//! This is the oracle: [`super::simd_basic::blocks`] runs the same arithmetic with blocks side by side in lanes
//! and must give the same bits. Hence sums run over the weights of a block in order, products are
//! rounded before they are added, and the helpers of [`super::search`] stand for rounding and min/max.

use super::f16;
use super::search::{F16_MAX, MARGIN, NOISE, TINY, inverse, least, most, nearest, round16};
use super::simd_basic::{self, Kernel, blocks};
use crate::simd_level::Level;
use std::marker::PhantomData;

/// Weights in a block.
pub const QK: usize = 32;

/// A block of weights, codes (as floats) or importances.
pub type Block = [f32; QK];

/// 32 codes as bytes, four to a word: code i at byte `i % 4` of word `i / 4`.
pub type Words = [u32; QK / 4];

/// A block format.
pub trait Format {
    /// Bytes of a block.
    const BYTES: usize;
    /// The block's weights, in ggml's arithmetic. `#[inline(always)]`; see [`Kernel`].
    fn decode(bytes: &[u8], out: &mut Block);
}

/// A format whose scale is searched for.
pub trait Searched: Format {
    const MODEL: Model;
    /// Writes a block. `#[inline(always)]`; see [`Kernel`].
    fn pack(grid: Grid, codes: &Words, out: &mut [u8]);
}

/// What a block decodes to, and the codes that the search tries.
#[derive(Clone, Copy)]
pub enum Model {
    /// `scale * (code - half)`, codes below `2 * half`. For each of `reaches` the weight of largest
    /// magnitude comes to lie at `-reach`: there is one code more on that side, though the other side, a
    /// negative reach, is better at times.
    Symmetric { half: f32, reaches: &'static [f32] },
    /// `scale * code + offset`, codes up to `top`. A try `(stretch, shift)` gives the range of the block
    /// `top + stretch` steps, the smallest weight at `shift`.
    Affine { top: f32, tries: &'static [(f32, f32)] },
}

/// Scale and offset of a block, f16 numbers. The offset of symmetric formats is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    pub scale: f32,
    pub offset: f32,
}

/// Rounds of least squares and rounding on the winner.
pub const REFITS: usize = 2;

/// Quantises rows of whole blocks of `F`.
pub fn quantize<F: Searched>(
    level: Level,
    rows: &[f32],
    n_per_row: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let h = importance.map(normalized);
    if blocks::quantize::<F>(level, rows, h.as_deref(), out) {
        return;
    }
    let blocks_per_row = (n_per_row / QK).max(1);
    let pairs = rows.as_chunks::<QK>().0.iter().zip(out.chunks_exact_mut(F::BYTES));
    for (i, (x, out)) in pairs.enumerate() {
        encode::<F>(x, h.as_ref().map_or(&[1.0; QK], |h| &h[i % blocks_per_row]), out);
    }
}

/// Reads whole blocks of `F`.
pub fn dequantize<F: Format>(level: Level, bytes: &[u8], out: &mut [f32]) {
    simd_basic::run(level, Dequantize::<F> { bytes, out, format: PhantomData });
}

struct Dequantize<'a, F> {
    bytes: &'a [u8],
    out: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format> Kernel for Dequantize<'_, F> {
    #[inline(always)]
    fn run(self) {
        let blocks = self.bytes.chunks_exact(F::BYTES).zip(self.out.as_chunks_mut::<QK>().0);
        for (bytes, out) in blocks {
            F::decode(bytes, out);
        }
    }
}

/// The importances of a row, each block scaled to a largest one of 1, so that no sum of squares
/// overflows or vanishes. A block without any importance counts evenly.
pub(super) fn normalized(importance: &[f32]) -> Vec<Block> {
    let one = |block: &Block| {
        let largest = block.iter().fold(0.0f32, |a, &h| a.max(h));
        if largest < f32::MIN_POSITIVE || largest.is_infinite() {
            return [1.0; QK];
        }
        block.map(|h| (h / largest).max(0.0))
    };
    importance.as_chunks().0.iter().map(one).collect()
}

/// Quantises one block; `h` is positive somewhere.
fn encode<F: Searched>(x: &Block, h: &Block, out: &mut [u8]) {
    let (grid, codes) = match F::MODEL {
        Model::Symmetric { half, reaches } => {
            let search = Symmetric { x, h, half };
            let grid = search.grid(reaches);
            let inv = signed_inverse(grid.scale);
            (grid, x.map(|x| search.code(x * inv) + half))
        }
        Model::Affine { top, tries } => {
            let grid = Affine::new(x, h, top).grid(tries);
            let inv = inverse(grid.scale);
            (grid, x.map(|x| code((x - grid.offset) * inv, top)))
        }
    };
    F::pack(grid, &words(&codes), out);
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
    fn grid(&self, reaches: &[f32]) -> Grid {
        let (low, high) = range(self.x);
        let extreme = if high > 0.0 - low { high } else { low };
        let mut best = self.measure(extreme * (-1.0 / self.half)).0;
        let mut scale = self.best_try(reaches, extreme);
        for _ in 0..=REFITS {
            let (measured, next) = self.measure(scale);
            best.keep_better(measured);
            scale = next;
        }
        best.grid
    }

    /// The scale of the codes that take most off the error.
    fn best_try(&self, reaches: &[f32], extreme: f32) -> f32 {
        let inv_extreme = signed_inverse(extreme);
        let (mut best, mut most_gain) = (0.0, 0.0);
        for reach in reaches {
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

/// Codes as bytes in words.
pub fn words(codes: &Block) -> Words {
    let mut words = [0; QK / 4];
    for (word, codes) in words.iter_mut().zip(codes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(codes.map(|q| q as u8));
    }
    words
}

/// Puts the low nibbles of 32 codes into 16 bytes: code i below, code i + 16 above.
#[inline(always)]
pub fn pack_nibbles(codes: &Words, out: &mut [u8]) {
    const LOW: u32 = 0x0F0F_0F0F;
    for (k, bytes) in out.as_chunks_mut().0.iter_mut().take(QK / 8).enumerate() {
        *bytes = (codes[k] & LOW | (codes[k + QK / 8] & LOW) << 4).to_le_bytes();
    }
}

/// The reverse of [`pack_nibbles`].
#[inline(always)]
pub fn unpack_nibbles(bytes: &[u8]) -> [u8; QK] {
    let mut codes = [0; QK];
    for (i, byte) in bytes[..QK / 2].iter().enumerate() {
        codes[i] = byte & 15;
        codes[i + 16] = byte >> 4;
    }
    codes
}

/// The fifth bits of 32 codes, code i at bit i.
#[inline(always)]
pub fn pack_fifth_bits(codes: &Words) -> [u8; 4] {
    let mut bits = 0;
    for (k, word) in codes.iter().enumerate() {
        // The product brings bits 0, 8, 16 and 24 to 24..28, and nothing else there or above.
        bits |= ((word >> 4 & 0x0101_0101).wrapping_mul(0x0102_0408) >> 24) << (4 * k);
    }
    bits.to_le_bytes()
}

/// Adds the fifth bits to codes unpacked from nibbles.
#[inline(always)]
pub fn add_fifth_bits(codes: &mut [u8; QK], bytes: &[u8]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> i & 1) as u8) << 4;
    }
}

/// Reads an f16 scale at the start of `bytes`.
#[inline(always)]
pub fn scale_at(bytes: &[u8]) -> f32 {
    f16::decode(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// An f16 number as bytes.
#[inline(always)]
pub fn scale_bytes(scale: f32) -> [u8; 2] {
    f16::encode(scale).to_le_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::simd_level::available;
    use proptest::prelude::*;

    /// Weights in a row: neither rows nor their sum are whole groups of lanes.
    pub const COLUMNS: usize = 7 * QK;
    const ROWS: usize = 5;

    /// Rows of weights of many magnitudes, some of them special, none above `largest`.
    pub fn weights(largest: f32) -> impl Strategy<Value = Vec<f32>> {
        let special = prop::sample::select(vec![
            0.0,
            -0.0,
            f32::from_bits(1),
            -f32::MIN_POSITIVE,
            f16::MIN_POSITIVE,
            -f16::MIN_POSITIVE / 2.0,
            largest,
            -largest,
            0.5,
        ]);
        let scaled =
            (-1.0f32..1.0, -30i32..6).prop_map(move |(x, e)| (x * 2f32.powi(e)).clamp(-largest, largest));
        let ordinary = -1.0f32..1.0;
        let block = |w: BoxedStrategy<f32>| prop::collection::vec(w, QK);
        let constant = prop_oneof![Just(0.0), Just(largest), Just(-largest), ordinary.clone()];
        let any = prop_oneof![
            block(ordinary.clone().boxed()),
            block(scaled.clone().boxed()),
            block(prop_oneof![8 => ordinary, 1 => scaled, 1 => special.clone()].boxed()),
            block(special.boxed()),
            constant.prop_map(|w| vec![w; QK]),
        ];
        prop::collection::vec(any, ROWS * COLUMNS / QK).prop_map(|blocks| blocks.concat())
    }

    /// Both directions give the scalar bits at every level, with and without importance, and
    /// nothing that is not finite.
    pub fn check_levels_agree(
        block_bytes: usize,
        w: &[f32],
        h: &[f32],
        quantize: impl Fn(Level, &[f32], usize, Option<&[f32]>, &mut [u8]),
        dequantize: impl Fn(Level, &[u8], &mut [f32]),
    ) {
        let h: Vec<f32> = h[..COLUMNS].iter().map(|h| h.abs()).collect();
        for importance in [None, Some(&h[..])] {
            let both = |level| {
                let mut bytes = vec![0xAA; w.len() / QK * block_bytes];
                quantize(level, w, COLUMNS, importance, &mut bytes);
                let mut back = vec![f32::NAN; w.len()];
                dequantize(level, &bytes, &mut back);
                (bytes, back)
            };
            let (bytes, back) = both(Level::Scalar);
            assert!(back.iter().all(|v| v.is_finite()), "{w:?} gave {back:?}");
            for level in available() {
                let (b, v) = both(level);
                assert_eq!(b, bytes, "{level:?}");
                assert!(v.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()), "{level:?}");
            }
        }
    }

    #[test]
    fn the_search_is_better_than_the_plain_range() {
        let x: Block = std::array::from_fn(|i| ((i * 37 % 32) as f32 - 11.3) * 0.07);
        let h: Block = std::array::from_fn(|i| if i % 5 == 0 { 1.0 } else { 0.05 });
        let (low, high) = range(&x);
        let search = Symmetric { x: &x, h: &h, half: 8.0 };
        let found = search.measure(search.grid(&[8.1, 7.3]).scale).0;
        assert!(found.error < search.measure(high / -8.0).0.error);
        let search = Affine::new(&x, &h, 15.0);
        let grid = search.grid(&[(0.0, 0.0), (0.6, -0.25)]);
        let found = search.measure(grid.scale, grid.offset).0;
        assert!(found.error < search.measure((high - low) / 15.0, low).0.error);
    }

    #[test]
    fn packing_and_unpacking_are_inverse() {
        let codes: [u8; QK] = std::array::from_fn(|i| (i * 19 % 32) as u8);
        let words = words(&codes.map(f32::from));
        let mut nibbles = [0; QK / 2];
        pack_nibbles(&words, &mut nibbles);
        let mut back = unpack_nibbles(&nibbles);
        add_fifth_bits(&mut back, &pack_fifth_bits(&words));
        assert_eq!(back, codes);
    }

    #[test]
    fn importances_are_scaled_by_block_and_absent_ones_count_evenly() {
        let mut h = vec![0.0; 2 * QK];
        h[3] = 1e-30;
        h[4] = 2e-30;
        let blocks = normalized(&h);
        assert_eq!((blocks[0][3], blocks[0][4], blocks[0][5]), (0.5, 1.0, 0.0));
        assert_eq!(blocks[1], [1.0; QK]);
    }
}
