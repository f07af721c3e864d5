//! Stochastic residual dithering: what is known of the inputs ([`importance`]), [`noise`] from a counter, and the
//! [`residual`] plane of a container.

pub mod calibration;
pub mod feedback;
pub mod importance;
pub mod noise;
pub mod residual;
mod simd;
