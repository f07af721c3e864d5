//! Eight floats side by side, for the codes of a residual.

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
    /// Sum of the lanes: ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)).
    fn sum(self) -> f32;
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
    fn sum(self) -> f32 {
        let s = self;
        ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
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
