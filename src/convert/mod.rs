//! The walk from a source to a GGUF: [`plan`] (what will be written where), [`source`] (rows in),
//! [`transform`] (HF layout to GGUF layout), [`pipeline`] (the work), [`sink`] (bytes out).

pub mod digest;
pub mod pipeline;
pub mod plan;
pub mod report;
pub mod sink;
pub mod source;
pub mod spec;
pub mod transform;
