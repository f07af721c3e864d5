//! The trait of vector operations, the trait of an instruction set, and vectors of twice the width.

/// Operations on `N` lanes of f32 and on `N` words of 32 bits.
///
/// A value of the implementing type proves that the CPU has the instructions, so the methods are safe. The names are
/// those of `std::simd`. Words are `u32`; the operations whose name ends in `i32` read them as two's complement.
///
/// All implementations give the same bits, with one exception: the bits of a NaN that an operation returns are
/// unspecified. Methods must be inlined into a function that is compiled for the instruction set, which
/// [`dispatch!`](crate::simd::dispatch) takes care of; code between the two needs `#[inline(always)]`.
///
/// # Examples
///
/// ```
/// use srd_rs::simd::{Portable, Simd, Vector};
///
/// let v = Portable.x8();
/// let x = v.load(&[0.5, 1.5, 2.5, -0.5, -1.5, 9.0, 10.0, 11.0]);
/// let mut out = [0.0; 8];
/// v.store(v.round_ties_even(v.clamp(x, v.splat(-1.0), v.splat(10.0))), &mut out);
/// assert_eq!(out, [0.0, 2.0, 2.0, -0.0, -1.0, 9.0, 10.0, 10.0]);
/// ```
#[expect(
    clippy::wrong_self_convention,
    reason = "the names of std::simd, on the value that proves the instruction set"
)]
pub trait Vector: Copy {
    /// The number of lanes: 4, 8 or 16.
    const N: usize;
    /// `N` lanes of f32.
    type F: Copy;
    /// `N` words of 32 bits.
    type U: Copy;
    /// `N` truth values.
    type M: Copy;

    /// Returns `v` in every lane.
    fn splat(self, v: f32) -> Self::F;
    /// Loads the first `N` values of `from`.
    ///
    /// # Panics
    /// If `from` is shorter than `N`. So do all loads and stores.
    fn load(self, from: &[f32]) -> Self::F;
    /// Stores the lanes to the first `N` values of `to`.
    fn store(self, a: Self::F, to: &mut [f32]);
    /// Returns `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// Returns `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// Returns `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// Returns `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// Returns `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Returns the square root, correctly rounded.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// Returns `|a|`.
    fn abs(self, a: Self::F) -> Self::F;
    /// Returns `a` where `a < b`, else `b`: also where one of them is a NaN, and `min(-0.0, 0.0)` is `0.0`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Returns `a` where `a > b`, else `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Returns the nearest integer, ties to even, of `|a| < 2^22`. The sign of `a` is kept.
    fn round_ties_even(self, a: Self::F) -> Self::F;
    /// Returns the nearest f16, as f32.
    fn round_to_f16(self, a: Self::F) -> Self::F;
    /// Returns the mask of `a < b`; it is false where one of them is a NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// Returns the mask of `a == b`; it is false where one of them is a NaN.
    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    /// Returns `a` where the mask is set, else `b`.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Returns the vector whose lane `i` is lane `i ^ K` of `a`, for `K` of 1, 2, 4 or 8 below `N`.
    fn swap<const K: usize>(self, a: Self::F) -> Self::F;
    /// Returns the first lane.
    fn first(self, a: Self::F) -> f32;
    /// Loads 4 values of each of `N` rows that lie `stride` apart: lane `j` of vector `i` is `from[j * stride + i]`.
    fn load_transposed(self, from: &[f32], stride: usize) -> [Self::F; 4];
    /// The inverse of [`Vector::load_transposed`]: `to[j * stride + i]` becomes lane `j` of vector `i`.
    fn store_transposed(self, a: [Self::F; 4], to: &mut [f32], stride: usize);
    /// Loads lanes 0 to 7 from `first` and, if there are 16 lanes, lanes 8 to 15 from `second`.
    fn load_eights(self, first: &[f32; 8], second: &[f32; 8]) -> Self::F;

    /// Returns `v` in every word.
    fn splat_u32(self, v: u32) -> Self::U;
    /// Loads the first `N` words of `from`.
    fn load_u32(self, from: &[u32]) -> Self::U;
    /// Stores the words to the first `N` of `to`.
    fn store_u32(self, a: Self::U, to: &mut [u32]);
    /// Loads the first `N` bytes of `from`, each as a word.
    fn load_bytes(self, from: &[u8]) -> Self::U;
    /// Stores the low 8 bits of every word of four vectors, one vector after another, to the first `4 N` bytes of `to`.
    fn store_low_bytes(self, a: [Self::U; 4], to: &mut [u8]);
    /// Returns the low and the high 32 bits of the products `a * b` of 64 bits.
    fn widening_mul(self, a: Self::U, b: Self::U) -> (Self::U, Self::U);
    /// Returns `a & b`.
    fn and(self, a: Self::U, b: Self::U) -> Self::U;
    /// Returns `a | b`.
    fn or(self, a: Self::U, b: Self::U) -> Self::U;
    /// Returns `a ^ b`.
    fn xor(self, a: Self::U, b: Self::U) -> Self::U;
    /// Returns `a << K`, for `K` below 32.
    fn shl<const K: u32>(self, a: Self::U) -> Self::U;
    /// Returns `a >> K`, filled up with zeros.
    fn shr<const K: u32>(self, a: Self::U) -> Self::U;
    /// Returns `a >> K`, filled up with the sign.
    fn shr_i32<const K: u32>(self, a: Self::U) -> Self::U;
    /// Returns the smaller of two signed numbers.
    fn min_i32(self, a: Self::U, b: Self::U) -> Self::U;
    /// Returns the larger of two signed numbers.
    fn max_i32(self, a: Self::U, b: Self::U) -> Self::U;
    /// Returns the mask of `a == b`.
    fn eq_u32(self, a: Self::U, b: Self::U) -> Self::M;
    /// Returns `a` where the mask is set, else `b`.
    fn select_u32(self, mask: Self::M, a: Self::U, b: Self::U) -> Self::U;
    /// Returns the bits of the floats.
    fn to_bits(self, a: Self::F) -> Self::U;
    /// Returns the floats of the bits.
    fn from_bits(self, a: Self::U) -> Self::F;
    /// Returns the integer part of `|a| < 2^31`, as a signed number.
    fn to_i32(self, a: Self::F) -> Self::U;
    /// Returns the signed numbers as floats, rounded to nearest.
    fn from_i32(self, a: Self::U) -> Self::F;

    /// Returns the mask of both.
    fn mask_and(self, a: Self::M, b: Self::M) -> Self::M;
    /// Returns the mask of one or both.
    fn mask_or(self, a: Self::M, b: Self::M) -> Self::M;

    /// Stores the words of four vectors as [`Vector::store_transposed`] stores floats.
    #[inline(always)]
    fn store_transposed_u32(self, [a, b, c, d]: [Self::U; 4], to: &mut [u32], stride: usize) {
        let floats = [self.from_bits(a), self.from_bits(b), self.from_bits(c), self.from_bits(d)];
        self.store_transposed(floats, bytemuck::cast_slice_mut(to), stride);
    }

    /// Returns the mask of `a > b`; it is false where one of them is a NaN.
    #[inline(always)]
    fn gt(self, a: Self::F, b: Self::F) -> Self::M {
        self.lt(b, a)
    }

    /// Returns `min(max(a, low), high)`: `low` where `a` is a NaN.
    #[inline(always)]
    fn clamp(self, a: Self::F, low: Self::F, high: Self::F) -> Self::F {
        self.min(self.max(a, low), high)
    }

    /// Returns `min(a, top)` of `a` that is no NaN, for `top > 0`.
    ///
    /// The bits of such floats compare as the floats do, and the integer units are idle where sums keep the adders busy.
    #[inline(always)]
    fn min_bits(self, a: Self::F, top: Self::F) -> Self::F {
        self.from_bits(self.min_i32(self.to_bits(a), self.to_bits(top)))
    }

    /// Returns `min(max(a, 0), top)` of `a` that is no NaN, for `top > 0`. See [`Vector::min_bits`].
    #[inline(always)]
    fn clamp_bits(self, a: Self::F, top: Self::F) -> Self::F {
        let positive = self.max_i32(self.to_bits(a), self.splat_u32(0));
        self.from_bits(self.min_i32(positive, self.to_bits(top)))
    }

    /// Returns the sum of the lanes. Lane `i` is added to lane `i + N/2`, then the first half is added up likewise: for 8
    /// lanes `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`.
    #[inline(always)]
    fn reduce_sum(self, a: Self::F) -> f32 {
        let a = if Self::N > 8 { self.add(a, self.swap::<8>(a)) } else { a };
        let a = if Self::N > 4 { self.add(a, self.swap::<4>(a)) } else { a };
        let a = self.add(a, self.swap::<2>(a));
        self.first(self.add(a, self.swap::<1>(a)))
    }

    /// Returns the largest lane, found in the order of [`Vector::reduce_sum`].
    #[inline(always)]
    fn reduce_max(self, a: Self::F) -> f32 {
        let a = if Self::N > 8 { self.max(a, self.swap::<8>(a)) } else { a };
        let a = if Self::N > 4 { self.max(a, self.swap::<4>(a)) } else { a };
        let a = self.max(a, self.swap::<2>(a));
        self.first(self.max(a, self.swap::<1>(a)))
    }
}

/// An instruction set. A value proves that the CPU has the instructions, and gives vectors of two widths.
pub trait Simd: Copy {
    /// Vectors of 8 lanes.
    type X8: Vector;
    /// Vectors of 16 lanes.
    type X16: Vector;
    /// Whether 16 lanes are one register. Where they are not, 8 lanes leave more registers free.
    const WIDE: bool;

    /// Returns the vectors of 8 lanes.
    fn x8(self) -> Self::X8;
    /// Returns the vectors of 16 lanes.
    fn x16(self) -> Self::X16;

    /// Returns vectors of 32 lanes: two of 16. Instructions that wait for each other in one half leave time for the other.
    #[inline(always)]
    fn x32(self) -> Pair<Self::X16> {
        Pair(self.x16())
    }
}

/// Vectors of twice the lanes of `V`: two of them side by side.
#[derive(Clone, Copy)]
pub struct Pair<V>(pub(super) V);

/// Methods that do the same to both halves.
macro_rules! both {
    ($($name:ident $(<$k:ident: $kt:ty>)? ($($arg:ident: $ty:ident),*) -> $out:ident;)*) => {$(
        #[inline(always)]
        fn $name $(<const $k: $kt>)? (self, $($arg: Self::$ty),*) -> Self::$out {
            [self.0.$name$(::<$k>)?($($arg[0]),*), self.0.$name$(::<$k>)?($($arg[1]),*)]
        }
    )*};
}

impl<V: Vector> Vector for Pair<V> {
    const N: usize = 2 * V::N;
    type F = [V::F; 2];
    type U = [V::U; 2];
    type M = [V::M; 2];

    both! {
        add(a: F, b: F) -> F;
        sub(a: F, b: F) -> F;
        mul(a: F, b: F) -> F;
        div(a: F, b: F) -> F;
        mul_add(a: F, b: F, c: F) -> F;
        sqrt(a: F) -> F;
        abs(a: F) -> F;
        min(a: F, b: F) -> F;
        max(a: F, b: F) -> F;
        round_ties_even(a: F) -> F;
        round_to_f16(a: F) -> F;
        lt(a: F, b: F) -> M;
        eq(a: F, b: F) -> M;
        select(mask: M, a: F, b: F) -> F;
        and(a: U, b: U) -> U;
        or(a: U, b: U) -> U;
        xor(a: U, b: U) -> U;
        shl<K: u32>(a: U) -> U;
        shr<K: u32>(a: U) -> U;
        shr_i32<K: u32>(a: U) -> U;
        min_i32(a: U, b: U) -> U;
        max_i32(a: U, b: U) -> U;
        eq_u32(a: U, b: U) -> M;
        select_u32(mask: M, a: U, b: U) -> U;
        to_bits(a: F) -> U;
        from_bits(a: U) -> F;
        to_i32(a: F) -> U;
        from_i32(a: U) -> F;
        mask_and(a: M, b: M) -> M;
        mask_or(a: M, b: M) -> M;
        min_bits(a: F, top: F) -> F;
        clamp_bits(a: F, top: F) -> F;
    }

    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        [self.0.splat(v); 2]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F {
        [self.0.load(from), self.0.load(&from[V::N..])]
    }

    #[inline(always)]
    fn store(self, a: Self::F, to: &mut [f32]) {
        self.0.store(a[0], to);
        self.0.store(a[1], &mut to[V::N..]);
    }

    #[inline(always)]
    fn swap<const K: usize>(self, a: Self::F) -> Self::F {
        if K == V::N { [a[1], a[0]] } else { [self.0.swap::<K>(a[0]), self.0.swap::<K>(a[1])] }
    }

    #[inline(always)]
    fn first(self, a: Self::F) -> f32 {
        self.0.first(a[0])
    }

    #[inline(always)]
    fn load_transposed(self, from: &[f32], stride: usize) -> [Self::F; 4] {
        let low = self.0.load_transposed(from, stride);
        let high = self.0.load_transposed(&from[V::N * stride..], stride);
        [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
    }

    #[inline(always)]
    fn store_transposed(self, [a, b, c, d]: [Self::F; 4], to: &mut [f32], stride: usize) {
        self.0.store_transposed([a[0], b[0], c[0], d[0]], to, stride);
        self.0.store_transposed([a[1], b[1], c[1], d[1]], &mut to[V::N * stride..], stride);
    }

    #[inline(always)]
    fn load_eights(self, first: &[f32; 8], second: &[f32; 8]) -> Self::F {
        if Self::N == 8 { self.load(first) } else { [self.0.load(first), self.0.load(second)] }
    }

    #[inline(always)]
    fn splat_u32(self, v: u32) -> Self::U {
        [self.0.splat_u32(v); 2]
    }

    #[inline(always)]
    fn load_u32(self, from: &[u32]) -> Self::U {
        [self.0.load_u32(from), self.0.load_u32(&from[V::N..])]
    }

    #[inline(always)]
    fn store_u32(self, a: Self::U, to: &mut [u32]) {
        self.0.store_u32(a[0], to);
        self.0.store_u32(a[1], &mut to[V::N..]);
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8]) -> Self::U {
        [self.0.load_bytes(from), self.0.load_bytes(&from[V::N..])]
    }

    #[inline(always)]
    fn store_low_bytes(self, [a, b, c, d]: [Self::U; 4], to: &mut [u8]) {
        self.0.store_low_bytes([a[0], a[1], b[0], b[1]], to);
        self.0.store_low_bytes([c[0], c[1], d[0], d[1]], &mut to[4 * V::N..]);
    }

    #[inline(always)]
    fn widening_mul(self, a: Self::U, b: Self::U) -> (Self::U, Self::U) {
        let (low, high) = (self.0.widening_mul(a[0], b[0]), self.0.widening_mul(a[1], b[1]));
        ([low.0, high.0], [low.1, high.1])
    }
}

/// Defines methods whose bodies are instructions. The bodies may call unsafe intrinsics.
macro_rules! instructions {
    ($($name:ident $(<$k:ident: $kt:ty>)? ($($arg:ident: $ty:ty),*) $(-> $out:ty)? = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name $(<const $k: $kt>)? (self, $($arg: $ty),*) $(-> $out)? {
            // SAFETY: `self` is the proof that the CPU has the instructions. A body that reads or writes memory does so
            // inside a slice that it has cut to the length of the access; such accesses need no alignment.
            unsafe { $body }
        }
    )*};
}
pub(super) use instructions;
