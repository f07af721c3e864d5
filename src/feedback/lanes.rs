//! Arithmetic on [`ROWS`] rows at once: the same column of each, side by side in lanes.
//!
//! [`Lanes`] names the operations; [`Plain`] is the reference, [`super::simd`] holds others. Products and sums are fused
//! by name ([`Lanes::mul_add`]) or not at all, so the bits are the same on every CPU.

use half::f16;

use crate::quant::search::{least, most};

/// Rows that are worked on together: two registers of 8 floats.
pub(super) const ROWS: usize = 16;

/// The same column of [`ROWS`] rows, in memory: one line of the caches.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Lane(pub [f32; ROWS]);

/// Bits lane by lane, in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Word(pub [u32; ROWS]);

impl Default for Lane {
    fn default() -> Self {
        Self([0.0; ROWS])
    }
}

impl Default for Word {
    fn default() -> Self {
        Self([0; ROWS])
    }
}

/// `1.5 * 2^23`: the unit of the last place of a sum with it is 1.
const MAGIC: f32 = 12_582_912.0;

/// Operations on [`ROWS`] lanes. A value of the implementing type is the proof that the CPU has the instructions,
/// which is what makes the methods safe.
pub(super) trait Lanes: Copy {
    /// [`ROWS`] floats.
    type F: Copy;
    /// [`ROWS`] words of 32 bits: codes, or a mask of all ones and all zeros.
    type W: Copy;

    fn load(self, from: &Lane) -> Self::F;
    fn store(self, a: Self::F, to: &mut Lane);
    fn splat(self, v: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a < b ? a : b`
    fn least(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`
    fn most(self, a: Self::F, b: Self::F) -> Self::F;
    /// Nearest f16, as f32.
    fn round16(self, a: Self::F) -> Self::F;
    /// `a < b`; false for NaN.
    fn less(self, a: Self::F, b: Self::F) -> Self::W;
    /// `a == b`; false for NaN.
    fn equal(self, a: Self::F, b: Self::F) -> Self::W;
    /// `a` where the mask is set, else `b`.
    fn pick(self, mask: Self::W, a: Self::F, b: Self::F) -> Self::F;

    fn load_word(self, from: &Word) -> Self::W;
    fn store_word(self, a: Self::W, to: &mut Word);
    fn word(self, v: u32) -> Self::W;
    fn bits(self, a: Self::F) -> Self::W;
    fn and(self, a: Self::W, b: Self::W) -> Self::W;
    fn or(self, a: Self::W, b: Self::W) -> Self::W;
    fn xor(self, a: Self::W, b: Self::W) -> Self::W;
    /// Shifts to the left by N bits, N below 32; and to the right, filled up with zeros or with the sign.
    fn left<const N: i32>(self, a: Self::W) -> Self::W;
    fn right<const N: i32>(self, a: Self::W) -> Self::W;
    fn right_signed<const N: i32>(self, a: Self::W) -> Self::W;
    fn same(self, a: Self::W, b: Self::W) -> Self::W;
    /// The words as signed numbers.
    fn floats(self, a: Self::W) -> Self::F;

    /// Row i of the result holds value i of each of `from`.
    fn turn(self, from: [&[f32; 8]; 8]) -> [[f32; 8]; 8];

    /// Nearest integer, ties to even, of `|a| < 2^22`.
    #[inline(always)]
    fn nearest(self, a: Self::F) -> Self::F {
        let magic = self.splat(MAGIC);
        self.sub(self.add(a, magic), magic)
    }

    /// A whole number of less than 2^22 as two's complement, its low `bits` bits.
    #[inline(always)]
    fn low_bits(self, whole: Self::F, bits: usize) -> Self::W {
        self.and(self.bits(self.add(whole, self.splat(MAGIC))), self.word((1 << bits) - 1))
    }

    /// Exchanges `a` and `b` where the mask is set.
    #[inline(always)]
    fn swap(self, mask: Self::W, a: Self::W, b: Self::W) -> (Self::W, Self::W) {
        let change = self.and(self.xor(a, b), mask);
        (self.xor(a, change), self.xor(b, change))
    }
}

/// The reference: arrays and plain loops.
#[derive(Clone, Copy)]
pub(super) struct Plain;

/// Lane by lane, in a plain loop: what takes closures is not sure to be inlined.
macro_rules! lanes {
    ($i:ident, $zero:expr, $out:expr) => {{
        let mut out = [$zero; ROWS];
        for $i in 0..ROWS {
            out[$i] = $out;
        }
        out
    }};
}

const ONES: [u32; 2] = [0, u32::MAX];

impl Lanes for Plain {
    type F = [f32; ROWS];
    type W = [u32; ROWS];

    #[inline(always)]
    fn load(self, from: &Lane) -> Self::F {
        from.0
    }
    #[inline(always)]
    fn store(self, a: Self::F, to: &mut Lane) {
        to.0 = a;
    }
    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        [v; ROWS]
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i, 0.0, a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i, 0.0, a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i, 0.0, a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i, 0.0, a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        lanes!(i, 0.0, a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn least(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i, 0.0, least(a[i], b[i]))
    }
    #[inline(always)]
    fn most(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i, 0.0, most(a[i], b[i]))
    }
    #[inline(always)]
    fn round16(self, a: Self::F) -> Self::F {
        lanes!(i, 0.0, f16::from_f32(a[i]).to_f32())
    }
    #[inline(always)]
    fn less(self, a: Self::F, b: Self::F) -> Self::W {
        lanes!(i, 0, ONES[usize::from(a[i] < b[i])])
    }
    #[inline(always)]
    fn equal(self, a: Self::F, b: Self::F) -> Self::W {
        lanes!(i, 0, ONES[usize::from(a[i] == b[i])])
    }
    #[inline(always)]
    fn pick(self, mask: Self::W, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i, 0.0, f32::from_bits((a[i].to_bits() & mask[i]) | (b[i].to_bits() & !mask[i])))
    }
    #[inline(always)]
    fn load_word(self, from: &Word) -> Self::W {
        from.0
    }
    #[inline(always)]
    fn store_word(self, a: Self::W, to: &mut Word) {
        to.0 = a;
    }
    #[inline(always)]
    fn word(self, v: u32) -> Self::W {
        [v; ROWS]
    }
    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::W {
        lanes!(i, 0, a[i].to_bits())
    }
    #[inline(always)]
    fn and(self, a: Self::W, b: Self::W) -> Self::W {
        lanes!(i, 0, a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: Self::W, b: Self::W) -> Self::W {
        lanes!(i, 0, a[i] | b[i])
    }
    #[inline(always)]
    fn xor(self, a: Self::W, b: Self::W) -> Self::W {
        lanes!(i, 0, a[i] ^ b[i])
    }
    #[inline(always)]
    fn left<const N: i32>(self, a: Self::W) -> Self::W {
        lanes!(i, 0, a[i] << N)
    }
    #[inline(always)]
    fn right<const N: i32>(self, a: Self::W) -> Self::W {
        lanes!(i, 0, a[i] >> N)
    }
    #[inline(always)]
    fn right_signed<const N: i32>(self, a: Self::W) -> Self::W {
        lanes!(i, 0, (a[i] as i32 >> N) as u32)
    }
    #[inline(always)]
    fn same(self, a: Self::W, b: Self::W) -> Self::W {
        lanes!(i, 0, ONES[usize::from(a[i] == b[i])])
    }
    #[inline(always)]
    fn floats(self, a: Self::W) -> Self::F {
        lanes!(i, 0.0, a[i] as i32 as f32)
    }
    #[inline(always)]
    fn turn(self, from: [&[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let mut out = [[0.0; 8]; 8];
        for (i, out) in out.iter_mut().enumerate() {
            for (to, from) in out.iter_mut().zip(from) {
                *to = from[i];
            }
        }
        out
    }
}

/// Rows of a matrix that [`dots`] takes side by side: their sums, the values they meet and a coefficient fill the
/// registers.
pub(super) const TILE: usize = 4;

/// `sums[c] += sum over i of m[(row + c) * stride + col + i] * x[i]`, i ascending.
#[inline(always)]
pub(super) fn dots<L: Lanes>(
    l: L,
    m: &[f32],
    stride: usize,
    (row, col): (usize, usize),
    x: &[Lane],
    sums: [L::F; TILE],
) -> [L::F; TILE] {
    let (first, n) = (row * stride + col, x.len());
    let (a, b) = (&m[first..][..n], &m[first + stride..][..n]);
    let (c, d) = (&m[first + 2 * stride..][..n], &m[first + 3 * stride..][..n]);
    let [mut to_a, mut to_b, mut to_c, mut to_d] = sums;
    for i in 0..n {
        let x = l.load(&x[i]);
        to_a = l.mul_add(l.splat(a[i]), x, to_a);
        to_b = l.mul_add(l.splat(b[i]), x, to_b);
        to_c = l.mul_add(l.splat(c[i]), x, to_c);
        to_d = l.mul_add(l.splat(d[i]), x, to_d);
    }
    [to_a, to_b, to_c, to_d]
}

/// [`dots`] of as many rows as `to` has room for, from zero.
#[inline(always)]
pub(super) fn all_dots<L: Lanes>(
    l: L,
    m: &[f32],
    stride: usize,
    (row, col): (usize, usize),
    x: &[Lane],
    to: &mut [Lane],
) {
    for (i, to) in to.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let sums = dots(l, m, stride, (row + i * TILE, col), x, [l.splat(0.0); TILE]);
        for (to, sum) in to.iter_mut().zip(sums) {
            l.store(sum, to);
        }
    }
}

/// [`ROWS`] rows one after another as lanes, `to` holding a column each.
#[inline(always)]
pub(super) fn lanes_of<L: Lanes>(l: L, rows: &[f32], to: &mut [Lane]) {
    let n = to.len();
    for (column, to) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for half in 0..ROWS / 8 {
            let mut from = [&[0.0; 8]; 8];
            for (i, from) in from.iter_mut().enumerate() {
                let at = (half * 8 + i) * n + column * 8;
                *from = rows[at..].first_chunk().expect("whole rows");
            }
            for (to, values) in to.iter_mut().zip(l.turn(from)) {
                to.0.as_chunks_mut::<8>().0[half] = values;
            }
        }
    }
}

/// The inverse of [`lanes_of`].
#[inline(always)]
pub(super) fn rows_of<L: Lanes>(l: L, lanes: &[Lane], to: &mut [f32]) {
    let n = lanes.len();
    for (column, lanes) in lanes.as_chunks::<8>().0.iter().enumerate() {
        for half in 0..ROWS / 8 {
            let mut from = [&[0.0; 8]; 8];
            for (from, lane) in from.iter_mut().zip(lanes) {
                *from = &lane.0.as_chunks::<8>().0[half];
            }
            for (i, values) in l.turn(from).iter().enumerate() {
                to[(half * 8 + i) * n + column * 8..][..8].copy_from_slice(values);
            }
        }
    }
}
