//! The choice of the instruction set at run time.

use std::fmt;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::Neon;
use super::Portable;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};

/// An instruction set that the CPU has. Each variant carries the proof.
///
/// # Examples
///
/// ```
/// use srd_rs::simd::Isa;
///
/// assert!(Isa::available().contains(&Isa::detect()));
/// assert_eq!(Isa::available()[0].name(), "portable");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, which the compiler turns into the instructions of the target's base set.
    Portable(Portable),
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, BW, DQ and VL on top of AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// NEON, which every aarch64 CPU has.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Isa {
    /// The portable instruction set.
    pub const PORTABLE: Self = Self::Portable(Portable);

    /// Returns the best instruction set that this process may use. The environment is read once.
    ///
    /// `SRD_FORCE_SCALAR=1` asks for the portable code. `SRD_MAX_ISA=portable` (or `scalar`, `avx2`, `avx512`, `neon`)
    /// sets a ceiling. Both only narrow the choice: what the CPU lacks is never chosen. A value of `SRD_MAX_ISA` that is
    /// no instruction set of this architecture is reported on standard error and ignored.
    pub fn detect() -> Self {
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| {
            let forced = std::env::var_os("SRD_FORCE_SCALAR").is_some_and(|v| !v.is_empty() && v != "0");
            let ceiling = std::env::var("SRD_MAX_ISA").ok().filter(|name| !name.is_empty());
            match best(&Self::available(), forced, ceiling.as_deref()) {
                Ok(isa) => isa,
                Err(warning) => {
                    eprintln!("warning: {warning}");
                    best(&Self::available(), forced, None).unwrap_or(Self::PORTABLE)
                }
            }
        })
    }

    /// Returns every instruction set that the CPU has, whatever the environment says: the portable one first, the best
    /// one last. Tests compare all of them.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        all.extend(Avx2::new().map(Self::Avx2));
        #[cfg(target_arch = "x86_64")]
        all.extend(Avx512::new().map(Self::Avx512));
        #[cfg(target_arch = "aarch64")]
        all.push(Self::Neon(Neon::new()));
        all
    }

    /// Returns the name that `SRD_MAX_ISA` and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The instruction sets of this architecture, as `SRD_MAX_ISA` names them, the best one last.
const NAMES: &[&str] = if cfg!(target_arch = "x86_64") {
    &["portable", "avx2", "avx512"]
} else if cfg!(target_arch = "aarch64") {
    &["portable", "neon"]
} else {
    &["portable"]
};

/// The best of `available` under a ceiling. The error says which ceilings there are.
fn best(available: &[Isa], forced: bool, ceiling: Option<&str>) -> Result<Isa, String> {
    let rank = |name: &str| {
        let name = if name == "scalar" { "portable" } else { name };
        NAMES.iter().position(|n| *n == name)
    };
    let limit = match ceiling {
        None => NAMES.len(),
        Some(name) => rank(name).ok_or_else(|| {
            let names = NAMES.join(", ");
            format!(
                "SRD_MAX_ISA is {name:?}, which is no instruction set of this architecture. \
                 The variable is ignored. Set it to one of: {names}."
            )
        })?,
    };
    let limit = if forced { 0 } else { limit };
    let allowed = available.iter().rev().find(|isa| rank(isa.name()).is_some_and(|r| r <= limit));
    Ok(allowed.copied().unwrap_or(Isa::PORTABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_narrows_the_choice_and_a_typo_is_an_error() {
        let all = Isa::available();
        let last = all[all.len() - 1];
        assert_eq!(best(&all, false, None), Ok(last));
        assert_eq!(best(&all, true, None), Ok(Isa::PORTABLE));
        assert_eq!(best(&all, false, Some("scalar")), Ok(Isa::PORTABLE));
        assert_eq!(best(&all, true, Some(last.name())), Ok(Isa::PORTABLE));
        for isa in &all {
            assert_eq!(best(&all, false, Some(isa.name())), Ok(*isa));
        }
        let error = best(&all, false, Some("avx1024")).unwrap_err();
        assert!(error.contains("avx1024") && error.contains(NAMES[NAMES.len() - 1]), "{error}");
        assert!(best(&all, true, Some("avx1024")).is_err());
    }

    #[test]
    fn a_ceiling_above_the_cpu_is_no_floor() {
        assert_eq!(best(&[Isa::PORTABLE], false, Some(NAMES[NAMES.len() - 1])), Ok(Isa::PORTABLE));
    }
}
