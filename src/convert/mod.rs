//! Converts a model to files.
//!
//! First a plan is made: [`options`] say what the user asks, [`plan`] gives every tensor its type, [`metadata`] adds keys,
//! [`layout`] gives every tensor its place, and [`planned`] holds the result. Then [`run`] carries the plan out: [`units`]
//! cut the plan into work, [`chunk`] converts rows to blocks, and each [`destination`] writes them: [`files`] (GGUF and
//! safetensors) and [`container`] (.axm). [`outputs`] opens the destinations and names their files when all are complete.
//! [`extract`] plans files from a container, [`resign`] signs a container with another key, and [`digest`] hashes the source.

pub mod chunk;
pub mod container;
pub mod destination;
pub mod digest;
pub mod extract;
mod factors;
pub mod files;
pub mod layout;
pub mod metadata;
pub mod options;
pub mod outputs;
pub mod plan;
pub mod planned;
pub mod report;
pub mod resign;
pub mod run;
pub mod units;
