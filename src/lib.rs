//! srd-rs turns a Hugging Face checkpoint into a GGUF in one streaming pass.
//!
//! The modules lie in layers, and a module uses modules of lower layers only (`tests/layers.rs` checks this):
//!
//! | module | what it does |
//! | --- | --- |
//! | `py` | translates for Python |
//! | [`met`] | says which bytes of a GGUF belong to which layers, and brings them into memory |
//! | [`convert`] | plans a conversion and runs it |
//! | [`calibrate`] | measures the inputs of each matrix |
//! | [`forward`], [`feedback`] | run a model; diffuse rounding errors into weights that are not yet quantized |
//! | [`model`] | the tensors of a checkpoint or GGUF under their GGUF names |
//! | [`formats`] | files: safetensors, GGUF, .axm containers, calibrations, imatrices |
//! | [`quant`], [`sign`], [`linalg`] | block formats and mixes; keys and signatures; matrix products |
//! | `simd`, `os`, [`input`], [`error`], [`dtype`], [`noise`], [`progress`], [`work`] | what all others use |
//!
//! ```no_run
//! use srd_rs::convert::options::{PlanOptions, RunOptions};
//! use srd_rs::convert::{plan, run};
//! use srd_rs::formats::gguf::Gguf;
//! use srd_rs::progress::Progress;
//! use srd_rs::quant::recipe::Recipe;
//!
//! let recipe = Recipe::from_name("Q4_K_M").expect("the mix is known");
//! let plan = plan::plan_gguf(&Gguf::open("model-BF16.gguf")?, &PlanOptions::new("model-Q4_K_M.gguf", recipe))?;
//! println!("{} bytes, {:.2} bits per weight", plan.total_bytes(), plan.bpw());
//! run::run(&plan, &RunOptions::new(4, 512 << 20), &Progress::default())?;
//! # Ok::<(), srd_rs::Error>(())
//! ```

pub mod calibrate;
pub mod convert;
pub mod dtype;
pub mod error;
pub mod feedback;
pub mod formats;
pub mod forward;
pub mod input;
pub mod linalg;
pub mod met;
pub mod model;
pub mod noise;
mod os;
pub mod progress;
#[cfg(feature = "python")]
mod py;
pub mod quant;
pub mod sign;
pub mod simd;
pub mod work;

pub use error::{Error, Result};
