//! Eight floats side by side, for the search of a residual's scale.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod philox;

/// Eight floats that are worked on together. `max` and `min` give the second one when neither is
/// larger or smaller.
pub trait Lanes: Copy {
    fn load(from: &[f32; 8]) -> Self;
    fn splat(x: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn largest(self) -> f32;
    /// Sums of the lanes of each: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)).
    fn sums(of: [Self; 4]) -> [f32; 4];
    /// Integers from 0 to 255, as bytes in order.
    fn bytes(codes: [Self; 4]) -> [u8; 32];
}

/// Lane by lane, in a plain loop: what takes closures is not sure to be inlined.
macro_rules! lanes {
    ($a:ident, $b:ident, $out:expr) => {{
        let mut out = [0.0; 8];
        for i in 0..8 {
            let ($a, $b) = ($a[i], $b[i]);
            out[i] = $out;
        }
        out
    }};
}

/// The scalar reference.
impl Lanes for [f32; 8] {
    #[inline(always)]
    fn load(from: &[f32; 8]) -> Self {
        *from
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; 8]
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let (a, b) = (self, other);
        lanes!(a, b, a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let (a, b) = (self, other);
        lanes!(a, b, a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let (a, b) = (self, other);
        lanes!(a, b, a * b)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        let (a, b) = (self, other);
        lanes!(a, b, if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        let (a, b) = (self, other);
        lanes!(a, b, if a < b { a } else { b })
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        let mut largest = self[0];
        for lane in self {
            if lane > largest {
                largest = lane;
            }
        }
        largest
    }
    #[inline(always)]
    fn sums(of: [Self; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        for (out, s) in out.iter_mut().zip(&of) {
            *out = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
        }
        out
    }
    #[inline(always)]
    fn bytes(codes: [Self; 4]) -> [u8; 32] {
        let mut out = [0; 32];
        for i in 0..32 {
            out[i] = codes[i / 8][i % 8] as u8;
        }
        out
    }
}
