//! Which instruction set the SIMD shells may use, decided once per process.
//!
//! Two environment variables narrow the choice, so that every path can be tested on one machine:
//! `SRD_FORCE_SCALAR=1` forces the scalar reference, `SRD_MAX_ISA=scalar|avx2|avx512` sets a ceiling (on aarch64
//! `scalar` is the only one that changes anything).
//! They never widen it: what the CPU lacks is never chosen.

use std::sync::OnceLock;

/// Instruction sets the shells are written for, poorest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The portable reference. Every other level gives the same bits.
    Scalar,
    /// NEON, which every aarch64 CPU has.
    Neon,
    /// AVX2 with F16C and FMA (every CPU with AVX2 since 2013 has all three).
    Avx2,
    /// AVX-512 F, BW, DQ, VL on top of [`Level::Avx2`].
    Avx512,
}

impl Level {
    /// The name used by `SRD_MAX_ISA` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// The best level this process may use. Cached: the environment is read once.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| detected().min(ceiling()))
}

/// Every level the CPU has, poorest first, whatever the environment says: what a test compares.
pub fn available() -> Vec<Level> {
    let written: &[Level] = if cfg!(target_arch = "aarch64") {
        &[Level::Scalar, Level::Neon]
    } else {
        &[Level::Scalar, Level::Avx2, Level::Avx512]
    };
    written.iter().copied().filter(|&l| l <= detected()).collect()
}

fn ceiling() -> Level {
    if std::env::var_os("SRD_FORCE_SCALAR").is_some_and(|v| !v.is_empty() && v != "0") {
        return Level::Scalar;
    }
    match std::env::var("SRD_MAX_ISA").as_deref() {
        Ok("scalar") => Level::Scalar,
        Ok("avx2") => Level::Avx2,
        _ => Level::Avx512,
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn detected() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Scalar,
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn detected() -> Level {
    if cfg!(target_arch = "aarch64") { Level::Neon } else { Level::Scalar }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_in_use_is_one_the_cpu_has() {
        assert!(available().contains(&level()));
        assert_eq!(available()[0], Level::Scalar);
    }
}
