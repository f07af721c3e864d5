//! The same code compiled for wider vectors. The kernels use no fused and no reordered arithmetic, so every level
//! gives the same bits.

use crate::forward::activation as act;
use crate::forward::attention;
use crate::forward::norm;
#[cfg(target_arch = "x86_64")]
use crate::simd_level::{Level, level};

macro_rules! shells {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) = $kernel:path;)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) {
                    $kernel($($arg),*)
                }
                if level() >= Level::Avx2 {
                    // SAFETY: the level is never above what the CPU has.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $kernel($($arg),*)
        }
    )*};
}

shells! {
    /// `gate = silu(gate) * up`
    silu_gated(gate: &mut [f32], up: &[f32]) = act::kernels::silu_gated;
    /// `gate = gelu(gate) * up`
    gelu_gated(gate: &mut [f32], up: &[f32]) = act::kernels::gelu_gated;
    /// `gate = max(gate, 0)^2 * up`
    relu_squared_gated(gate: &mut [f32], up: &[f32]) = act::kernels::relu_squared_gated;
    silu(x: &mut [f32]) = act::kernels::silu;
    gelu(x: &mut [f32]) = act::kernels::gelu;
    relu_squared(x: &mut [f32]) = act::kernels::relu_squared;
    /// `x = cap tanh(x / cap)`
    soft_cap(x: &mut [f32], cap: f32) = act::kernels::soft_cap;
    /// Softmax of `scale x`, of `cap tanh(scale x / cap)` where `cap` is not 0.
    softmax(x: &mut [f32], scale: f32, cap: f32) = attention::softmax_kernel;
    rms_norm(x: &mut [f32], weight: &[f32], eps: f32) = norm::rms_kernel;
    layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) = norm::layer_kernel;
}
