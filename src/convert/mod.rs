//! The walk from a source to a GGUF: [`plan`] (what will be written where), [`source`] (rows in),
//! [`transform`] (HF layout to GGUF layout), [`pipeline`] (the work; its second moments: `factors`), [`sink`] (bytes out),
//! [`container`] (the signed master beside the GGUF), [`extract`] (from a container back to files).

pub mod container;
pub mod digest;
pub mod extract;
mod factors;
pub mod pipeline;
pub mod plan;
pub mod report;
pub mod resign;
