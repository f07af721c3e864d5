//! SHA-256 with the CPU's own instructions.

use crate::simd_level::{Level, level};

#[cfg(target_arch = "x86_64")]
mod sha_ni;

/// Bytes of a block of SHA-256.
pub const BLOCK: usize = 64;

/// That the CPU has the instructions: there is none where it does not.
#[derive(Debug, Clone, Copy)]
pub struct ShaInstructions(());

impl ShaInstructions {
    /// None where the CPU lacks them, and at [`Level::Scalar`].
    pub fn find() -> Option<Self> {
        (level() > Level::Scalar && detected()).then_some(Self(()))
    }

    /// Advances each of `N` messages' states over its blocks, of which all have as many.
    #[cfg(target_arch = "x86_64")]
    pub fn compress<const N: usize>(self, states: [&mut [u32; 8]; N], blocks: [&[[u8; BLOCK]]; N]) {
        // SAFETY: `find` alone makes a value of this type, and looked.
        unsafe { sha_ni::compress(states, blocks) }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn compress<const N: usize>(self, _: [&mut [u32; 8]; N], _: [&[[u8; BLOCK]]; N]) {
        unreachable!("`find` finds none here")
    }
}

#[cfg(target_arch = "x86_64")]
fn detected() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> bool {
    false
}
