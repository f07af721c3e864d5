//! One macro that compiles a generic function once per instruction set.

/// Defines a function that takes an [`Isa`](crate::simd::Isa) as its first argument and runs the body compiled for it.
///
/// The first parameter, written `simd: S`, is a value of the instruction set of type `S:`
/// [`Simd`](crate::simd::Simd). The body, and everything hot that it calls, must be `#[inline(always)]` or generic code
/// that the compiler inlines: what is not inlined stays compiled for the base CPU. The same holds for closures.
///
/// ```
/// use srd_rs::simd::{Isa, dispatch};
///
/// dispatch! {
///     /// Doubles every value of `x`.
///     pub fn double(_simd: S, x: &mut [f32]) {
///         x.iter_mut().for_each(|x| *x *= 2.0);
///     }
/// }
///
/// let mut x = [1.0, 2.0];
/// double(Isa::detect(), &mut x);
/// assert_eq!(x, [2.0, 4.0]);
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __simd_dispatch {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident $(<$($generic:ident: $bound:path),+>)? (
            $simd:ident: $S:ident $(, $arg:ident: $ty:ty)* $(,)?
        ) $(-> $out:ty)? $body:block
    )+) => {$(
        $(#[$attribute])*
        $visibility fn $name $(<$($generic: $bound),+>)? (
            isa: $crate::simd::Isa, $($arg: $ty),*
        ) $(-> $out)? {
            #[inline(always)]
            fn generic<$S: $crate::simd::Simd $($(, $generic: $bound)+)?>(
                $simd: $S, $($arg: $ty),*
            ) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$($generic: $bound),+>)? (
                simd: $crate::simd::Avx2, $($arg: $ty),*
            ) $(-> $out)? {
                generic::<_ $($(, $generic)+)?>(simd, $($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512 $(<$($generic: $bound),+>)? (
                simd: $crate::simd::Avx512, $($arg: $ty),*
            ) $(-> $out)? {
                generic::<_ $($(, $generic)+)?>(simd, $($arg),*)
            }

            match isa {
                $crate::simd::Isa::Portable(simd) => generic::<_ $($(, $generic)+)?>(simd, $($arg),*),
                // SAFETY: `simd` is the proof that the CPU has the features that the function is compiled for.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx2(simd) => unsafe { avx2 $(::<$($generic),+>)? (simd, $($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512(simd) => unsafe { avx512 $(::<$($generic),+>)? (simd, $($arg),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::simd::Isa::Neon(simd) => generic::<_ $($(, $generic)+)?>(simd, $($arg),*),
            }
        }
    )+};
}

#[doc(inline)]
pub use __simd_dispatch as dispatch;
