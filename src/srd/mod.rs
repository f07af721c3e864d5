//! Stochastic residual dithering: [`noise`] from a counter, and the [`residual`] plane of a container.

pub mod noise;
pub mod residual;
