//! Arithmetic on [`ROWS`] rows at once: a vector holds the same column of each row, one row in each lane.
//!
//! [`Vector`] names the operations. [`Portable`] is the reference; [`super::simd`] holds the other implementations. A
//! product and a sum are fused by name ([`Vector::mul_add`]) or not at all, so the bits are the same on every CPU.

use half::f16;

use crate::quant::search::{least, most};

/// Number of rows that are solved together: two registers of 8 floats.
pub(super) const ROWS: usize = 16;

/// The same column of [`ROWS`] rows in memory; it fills one cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct F32x16(pub [f32; ROWS]);

/// [`ROWS`] words of 32 bits in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct U32x16(pub [u32; ROWS]);

impl Default for F32x16 {
    fn default() -> Self {
        Self([0.0; ROWS])
    }
}

impl Default for U32x16 {
    fn default() -> Self {
        Self([0; ROWS])
    }
}

/// `1.5 * 2^23`. A sum with this number has 1 as the unit of its last place.
const MAGIC: f32 = 12_582_912.0;

/// Operations on [`ROWS`] lanes. A value of the implementing type proves that the CPU has the instructions; this makes
/// the methods safe.
pub(super) trait Vector: Copy {
    /// [`ROWS`] floats.
    type F32: Copy;
    /// [`ROWS`] words of 32 bits. A mask has all ones or all zeros in each word.
    type U32: Copy;

    fn load(self, from: &F32x16) -> Self::F32;
    fn store(self, a: Self::F32, to: &mut F32x16);
    fn splat(self, v: f32) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// Returns `a < b ? a : b`.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns `a > b ? a : b`.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns the nearest f16, as f32.
    fn round_f16(self, a: Self::F32) -> Self::F32;
    /// Returns the mask of `a < b`, which is false for NaN.
    fn lt(self, a: Self::F32, b: Self::F32) -> Self::U32;
    /// Returns the mask of `a == b`, which is false for NaN.
    fn eq(self, a: Self::F32, b: Self::F32) -> Self::U32;
    /// Returns `a` where the mask is set, and `b` elsewhere.
    fn select(self, mask: Self::U32, a: Self::F32, b: Self::F32) -> Self::F32;

    fn load_u32(self, from: &U32x16) -> Self::U32;
    fn store_u32(self, a: Self::U32, to: &mut U32x16);
    fn splat_u32(self, v: u32) -> Self::U32;
    fn to_bits(self, a: Self::F32) -> Self::U32;
    fn and(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn or(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn xor(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// Shifts to the left by N bits, with N below 32.
    fn shl<const N: i32>(self, a: Self::U32) -> Self::U32;
    /// Shifts to the right by N bits and fills up with zeros.
    fn shr<const N: i32>(self, a: Self::U32) -> Self::U32;
    /// Shifts to the right by N bits and fills up with the sign.
    fn sar<const N: i32>(self, a: Self::U32) -> Self::U32;
    fn eq_u32(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// Converts signed integers to floats.
    fn i32_to_f32(self, a: Self::U32) -> Self::F32;

    /// Transposes a square: row i of the result holds value i of each row of `from`.
    fn transpose8x8(self, from: [&[f32; 8]; 8]) -> [[f32; 8]; 8];

    /// Rounds to the nearest integer, ties to even, for `|a| < 2^22`.
    #[inline(always)]
    fn round_ties_even(self, a: Self::F32) -> Self::F32 {
        let magic = self.splat(MAGIC);
        self.sub(self.add(a, magic), magic)
    }

    /// Returns the low `bits` bits, in two's complement, of a whole number below 2^22.
    #[inline(always)]
    fn low_bits(self, whole: Self::F32, bits: usize) -> Self::U32 {
        self.and(self.to_bits(self.add(whole, self.splat(MAGIC))), self.splat_u32((1 << bits) - 1))
    }

    /// Exchanges `a` and `b` where the mask is set.
    #[inline(always)]
    fn swap(self, mask: Self::U32, a: Self::U32, b: Self::U32) -> (Self::U32, Self::U32) {
        let change = self.and(self.xor(a, b), mask);
        (self.xor(a, change), self.xor(b, change))
    }
}

/// The reference implementation: arrays and plain loops.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// F32x16 by lane, in a plain loop: what takes closures is not sure to be inlined.
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

impl Vector for Portable {
    type F32 = [f32; ROWS];
    type U32 = [u32; ROWS];

    #[inline(always)]
    fn load(self, from: &F32x16) -> Self::F32 {
        from.0
    }
    #[inline(always)]
    fn store(self, a: Self::F32, to: &mut F32x16) {
        to.0 = a;
    }
    #[inline(always)]
    fn splat(self, v: f32) -> Self::F32 {
        [v; ROWS]
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, least(a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, most(a[i], b[i]))
    }
    #[inline(always)]
    fn round_f16(self, a: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, f16::from_f32(a[i]).to_f32())
    }
    #[inline(always)]
    fn lt(self, a: Self::F32, b: Self::F32) -> Self::U32 {
        lanes!(i, 0, ONES[usize::from(a[i] < b[i])])
    }
    #[inline(always)]
    fn eq(self, a: Self::F32, b: Self::F32) -> Self::U32 {
        lanes!(i, 0, ONES[usize::from(a[i] == b[i])])
    }
    #[inline(always)]
    fn select(self, mask: Self::U32, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(i, 0.0, f32::from_bits((a[i].to_bits() & mask[i]) | (b[i].to_bits() & !mask[i])))
    }
    #[inline(always)]
    fn load_u32(self, from: &U32x16) -> Self::U32 {
        from.0
    }
    #[inline(always)]
    fn store_u32(self, a: Self::U32, to: &mut U32x16) {
        to.0 = a;
    }
    #[inline(always)]
    fn splat_u32(self, v: u32) -> Self::U32 {
        [v; ROWS]
    }
    #[inline(always)]
    fn to_bits(self, a: Self::F32) -> Self::U32 {
        lanes!(i, 0, a[i].to_bits())
    }
    #[inline(always)]
    fn and(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        lanes!(i, 0, a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        lanes!(i, 0, a[i] | b[i])
    }
    #[inline(always)]
    fn xor(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        lanes!(i, 0, a[i] ^ b[i])
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: Self::U32) -> Self::U32 {
        lanes!(i, 0, a[i] << N)
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: Self::U32) -> Self::U32 {
        lanes!(i, 0, a[i] >> N)
    }
    #[inline(always)]
    fn sar<const N: i32>(self, a: Self::U32) -> Self::U32 {
        lanes!(i, 0, (a[i] as i32 >> N) as u32)
    }
    #[inline(always)]
    fn eq_u32(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        lanes!(i, 0, ONES[usize::from(a[i] == b[i])])
    }
    #[inline(always)]
    fn i32_to_f32(self, a: Self::U32) -> Self::F32 {
        lanes!(i, 0.0, a[i] as i32 as f32)
    }
    #[inline(always)]
    fn transpose8x8(self, from: [&[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let mut out = [[0.0; 8]; 8];
        for (i, out) in out.iter_mut().enumerate() {
            for (to, from) in out.iter_mut().zip(from) {
                *to = from[i];
            }
        }
        out
    }
}

/// Number of rows of a matrix in a call of [`dots`]: their sums, a vector of values and a coefficient fill the registers.
pub(super) const TILE: usize = 4;

/// Adds dot products with [`TILE`] rows of `m`: `sums[c] += sum over i of m[(row + c) * stride + col + i] * x[i]`, in
/// ascending order of i.
#[inline(always)]
pub(super) fn dots<V: Vector>(
    isa: V,
    m: &[f32],
    stride: usize,
    (row, col): (usize, usize),
    x: &[F32x16],
    sums: [V::F32; TILE],
) -> [V::F32; TILE] {
    let (first, n) = (row * stride + col, x.len());
    let (a, b) = (&m[first..][..n], &m[first + stride..][..n]);
    let (c, d) = (&m[first + 2 * stride..][..n], &m[first + 3 * stride..][..n]);
    let [mut to_a, mut to_b, mut to_c, mut to_d] = sums;
    for i in 0..n {
        let x = isa.load(&x[i]);
        to_a = isa.mul_add(isa.splat(a[i]), x, to_a);
        to_b = isa.mul_add(isa.splat(b[i]), x, to_b);
        to_c = isa.mul_add(isa.splat(c[i]), x, to_c);
        to_d = isa.mul_add(isa.splat(d[i]), x, to_d);
    }
    [to_a, to_b, to_c, to_d]
}

/// Computes the dot products with as many rows of `m` as `to` is long, from zero.
#[inline(always)]
pub(super) fn all_dots<V: Vector>(
    isa: V,
    m: &[f32],
    stride: usize,
    (row, col): (usize, usize),
    x: &[F32x16],
    to: &mut [F32x16],
) {
    for (i, to) in to.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let sums = dots(isa, m, stride, (row + i * TILE, col), x, [isa.splat(0.0); TILE]);
        for (to, sum) in to.iter_mut().zip(sums) {
            isa.store(sum, to);
        }
    }
}

/// Transposes [`ROWS`] rows, one after another, into one vector for each column.
#[inline(always)]
pub(super) fn vectors_from_rows<V: Vector>(isa: V, rows: &[f32], to: &mut [F32x16]) {
    let n = to.len();
    for (column, to) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for half in 0..ROWS / 8 {
            let mut from = [&[0.0; 8]; 8];
            for (i, from) in from.iter_mut().enumerate() {
                let at = (half * 8 + i) * n + column * 8;
                *from = rows[at..].first_chunk().expect("whole rows");
            }
            for (to, values) in to.iter_mut().zip(isa.transpose8x8(from)) {
                to.0.as_chunks_mut::<8>().0[half] = values;
            }
        }
    }
}

/// Transposes one vector for each column into [`ROWS`] rows, one after another: the inverse of [`vectors_from_rows`].
#[inline(always)]
pub(super) fn rows_from_vectors<V: Vector>(isa: V, lanes: &[F32x16], to: &mut [f32]) {
    let n = lanes.len();
    for (column, lanes) in lanes.as_chunks::<8>().0.iter().enumerate() {
        for half in 0..ROWS / 8 {
            let mut from = [&[0.0; 8]; 8];
            for (from, lane) in from.iter_mut().zip(lanes) {
                *from = &lane.0.as_chunks::<8>().0[half];
            }
            for (i, values) in isa.transpose8x8(from).iter().enumerate() {
                to[(half * 8 + i) * n + column * 8..][..8].copy_from_slice(values);
            }
        }
    }
}
