//! NEON, which every aarch64 CPU has: 8 lanes in two registers.

use std::arch::aarch64::*;
use std::arch::asm;

use super::Lanes;

/// Needs no proof: the instructions are part of the architecture.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Neon;

/// Lanes 0 to 3 and 4 to 7.
type F = [float32x4_t; 2];
type M = [uint32x4_t; 2];

/// Methods that do the same to both halves.
macro_rules! ops {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $f:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: the instructions are part of the architecture.
            unsafe { [$f($($arg[0]),*), $f($($arg[1]),*)] }
        }
    )*};
}

/// `a < b ? a : b`; FMIN would pass a NaN on.
#[inline(always)]
fn least4(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
}

/// `a > b ? a : b`
#[inline(always)]
fn most4(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

#[inline(always)]
fn below4(a: float32x4_t, top: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vreinterpretq_f32_s32(vminq_s32(vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(top))) }
}

#[inline(always)]
fn cut4(a: float32x4_t, top: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    let positive = unsafe { vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(a), vdupq_n_s32(0))) };
    below4(positive, top)
}

/// The intrinsics for this need the type f16, which is not stable.
#[inline(always)]
fn round16_4(a: float32x4_t) -> float32x4_t {
    let rounded: float32x4_t;
    // SAFETY: as above; registers only.
    unsafe {
        asm!(
            "fcvtn {r:v}.4h, {a:v}.4s",
            "fcvtl {r:v}.4s, {r:v}.4h",
            a = in(vreg) a,
            r = lateout(vreg) rounded,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    rounded
}

#[inline(always)]
fn swap2_4(a: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vextq_f32::<2>(a, a) }
}

/// Rows and columns of 4 by 4 floats exchanged.
#[inline(always)]
fn transpose4([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: as above.
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

impl Lanes for Neon {
    type F = F;
    type M = M;

    ops! {
        add(a: F, b: F) -> F = vaddq_f32;
        sub(a: F, b: F) -> F = vsubq_f32;
        mul(a: F, b: F) -> F = vmulq_f32;
        div(a: F, b: F) -> F = vdivq_f32;
        sqrt(a: F) -> F = vsqrtq_f32;
        abs(a: F) -> F = vabsq_f32;
        nearest(a: F) -> F = vrndnq_f32;
        above(a: F, b: F) -> M = vcgtq_f32;
        and(a: M, b: M) -> M = vandq_u32;
        select(m: M, a: F, b: F) -> F = vbslq_f32;
        swap1(a: F) -> F = vrev64q_f32;
    }

    #[inline(always)]
    fn splat(self, v: f32) -> F {
        // SAFETY: as above.
        [unsafe { vdupq_n_f32(v) }; 2]
    }

    #[inline(always)]
    fn least(self, a: F, b: F) -> F {
        [least4(a[0], b[0]), least4(a[1], b[1])]
    }

    #[inline(always)]
    fn most(self, a: F, b: F) -> F {
        [most4(a[0], b[0]), most4(a[1], b[1])]
    }

    #[inline(always)]
    fn cut(self, a: F, top: F) -> F {
        [cut4(a[0], top[0]), cut4(a[1], top[1])]
    }

    #[inline(always)]
    fn below(self, a: F, top: F) -> F {
        [below4(a[0], top[0]), below4(a[1], top[1])]
    }

    #[inline(always)]
    fn round16(self, a: F) -> F {
        a.map(round16_4)
    }

    #[inline(always)]
    fn swap2(self, a: F) -> F {
        a.map(swap2_4)
    }

    #[inline(always)]
    fn swap4(self, [low, high]: F) -> F {
        [high, low]
    }

    #[inline(always)]
    fn swap8(self, a: F) -> F {
        a
    }

    #[inline(always)]
    fn store(self, a: F, to: &mut [f32]) {
        let to = to.first_chunk_mut::<8>().expect("room for 8 lanes").as_mut_ptr();
        // SAFETY: `to` is 8 floats.
        unsafe {
            vst1q_f32(to, a[0]);
            vst1q_f32(to.add(4), a[1]);
        }
    }

    #[inline(always)]
    fn load_halves(self, first: &[f32; 8], _second: &[f32; 8]) -> F {
        let p = first.as_ptr();
        // SAFETY: `first` is 8 floats.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4))] }
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], len: usize) -> [F; 4] {
        assert!(from.len() >= 7 * len + 4);
        // SAFETY: the furthest load, of 4 floats at 7 * len, is inside `from` as asserted.
        let load = |i: usize| unsafe { vld1q_f32(from.as_ptr().add(i * len)) };
        let low = transpose4([load(0), load(1), load(2), load(3)]);
        let high = transpose4([load(4), load(5), load(6), load(7)]);
        std::array::from_fn(|i| [low[i], high[i]])
    }

    #[inline(always)]
    fn bytes(self, q: [F; 4], to: &mut [u32; 16]) {
        for half in 0..2 {
            // SAFETY: `to` has room for the 8 words that both halves store.
            unsafe {
                let [a, b, c, d] = q.map(|q| vreinterpretq_u32_s32(vcvtnq_s32_f32(q[half])));
                let (ab, cd) = (vorrq_u32(a, vshlq_n_u32::<8>(b)), vorrq_u32(c, vshlq_n_u32::<8>(d)));
                vst1q_u32(to.as_mut_ptr().add(4 * half), vorrq_u32(ab, vshlq_n_u32::<16>(cd)));
            }
        }
    }
}
