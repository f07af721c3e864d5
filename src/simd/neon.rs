//! NEON, which every aarch64 CPU has: 4 lanes in a register.

use std::arch::aarch64::*;
use std::arch::asm;

use super::vector::instructions;
use super::{Pair, Simd, Vector};

/// NEON is part of the architecture, so the proof needs no check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neon(());

impl Neon {
    /// Returns the proof.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Simd for Neon {
    type X8 = Pair<Self>;
    type X16 = Pair<Pair<Self>>;
    const WIDE: bool = false;

    #[inline(always)]
    fn x8(self) -> Self::X8 {
        Pair(self)
    }

    #[inline(always)]
    fn x16(self) -> Self::X16 {
        Pair(Pair(self))
    }
}

/// Transposes 4 by 4 floats.
#[inline(always)]
fn transpose4([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: the instructions are part of the architecture.
    unsafe {
        let (ab_even, ab_odd) = (vtrn1q_f32(a, b), vtrn2q_f32(a, b));
        let (cd_even, cd_odd) = (vtrn1q_f32(c, d), vtrn2q_f32(c, d));
        let low =
            |x, y| vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)));
        let high =
            |x, y| vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)));
        [low(ab_even, cd_even), low(ab_odd, cd_odd), high(ab_even, cd_even), high(ab_odd, cd_odd)]
    }
}

impl Vector for Neon {
    const N: usize = 4;
    type F = float32x4_t;
    type U = uint32x4_t;
    type M = uint32x4_t;

    instructions! {
        splat(v: f32) -> float32x4_t = vdupq_n_f32(v);
        load(from: &[f32]) -> float32x4_t = vld1q_f32(from[..4].as_ptr());
        store(a: float32x4_t, to: &mut [f32]) = vst1q_f32(to[..4].as_mut_ptr(), a);
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        sqrt(a: float32x4_t) -> float32x4_t = vsqrtq_f32(a);
        abs(a: float32x4_t) -> float32x4_t = vabsq_f32(a);
        // FMIN and FMAX would pass a NaN on.
        min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcltq_f32(a, b), a, b);
        max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), a, b);
        round_ties_even(a: float32x4_t) -> float32x4_t = vrndnq_f32(a);
        round_to_f16(a: float32x4_t) -> float32x4_t = {
            // The intrinsics need the type f16, which is not stable.
            let rounded: float32x4_t;
            asm!(
                "fcvtn {r:v}.4h, {a:v}.4s",
                "fcvtl {r:v}.4s, {r:v}.4h",
                a = in(vreg) a,
                r = lateout(vreg) rounded,
                options(pure, nomem, nostack, preserves_flags),
            );
            rounded
        };
        lt(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcltq_f32(a, b);
        eq(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vceqq_f32(a, b);
        select(mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(mask, a, b);
        swap<K: usize>(a: float32x4_t) -> float32x4_t = match K {
            1 => vrev64q_f32(a),
            2 => vextq_f32::<2>(a, a),
            _ => a,
        };
        first(a: float32x4_t) -> f32 = vgetq_lane_f32::<0>(a);
        load_transposed(from: &[f32], stride: usize) -> [float32x4_t; 4] = transpose4([
            vld1q_f32(from[..4].as_ptr()),
            vld1q_f32(from[stride..][..4].as_ptr()),
            vld1q_f32(from[2 * stride..][..4].as_ptr()),
            vld1q_f32(from[3 * stride..][..4].as_ptr()),
        ]);
        store_transposed(a: [float32x4_t; 4], to: &mut [f32], stride: usize) = {
            let rows = transpose4(a);
            for j in 0..4 {
                vst1q_f32(to[j * stride..][..4].as_mut_ptr(), rows[j]);
            }
        };
        load_eights(first: &[f32; 8], _second: &[f32; 8]) -> float32x4_t = vld1q_f32(first.as_ptr());

        splat_u32(v: u32) -> uint32x4_t = vdupq_n_u32(v);
        load_u32(from: &[u32]) -> uint32x4_t = vld1q_u32(from[..4].as_ptr());
        store_u32(a: uint32x4_t, to: &mut [u32]) = vst1q_u32(to[..4].as_mut_ptr(), a);
        load_bytes(from: &[u8]) -> uint32x4_t = {
            let bytes = u32::from_le_bytes(*from.first_chunk().expect("a byte for each word"));
            vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes.into()))))
        };
        store_low_bytes(a: [uint32x4_t; 4], to: &mut [u8]) = {
            let low = vmovn_u16(vcombine_u16(vmovn_u32(a[0]), vmovn_u32(a[1])));
            let high = vmovn_u16(vcombine_u16(vmovn_u32(a[2]), vmovn_u32(a[3])));
            vst1q_u8(to[..16].as_mut_ptr(), vcombine_u8(low, high));
        };
        widening_mul(a: uint32x4_t, b: uint32x4_t) -> (uint32x4_t, uint32x4_t) = {
            let low = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), vget_low_u32(b)));
            let high = vreinterpretq_u32_u64(vmull_high_u32(a, b));
            (vuzp1q_u32(low, high), vuzp2q_u32(low, high))
        };
        and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32(a, b);
        xor(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = veorq_u32(a, b);
        // A shift by a negative number is a shift to the right. The number is known to the compiler.
        shl<K: u32>(a: uint32x4_t) -> uint32x4_t = vshlq_u32(a, vdupq_n_s32(K as i32));
        shr<K: u32>(a: uint32x4_t) -> uint32x4_t = vshlq_u32(a, vdupq_n_s32(-(K as i32)));
        shr_i32<K: u32>(a: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(a), vdupq_n_s32(-(K as i32))));
        min_i32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_s32(vminq_s32(vreinterpretq_s32_u32(a), vreinterpretq_s32_u32(b)));
        max_i32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_s32(vmaxq_s32(vreinterpretq_s32_u32(a), vreinterpretq_s32_u32(b)));
        eq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vceqq_u32(a, b);
        select_u32(mask: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vbslq_u32(mask, a, b);
        to_bits(a: float32x4_t) -> uint32x4_t = vreinterpretq_u32_f32(a);
        from_bits(a: uint32x4_t) -> float32x4_t = vreinterpretq_f32_u32(a);
        to_i32(a: float32x4_t) -> uint32x4_t = vreinterpretq_u32_s32(vcvtq_s32_f32(a));
        from_i32(a: uint32x4_t) -> float32x4_t = vcvtq_f32_s32(vreinterpretq_s32_u32(a));

        mask_and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        mask_or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32(a, b);
    }
}
