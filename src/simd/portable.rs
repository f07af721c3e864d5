//! Vectors of 8 lanes as plain arrays: the reference of the other instruction sets, and production code without them.

use super::{Pair, Simd, Vector, f16};

/// The instruction set without instructions of its own: plain Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Portable;

impl Simd for Portable {
    type X8 = Self;
    type X16 = Pair<Self>;
    const WIDE: bool = false;

    #[inline(always)]
    fn x8(self) -> Self::X8 {
        self
    }

    #[inline(always)]
    fn x16(self) -> Self::X16 {
        Pair(self)
    }
}

const N: usize = 8;
type F = [f32; N];
type U = [u32; N];
/// All ones or all zeros in each lane, as the comparisons of a CPU give it.
type M = [u32; N];

/// Methods that work lane by lane, in a plain loop: a closure is not sure to be inlined.
macro_rules! lanes {
    ($($name:ident $(<$k:ident: $kt:ty>)? ($($arg:ident: $ty:ident),*) -> $out:ident = |$i:ident| $body:expr;)*) => {$(
        #[inline(always)]
        fn $name $(<const $k: $kt>)? (self, $($arg: $ty),*) -> $out {
            let mut out: $out = [Default::default(); N];
            for $i in 0..N {
                $(let $arg = $arg[$i];)*
                out[$i] = $body;
            }
            out
        }
    )*};
}

const MASK: [u32; 2] = [0, u32::MAX];

/// Adding 2^23 to a number from 0 to 2^22 and subtracting it again rounds the number to the nearest integer.
#[inline(always)]
fn round_ties_even(x: f32) -> f32 {
    const UNIT: f32 = 8_388_608.0;
    ((x.abs() + UNIT) - UNIT).copysign(x)
}

/// `a * b + c`, rounded once. The C library of MinGW rounds twice (`fmaf` in 80 bits), so Windows has another function.
#[inline(always)]
pub fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(all(windows, target_env = "gnu")) { libm::fmaf(a, b, c) } else { a.mul_add(b, c) }
}

#[inline(always)]
fn blend(mask: u32, a: u32, b: u32) -> u32 {
    (a & mask) | (b & !mask)
}

impl Vector for Portable {
    const N: usize = N;
    type F = F;
    type U = U;
    type M = M;

    lanes! {
        add(a: F, b: F) -> F = |i| a + b;
        sub(a: F, b: F) -> F = |i| a - b;
        mul(a: F, b: F) -> F = |i| a * b;
        div(a: F, b: F) -> F = |i| a / b;
        mul_add(a: F, b: F, c: F) -> F = |i| fused(a, b, c);
        sqrt(a: F) -> F = |i| a.sqrt();
        abs(a: F) -> F = |i| a.abs();
        min(a: F, b: F) -> F = |i| if a < b { a } else { b };
        max(a: F, b: F) -> F = |i| if a > b { a } else { b };
        round_ties_even(a: F) -> F = |i| round_ties_even(a);
        round_to_f16(a: F) -> F = |i| f16::decode(f16::encode(a));
        lt(a: F, b: F) -> M = |i| MASK[usize::from(a < b)];
        eq(a: F, b: F) -> M = |i| MASK[usize::from(a == b)];
        select(mask: M, a: F, b: F) -> F = |i| f32::from_bits(blend(mask, a.to_bits(), b.to_bits()));
        and(a: U, b: U) -> U = |i| a & b;
        or(a: U, b: U) -> U = |i| a | b;
        xor(a: U, b: U) -> U = |i| a ^ b;
        shl<K: u32>(a: U) -> U = |i| a << K;
        shr<K: u32>(a: U) -> U = |i| a >> K;
        shr_i32<K: u32>(a: U) -> U = |i| (a as i32 >> K) as u32;
        min_i32(a: U, b: U) -> U = |i| if (a as i32) < b as i32 { a } else { b };
        max_i32(a: U, b: U) -> U = |i| if a as i32 > b as i32 { a } else { b };
        eq_u32(a: U, b: U) -> M = |i| MASK[usize::from(a == b)];
        select_u32(mask: M, a: U, b: U) -> U = |i| blend(mask, a, b);
        to_bits(a: F) -> U = |i| a.to_bits();
        from_bits(a: U) -> F = |i| f32::from_bits(a);
        to_i32(a: F) -> U = |i| a as i32 as u32;
        from_i32(a: U) -> F = |i| a as i32 as f32;
        mask_and(a: M, b: M) -> M = |i| a & b;
        mask_or(a: M, b: M) -> M = |i| a | b;
        // The base set of x86 compares floats in one instruction, integers in three.
        min_bits(a: F, top: F) -> F = |i| if a < top { a } else { top };
        clamp_bits(a: F, top: F) -> F = |i| {
            let a = if a > 0.0 { a } else { 0.0 };
            if a < top { a } else { top }
        };
    }

    #[inline(always)]
    fn splat(self, v: f32) -> F {
        [v; N]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> F {
        *from.first_chunk().expect("a vector's worth of values")
    }

    #[inline(always)]
    fn store(self, a: F, to: &mut [f32]) {
        *to.first_chunk_mut().expect("room for a vector") = a;
    }

    #[inline(always)]
    fn swap<const K: usize>(self, a: F) -> F {
        let mut out = [0.0; N];
        for i in 0..N {
            out[i] = a[(i ^ K) % N];
        }
        out
    }

    #[inline(always)]
    fn first(self, a: F) -> f32 {
        a[0]
    }

    #[inline(always)]
    fn load_transposed(self, from: &[f32], stride: usize) -> [F; 4] {
        let mut out = [[0.0; N]; 4];
        for j in 0..N {
            let row: &[f32; 4] = from[j * stride..].first_chunk().expect("4 values of each row");
            for i in 0..4 {
                out[i][j] = row[i];
            }
        }
        out
    }

    #[inline(always)]
    fn store_transposed(self, a: [F; 4], to: &mut [f32], stride: usize) {
        for j in 0..N {
            let row: &mut [f32; 4] = to[j * stride..].first_chunk_mut().expect("4 values of each row");
            for i in 0..4 {
                row[i] = a[i][j];
            }
        }
    }

    #[inline(always)]
    fn load_eights(self, first: &[f32; 8], _second: &[f32; 8]) -> F {
        *first
    }

    #[inline(always)]
    fn splat_u32(self, v: u32) -> U {
        [v; N]
    }

    #[inline(always)]
    fn load_u32(self, from: &[u32]) -> U {
        *from.first_chunk().expect("a vector's worth of words")
    }

    #[inline(always)]
    fn store_u32(self, a: U, to: &mut [u32]) {
        *to.first_chunk_mut().expect("room for a vector") = a;
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8]) -> U {
        let from: &[u8; N] = from.first_chunk().expect("a byte for each word");
        let mut out = [0; N];
        for i in 0..N {
            out[i] = from[i].into();
        }
        out
    }

    #[inline(always)]
    fn store_low_bytes(self, a: [U; 4], to: &mut [u8]) {
        let to: &mut [u8; 4 * N] = to.first_chunk_mut().expect("room for the bytes of 4 vectors");
        for i in 0..4 * N {
            to[i] = a[i / N][i % N] as u8;
        }
    }

    #[inline(always)]
    fn widening_mul(self, a: U, b: U) -> (U, U) {
        let (mut low, mut high) = ([0; N], [0; N]);
        for i in 0..N {
            let product = u64::from(a[i]) * u64::from(b[i]);
            (low[i], high[i]) = (product as u32, (product >> 32) as u32);
        }
        (low, high)
    }
}
