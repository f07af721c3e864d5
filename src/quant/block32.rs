//! What the formats with blocks of 32 weights share: the walk over rows, and the search for the
//! scale (and offset) of a block.
//!
//! The search minimises `sum h (w - v)^2` over the block, `h` the importance of the columns (1
//! without), `v` what the block decodes to, its scale already rounded to f16. Candidates are
//! stretched and shrunk versions of the range-based scale. For each the codes are fixed by
//! rounding, and the best scale for those codes follows by least squares. The plain range-based
//! scale, which is ggml's choice without an imatrix, is among those compared at the end, so the
//! result is never worse than it.

use super::f16;
use super::simd_basic::{self, Kernel, Lanes};
use crate::simd_level::Level;
use std::marker::PhantomData;

/// A block in lanes, made part by part. A macro, since a closure would not be inlined into the shells.
macro_rules! wide {
    ($i:ident => $part:expr) => {
        [
            {
                let $i = 0;
                $part
            },
            {
                let $i = 1;
                $part
            },
            {
                let $i = 2;
                $part
            },
            {
                let $i = 3;
                $part
            },
        ]
    };
}

/// Weights in a block.
pub const QK: usize = 32;

/// A block of weights, codes (as floats) or importances.
pub type Block = [f32; QK];

/// A block format. Everything is `#[inline(always)]` in the implementations; see [`Kernel`].
pub trait Format {
    /// Bytes of a block.
    const BYTES: usize;
    /// Quantises one block; `h` is positive somewhere.
    fn encode<V: Lanes>(w: &Block, h: &Block, out: &mut [u8]);
    /// The block's weights, in ggml's arithmetic.
    fn decode(bytes: &[u8], out: &mut Block);
}

/// Quantises rows of whole blocks of `F`.
pub fn quantize<F: Format>(
    level: Level,
    rows: &[f32],
    n_per_row: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let h = importance.map(normalized);
    simd_basic::run(level, Quantize::<F> { rows, n_per_row, h: h.as_deref(), out, format: PhantomData });
}

/// Reads whole blocks of `F`.
pub fn dequantize<F: Format>(level: Level, bytes: &[u8], out: &mut [f32]) {
    simd_basic::run(level, Dequantize::<F> { bytes, out, format: PhantomData });
}

struct Quantize<'a, F> {
    rows: &'a [f32],
    n_per_row: usize,
    h: Option<&'a [Block]>,
    out: &'a mut [u8],
    format: PhantomData<F>,
}

impl<F: Format> Kernel for Quantize<'_, F> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let blocks_per_row = (self.n_per_row / QK).max(1);
        let blocks = self.rows.as_chunks::<QK>().0.iter().zip(self.out.chunks_exact_mut(F::BYTES));
        for (i, (w, out)) in blocks.enumerate() {
            let h = self.h.map_or(&[1.0; QK], |h| &h[i % blocks_per_row]);
            F::encode::<V>(w, h, out);
        }
    }
}

struct Dequantize<'a, F> {
    bytes: &'a [u8],
    out: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format> Kernel for Dequantize<'_, F> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let blocks = self.bytes.chunks_exact(F::BYTES).zip(self.out.as_chunks_mut::<QK>().0);
        for (bytes, out) in blocks {
            F::decode(bytes, out);
        }
    }
}

/// The importances of a row, each block scaled to a largest one of 1, so that no sum of squares
/// overflows or vanishes. A block without any importance counts evenly.
fn normalized(importance: &[f32]) -> Vec<Block> {
    let one = |block: &Block| {
        let largest = block.iter().fold(0.0f32, |a, &h| a.max(h));
        if largest < f32::MIN_POSITIVE || largest.is_infinite() {
            return [1.0; QK];
        }
        block.map(|h| (h / largest).max(0.0))
    };
    importance.as_chunks().0.iter().map(one).collect()
}

/// Eight groups of four lanes: what the loops over a block go by. The scalar code and every shell add
/// up in the same order: lane l takes weights l, l + 8, l + 16, l + 24, then the lanes are folded.
#[inline(always)]
fn sum<V: Lanes>(v: Wide<V>) -> f32 {
    let v = v[0].add(v[1]).add(v[2].add(v[3])).store();
    ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

/// A block in lanes.
type Wide<V> = [V; 4];

#[inline(always)]
fn widen<V: Lanes>(block: &Block) -> Wide<V> {
    let parts = block.as_chunks().0;
    [V::load(&parts[0]), V::load(&parts[1]), V::load(&parts[2]), V::load(&parts[3])]
}

#[inline(always)]
fn narrow<V: Lanes>(wide: &Wide<V>) -> Block {
    let mut block = [0.0; QK];
    for (part, v) in block.as_chunks_mut().0.iter_mut().zip(wide) {
        *part = v.store();
    }
    block
}

/// The codes nearest to `(w - offset) * inverse`, within `lo..=hi`. Rounds to nearest, ties to even, by
/// pure additions, which is exact for `|x|` up to 2^22.
#[inline(always)]
fn codes<V: Lanes>(w: &Wide<V>, inverse: f32, offset: f32, lo: f32, hi: f32) -> Wide<V> {
    const MAGIC: f32 = 1.5 * (1u32 << 23) as f32;
    let (inverse, offset, magic) = (V::splat(inverse), V::splat(offset), V::splat(MAGIC));
    let (lo, hi) = (V::splat(lo), V::splat(hi));
    wide!(i => w[i].sub(offset).mul(inverse).max(lo).min(hi).add(magic).sub(magic))
}

/// `1 / d` where that is a usable number, otherwise 0 (all codes zero).
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d.abs() < f16::MIN_POSITIVE { 0.0 } else { 1.0 / d }
}

/// The f16 nearest to `d`, kept finite.
#[inline(always)]
fn finite_f16(d: f32) -> f32 {
    f16::round(d.clamp(-f16::MAX, f16::MAX))
}

/// The extreme values of a block.
#[inline(always)]
fn range<V: Lanes>(w: &Wide<V>) -> (f32, f32) {
    let min = w[0].min(w[1]).min(w[2].min(w[3])).store();
    let max = w[0].max(w[1]).max(w[2].max(w[3])).store();
    let fold = |v: [f32; 8], first: fn(f32, f32) -> bool| {
        v.into_iter().reduce(|a, b| if first(b, a) { b } else { a }).unwrap_or(0.0)
    };
    (fold(min, |a, b| a < b), fold(max, |a, b| a > b))
}

/// A quantised block: `scale * code`, or `scale * code + offset`. The scale and the offset are f16 numbers.
#[derive(Clone, Copy)]
struct Try<V> {
    scale: f32,
    offset: f32,
    codes: Wide<V>,
    error: f32,
}

/// What a search found.
pub struct Fit {
    pub scale: f32,
    pub offset: f32,
    pub codes: Block,
}

impl<V: Lanes> Try<V> {
    /// Rounds `scale` and `offset` to f16, the weights to what they then give, and measures.
    #[inline(always)]
    fn new(w: &Wide<V>, h: &Wide<V>, scale: f32, offset: f32, lo: f32, hi: f32) -> Self {
        let (scale, offset) = (finite_f16(scale), finite_f16(offset));
        let codes = codes(w, inverse(scale), offset, lo, hi);
        let (s, o) = (V::splat(scale), V::splat(offset));
        let error = sum(wide!(i => {
            let e = s.mul(codes[i]).add(o).sub(w[i]);
            h[i].mul(e.mul(e))
        }));
        Self { scale, offset, codes, error }
    }

    #[inline(always)]
    fn fit(&self) -> Fit {
        Fit { scale: self.scale, offset: self.offset, codes: narrow(&self.codes) }
    }
}

/// How far the stretched candidates lie from the range-based scale, in codes.
const STRETCH: [f32; 9] = [-1.2, -0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.2];

/// Rounds of least squares and rounding on the winner.
const REFITS: usize = 3;

/// The best scale found for codes `-half..half` (`half` included on the negative side only).
#[inline(always)]
pub fn fit_symmetric<V: Lanes>(w: &Block, h: &Block, half: f32) -> Fit {
    symmetric::<V>(&widen(w), &widen(h), half).fit()
}

#[inline(always)]
fn symmetric<V: Lanes>(w: &Wide<V>, h: &Wide<V>, half: f32) -> Try<V> {
    let (lo, hi) = (-half, half - 1.0);
    let (min, max) = range(w);
    // The weight of largest magnitude takes the code -half: there is one more on that side.
    let extreme = if -min > max { min } else { max };
    let plain = Try::new(w, h, extreme / -half, 0.0, lo, hi);
    if extreme == 0.0 || plain.error == 0.0 {
        return plain;
    }
    let (mut most, mut scale) = (0.0, plain.scale);
    for side in [-half, half - 1.0] {
        for stretch in STRETCH {
            let q = codes(w, (side + stretch) / extreme, 0.0, lo, hi);
            let wq = sum(wide!(i => h[i].mul(w[i].mul(q[i]))));
            let qq = sum(wide!(i => h[i].mul(q[i].mul(q[i]))));
            // With its best scale wq/qq, these codes take wq^2/qq off the error.
            let gain = wq / qq * wq;
            if gain > most {
                (most, scale) = (gain, wq / qq);
            }
        }
    }
    let mut best = Try::new(w, h, scale, 0.0, lo, hi);
    for _ in 0..REFITS {
        let q = best.codes;
        let wq = sum(wide!(i => h[i].mul(w[i].mul(q[i]))));
        let qq = sum(wide!(i => h[i].mul(q[i].mul(q[i]))));
        let next = Try::new(w, h, if qq > 0.0 { wq / qq } else { best.scale }, 0.0, lo, hi);
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    if plain.error <= best.error { plain } else { best }
}

/// The best scale and offset found for codes `0..=top`.
#[inline(always)]
pub fn fit_affine<V: Lanes>(w: &Block, h: &Block, top: f32) -> Fit {
    affine::<V>(&widen(w), &widen(h), top).fit()
}

#[inline(always)]
fn affine<V: Lanes>(w: &Wide<V>, h: &Wide<V>, top: f32) -> Try<V> {
    let (min, max) = range(w);
    let plain = Try::new(w, h, (max - min) / top, min, 0.0, top);
    if plain.error == 0.0 {
        return plain;
    }
    let line = Line::new(w, h);
    let mut best: Option<(f32, f32, f32)> = None;
    for stretch in STRETCH {
        let inverse = (top + stretch) / (max - min);
        // Shrunk candidates clip both ends alike, stretched ones leave room at both.
        let offset = min - 0.5 * stretch / inverse;
        let q = codes(w, if inverse.is_finite() { inverse } else { 0.0 }, offset, 0.0, top);
        let (error, scale, offset) = line.through(&q);
        if best.is_none_or(|b| error < b.0) {
            best = Some((error, scale, offset));
        }
    }
    let (_, scale, offset) = best.unwrap_or((0.0, plain.scale, plain.offset));
    let mut best = Try::new(w, h, scale, offset, 0.0, top);
    for _ in 0..REFITS {
        let (_, scale, offset) = line.through(&best.codes);
        let next = Try::new(w, h, scale, offset, 0.0, top);
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    if plain.error <= best.error { plain } else { best }
}

/// Weighted least squares of `w = scale * q + offset`, about the means for accuracy.
struct Line<'a, V> {
    h: &'a Wide<V>,
    /// `w` less its mean.
    centred: Wide<V>,
    mean: f32,
    sum_h: f32,
}

impl<'a, V: Lanes> Line<'a, V> {
    #[inline(always)]
    fn new(w: &Wide<V>, h: &'a Wide<V>) -> Self {
        let sum_h = sum(wide!(i => h[i]));
        let mean = sum(wide!(i => h[i].mul(w[i]))) / sum_h;
        Self { h, centred: wide!(i => w[i].sub(V::splat(mean))), mean, sum_h }
    }

    /// `(error, scale, offset)` of the best line for these codes.
    #[inline(always)]
    fn through(&self, q: &Wide<V>) -> (f32, f32, f32) {
        let (h, w) = (self.h, &self.centred);
        let mean_q = sum(wide!(i => h[i].mul(q[i]))) / self.sum_h;
        let q = wide!(i => q[i].sub(V::splat(mean_q)));
        let qq = sum(wide!(i => h[i].mul(q[i].mul(q[i]))));
        let wq = sum(wide!(i => h[i].mul(w[i].mul(q[i]))));
        let scale = if qq > 0.0 { wq / qq } else { 0.0 };
        let error = sum(wide!(i => {
            let e = w[i].sub(V::splat(scale).mul(q[i]));
            h[i].mul(e.mul(e))
        }));
        (error, scale, self.mean - scale * mean_q)
    }
}

/// Puts the low nibbles of 32 codes into 16 bytes: code i below, code i + 16 above.
#[inline(always)]
pub fn pack_nibbles(codes: &[u8; QK], out: &mut [u8]) {
    for (i, byte) in out[..QK / 2].iter_mut().enumerate() {
        *byte = codes[i] & 15 | (codes[i + 16] & 15) << 4;
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
pub fn pack_fifth_bits(codes: &[u8; QK]) -> [u8; 4] {
    let mut bits = 0u32;
    for (i, &code) in codes.iter().enumerate() {
        bits |= u32::from(code >> 4 & 1) << i;
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

/// Codes as bytes, shifted up by `bias`.
#[inline(always)]
pub fn to_bytes(codes: &Block, bias: f32) -> [u8; QK] {
    codes.map(|q| (q + bias) as u8)
}

/// Reads an f16 scale at the start of `bytes`.
#[inline(always)]
pub fn scale_at(bytes: &[u8]) -> f32 {
    f16::decode(u16::from_le_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::simd_level::available;
    use proptest::prelude::*;

    /// Four blocks of weights of many magnitudes, some of them special, none above `largest`.
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
        let row = |w: BoxedStrategy<f32>| prop::collection::vec(w, 4 * QK);
        prop_oneof![
            row(ordinary.clone().boxed()),
            row(scaled.clone().boxed()),
            row(prop_oneof![8 => ordinary, 1 => scaled, 1 => special.clone()].boxed()),
            row(special.boxed()),
            special_constant(largest),
        ]
    }

    fn special_constant(largest: f32) -> impl Strategy<Value = Vec<f32>> {
        prop_oneof![Just(0.0), Just(largest), Just(-largest), -1.0f32..1.0].prop_map(|w| vec![w; 4 * QK])
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
        let h: Vec<f32> = h.iter().map(|h| h.abs()).collect();
        for importance in [None, Some(&h[..])] {
            let both = |level| {
                let mut bytes = vec![0xAA; w.len() / QK * block_bytes];
                quantize(level, w, w.len(), importance, &mut bytes);
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
        let w: Block = std::array::from_fn(|i| ((i * 37 % 32) as f32 - 11.3) * 0.07);
        let h: Block = std::array::from_fn(|i| if i % 5 == 0 { 1.0 } else { 0.05 });
        let (w, h): (Wide<[f32; 8]>, _) = (widen(&w), widen(&h));
        let (min, max) = range(&w);
        let plain = Try::new(&w, &h, max / -8.0, 0.0, -8.0, 7.0);
        assert!(symmetric(&w, &h, 8.0).error < plain.error);
        let plain = Try::new(&w, &h, (max - min) / 15.0, min, 0.0, 15.0);
        assert!(affine(&w, &h, 15.0).error < plain.error);
    }

    #[test]
    fn a_sum_takes_every_term_once() {
        let block: Wide<[f32; 8]> = widen(&std::array::from_fn(|i| i as f32));
        assert_eq!(sum(wide!(i => block[i])), 496.0);
        assert_eq!(range(&block), (0.0, 31.0));
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
