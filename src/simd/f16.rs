//! The codec of IEEE half precision (f16), once for the whole crate.
//!
//! The conversions are integer code without branches. Therefore every CPU gives the same bits, and the compiler turns a
//! loop over them into vectors. The conversions of CPUs agree with this code except in the payload of a NaN.
//!
//! ```
//! use srd_rs::simd::f16;
//!
//! assert_eq!(f16::encode(0.5), 0x3800);
//! assert_eq!(f16::decode(0xC200), -3.0);
//! assert_eq!(f16::round(1.0 / 3.0), 0.33325195);
//! ```

/// The largest f32 that does not round to infinity: just below the middle between 65504 and 65536.
pub const MAX_ABS: f32 = f32::from_bits(0x477F_EFFF);

/// The smallest positive f16, 2^-24.
pub const MIN_POSITIVE: f32 = 1.0 / (1 << 24) as f32;

/// The largest finite f16.
pub const MAX: f32 = 65504.0;

/// Rounds to the nearest f16, ties to even. What is too large becomes infinite. A NaN becomes `0x7E00` with its sign, as
/// in ggml.
#[inline(always)]
pub fn encode(w: f32) -> u16 {
    const INFINITE: u32 = 0x7C00;
    let bits = w.to_bits();
    let abs = bits & 0x7FFF_FFFF;
    // Exponent bias 127 -> 15 after dropping 13 bits of the mantissa; the carry may raise the exponent.
    let normal = (abs.wrapping_add(0x0FFF + (abs >> 13 & 1)) >> 13).wrapping_sub(112 << 10);
    // Adding 1/2, whose last bit is worth 2^-24, rounds to f16's subnormal steps.
    let subnormal = (f32::from_bits(abs) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if abs < 0x3880_0000 { subnormal } else { normal };
    let finite = if abs > MAX_ABS.to_bits() { INFINITE } else { finite };
    let nonsign = if abs > 0x7F80_0000 { 0x7E00 } else { finite };
    (bits >> 16 & 0x8000 | nonsign) as u16
}

/// Widens an f16 exactly. A NaN keeps its payload and becomes quiet.
#[inline(always)]
pub fn decode(half: u16) -> f32 {
    let abs = u32::from(half & 0x7FFF) << 13;
    let normal = abs + (112 << 23);
    // One exponent step above the subnormals' own, less the implicit one that this adds.
    let smallest_normal = f32::from_bits(113 << 23);
    let subnormal = (f32::from_bits(abs + (113 << 23)) - smallest_normal).to_bits();
    let quiet = if abs > 0x0F80_0000 { 0x0040_0000 } else { 0 };
    let special = abs | 0x7F80_0000 | quiet;
    let finite = if abs < 0x0080_0000 { subnormal } else { normal };
    let nonsign = if abs < 0x0F80_0000 { finite } else { special };
    f32::from_bits(nonsign | u32::from(half & 0x8000) << 16)
}

/// Returns the f16 nearest to `w`, as f32.
#[inline(always)]
pub fn round(w: f32) -> f32 {
    decode(encode(w))
}

/// Reads the little-endian f16 at the start of `bytes`, as block formats store their scales.
///
/// # Panics
/// If there are fewer than 2 bytes.
#[inline(always)]
pub fn read(bytes: &[u8]) -> f32 {
    decode(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Writes `w`, rounded to f16, to the first 2 bytes of `to`.
///
/// # Panics
/// If there are fewer than 2 bytes.
#[inline(always)]
pub fn write(w: f32, to: &mut [u8]) {
    to[..2].copy_from_slice(&encode(w).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 1021st bit pattern, and the neighbors of every f16 and of every midpoint between two.
    fn patterns() -> impl Iterator<Item = f32> {
        let spread = (0..u32::MAX / 1021).map(|i| i * 1021);
        let halves = (0..=u16::MAX).map(|h| half::f16::from_bits(h).to_f32_const().to_bits());
        let around = halves.flat_map(|b| [-1, 0, 1].map(|d: i32| b.wrapping_add_signed(d)));
        let midpoints = (0..u32::MAX >> 12).map(|i| i << 12).filter(|b| b >> 23 & 0xFF > 100);
        spread.chain(around).chain(midpoints).map(f32::from_bits)
    }

    #[test]
    fn encoding_rounds_as_the_half_crate_does() {
        for w in patterns() {
            let nan = 0x7E00 | if w.is_sign_negative() { 0x8000 } else { 0 };
            let theirs = if w.is_nan() { nan } else { half::f16::from_f32_const(w).to_bits() };
            assert_eq!(encode(w), theirs, "{w:e}");
        }
    }

    #[test]
    fn decoding_is_exact() {
        for h in 0..=u16::MAX {
            assert_eq!(decode(h).to_bits(), half::f16::from_bits(h).to_f32_const().to_bits(), "{h:#x}");
        }
    }

    #[test]
    fn the_limit_is_the_last_finite_one() {
        assert_eq!(round(MAX_ABS), MAX);
        assert!(round(MAX_ABS.next_up()).is_infinite());
    }
}
