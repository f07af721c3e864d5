//! What makes the weights better than plain rounding: what is known of their inputs.

pub mod importance;
