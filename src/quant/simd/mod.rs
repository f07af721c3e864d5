//! SIMD shells of the K-quants: one algorithm over lanes, thin shells per instruction set.
//!
//! A lane is a sub-block. A register of 16 lanes holds the 8 sub-blocks of two super-blocks of Q4_K
//! or Q5_K, or the 16 of one of Q6_K; with 8 lanes it is one, or half a one. Weights are transposed
//! on load, so that row `i` of a group holds weight `i` of every sub-block and the scalar
//! arithmetic of [`super::search`] runs as it is written there, lane by lane; sums over sub-blocks
//! are butterflies, in the scalar code's order. Therefore the bytes are those of the reference,
//! which the tests check for every shell.

mod affine;
#[cfg(test)]
pub(super) mod array;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod dequant;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
mod pack;
mod signed;
#[cfg(test)]
mod tests;
#[cfg(any(test, target_arch = "x86_64", target_arch = "aarch64"))]
mod walk;

use super::q6_k;
use super::search::{self, Codes, normalised_importance};
use crate::dtype::QK_K;
use crate::simd_level::Level;

/// Operations on registers of `N` f32 lanes. A value of the implementing type is the proof that the
/// CPU has the instructions, which is what makes the methods safe.
pub(crate) trait Lanes: Copy {
    /// `N` floats.
    type F: Copy;
    /// `N` truth values.
    type M: Copy;

    fn splat(self, v: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// `a < b ? a : b`
    fn least(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`
    fn most(self, a: Self::F, b: Self::F) -> Self::F;
    /// `min(max(a, 0), top)` and `min(a, top)` of a number `a` (no NaN) and `top > 0`. As integers, the bits of
    /// floats then compare as the floats do, and integer units are idle where the sums keep the adders busy.
    fn cut(self, a: Self::F, top: Self::F) -> Self::F;
    fn below(self, a: Self::F, top: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    fn nearest(self, a: Self::F) -> Self::F;
    /// Nearest f16, as f32.
    fn round16(self, a: Self::F) -> Self::F;
    /// `a > b`; false for NaN.
    fn above(self, a: Self::F, b: Self::F) -> Self::M;
    fn and(self, a: Self::M, b: Self::M) -> Self::M;
    /// `m ? a : b`
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Each lane with the one whose index differs in one bit: 1, 2 or 4.
    fn swap1(self, a: Self::F) -> Self::F;
    fn swap2(self, a: Self::F) -> Self::F;
    fn swap4(self, a: Self::F) -> Self::F;
    /// 16 lanes: the halves swapped. Not for 8.
    fn swap8(self, a: Self::F) -> Self::F;
    fn store(self, a: Self::F, to: &mut [f32]);
    /// Two rows of 8, for 16 lanes; the first, for 8.
    fn load_halves(self, first: &[f32; 8], second: &[f32; 8]) -> Self::F;
    /// 4 weights each of `N` sub-blocks of `len`: row `i` of the result holds weight `i` of each.
    fn transpose(self, from: &[f32], len: usize) -> [Self::F; 4];
    /// The integers `a + (b << 8) + (c << 16) + (d << 24)` of codes below 128, rounded like [`Self::nearest`].
    fn bytes(self, codes: [Self::F; 4], to: &mut [u32; 16]);
}

/// Importances of a row, ready for the lanes: `[super-block][weight of sub-block][sub-block]`.
pub(crate) struct Importance {
    /// Super-blocks of a row.
    per_row: usize,
    values: Vec<f32>,
}

impl Importance {
    /// For sub-blocks of `len` weights. `None` if there is nothing to weigh by.
    fn new(h: &[f32], len: usize) -> Option<Self> {
        let mut values = normalised_importance(h)?;
        let subs = QK_K / len;
        for block in values.as_chunks_mut::<QK_K>().0 {
            let plain = *block;
            for (i, v) in block.iter_mut().enumerate() {
                *v = plain[i % subs * len + i / subs];
            }
        }
        Some(Self { per_row: h.len() / QK_K, values })
    }

    /// Those of super-block `i` counted over all rows.
    #[inline(always)]
    fn of(&self, i: usize) -> &[f32; QK_K] {
        &self.values.as_chunks::<QK_K>().0[i % self.per_row]
    }
}

/// Quantises rows to Q4_K or Q5_K with the shell of `level`, which the CPU must have. `false`: there
/// is none, nothing was written.
pub(crate) fn affine_rows<C: Codes>(
    level: Level,
    rows: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> bool {
    let h = importance.and_then(|h| Importance::new(h, search::SUB));
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::affine_rows::<C>(rows, h.as_ref(), out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::affine_rows::<C>(rows, h.as_ref(), 0, out),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => walk::affine_rows::<_, C, 8>(neon::Neon, rows, h.as_ref(), 0, out),
        _ => return false,
    }
    true
}

/// The same for Q6_K.
pub(crate) fn signed_rows(level: Level, rows: &[f32], importance: Option<&[f32]>, out: &mut [u8]) -> bool {
    let h = importance.and_then(|h| Importance::new(h, q6_k::SUB));
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::signed_rows(rows, h.as_ref(), out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::signed_rows(rows, h.as_ref(), out),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => walk::signed_rows::<_, 8, 2>(neon::Neon, rows, h.as_ref(), out),
        _ => return false,
    }
    true
}
