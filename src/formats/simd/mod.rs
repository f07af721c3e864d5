//! The loops of [`super::decode`], compiled once per instruction set.
//!
//! Every level runs the same Rust source, so the levels cannot differ in a bit: the compiler
//! vectorises the loop for the features its function is allowed to use, and the loops hold no
//! operation whose result depends on vector width (no float sums, no fused multiply-add).

use crate::simd_level::Level;

/// Defines a module with `fn run(level, args...)`, which calls the body compiled for that level.
macro_rules! per_level {
    ($(#[$doc:meta])* $name:ident ( $($arg:ident : $ty:ty),* ) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        pub fn $name(level: Level, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            {
                // A level the CPU lacks must never run, whatever the caller asked for.
                match level.min(crate::simd_level::detected()) {
                    Level::Scalar | Level::Neon => body($($arg),*),
                    // SAFETY: the CPU has been found to have AVX2.
                    Level::Avx2 => unsafe { avx2($($arg),*) },
                    // SAFETY: the CPU has been found to have AVX-512 F, BW, DQ and VL.
                    Level::Avx512 => unsafe { avx512($($arg),*) },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = level;
                body($($arg),*)
            }
        }
    };
}

per_level! {
    /// F64, little endian, to the nearest f32. The conversion is one rounding (ties to even) on every level.
    decode_f64(src: &[[u8; 8]], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f64::from_le_bytes(*s) as f32;
        }
    }
}

per_level! {
    /// F32, little endian, to f32.
    decode_f32(src: &[[u8; 4]], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f32::from_le_bytes(*s);
        }
    }
}

per_level! {
    /// BF16 is the upper half of an f32.
    decode_bf16(src: &[[u8; 2]], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f32::from_bits(u32::from(u16::from_le_bytes(*s)) << 16);
        }
    }
}

per_level! {
    /// IEEE half to f32.
    decode_f16(src: &[[u8; 2]], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = half_to_f32(u16::from_le_bytes(*s));
        }
    }
}

per_level! {
    /// F8_E5M2 is the upper byte of an IEEE half.
    decode_e5m2(src: &[u8], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = half_to_f32(u16::from(*s) << 8);
        }
    }
}

per_level! {
    /// F8_E4M3 (finite only, as torch's float8_e4m3fn) to f32.
    decode_e4m3(src: &[u8], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = e4m3_to_f32(*s);
        }
    }
}

per_level! {
    /// Largest magnitude bit pattern (sign removed) of 64-bit floats.
    max_bits_64(src: &[[u8; 8]]) -> u64 {
        src.iter().fold(0, |m, s| m.max(u64::from_le_bytes(*s) & (u64::MAX >> 1)))
    }
}

per_level! {
    /// Largest magnitude bit pattern (sign removed) of 32-bit floats.
    max_bits_32(src: &[[u8; 4]]) -> u32 {
        src.iter().fold(0, |m, s| m.max(u32::from_le_bytes(*s) & 0x7fff_ffff))
    }
}

per_level! {
    /// Largest magnitude bit pattern (sign removed) of 16-bit floats.
    max_bits_16(src: &[[u8; 2]]) -> u16 {
        src.iter().fold(0, |m, s| m.max(u16::from_le_bytes(*s) & 0x7fff))
    }
}

per_level! {
    /// Largest magnitude bit pattern (sign removed) of 8-bit floats.
    max_bits_8(src: &[u8]) -> u8 {
        src.iter().fold(0, |m, s| m.max(s & 0x7f))
    }
}

/// IEEE half to f32, without branches. A NaN keeps its payload and becomes quiet, as F16C hardware
/// does it.
#[inline(always)]
fn half_to_f32(h: u16) -> f32 {
    const EXPONENT: u32 = 0x0f80_0000;
    let sign = u32::from(h & 0x8000) << 16;
    let magnitude = u32::from(h & 0x7fff) << 13;
    let exponent = magnitude & EXPONENT;
    // The bias grows from 15 to 127.
    let normal = magnitude + (112 << 23);
    // A subnormal is m * 2^-24: put m below a leading 1 worth 2^-14 and take that 1 away.
    let subnormal = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(113 << 23)).to_bits();
    // Infinity and NaN have the exponent 255, and a NaN the quiet bit.
    let quiet = if magnitude & 0x007f_ffff != 0 { 0x0040_0000 } else { 0 };
    let special = (normal + (112 << 23)) | quiet;
    let finite = if exponent == 0 { subnormal } else { normal };
    f32::from_bits(sign | if exponent == EXPONENT { special } else { finite })
}

/// F8_E4M3 to f32: bias 7, subnormals m * 2^-9, no infinity, NaN only where all seven bits are set.
#[inline(always)]
fn e4m3_to_f32(b: u8) -> f32 {
    let sign = u32::from(b & 0x80) << 24;
    let magnitude = u32::from(b & 0x7f) << 20;
    let normal = magnitude + (120 << 23);
    let subnormal = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(121 << 23)).to_bits();
    let finite = if magnitude < (1 << 23) { subnormal } else { normal };
    f32::from_bits(sign | if b & 0x7f == 0x7f { 0x7fc0_0000 } else { finite })
}
