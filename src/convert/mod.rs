//! Converts a model to files.
//!
//! First a plan is made: [`options`] say what the user asks, [`plan`] gives every tensor its type, `metadata` adds keys,
//! `layout` gives every tensor its place, and [`planned`] holds the result. Then [`run`] carries the plan out: `units` cut
//! the plan into work, `chunk` converts rows to blocks, and each `destination` writes them: `files` (GGUF and safetensors) and
//! [`container`] (.axm); [`parts`] hands the parts of a GGUF over instead of keeping them; `compare` compares instead of writing. `outputs` opens the destinations and names their files when all are
//! complete. [`journal`] keeps what is complete when a run is interrupted ([`written`]), and [`shared`] lets several machines write one
//! output. [`calibrated`] quantizes while the calibration is made. [`extract`] plans files
//! from a container, [`resign`] signs a container with another key, and [`digest`] hashes the source. [`measure`] finds what other types
//! would cost each tensor, and [`prices`] and [`sensitivity`] what the errors of a tensor or of a kind of tensor cost the answers.
//!
//! ```no_run
//! use srd_rs::convert::options::{PlanOptions, RunOptions};
//! use srd_rs::convert::{plan, run};
//! use srd_rs::formats::gguf::Gguf;
//! use srd_rs::progress::Progress;
//! use srd_rs::quant::recipe::Recipe;
//!
//! let recipe = Recipe::from_name("Q6_K").expect("the mix is known");
//! let plan = plan::plan_gguf(&Gguf::open("model-BF16.gguf")?, &PlanOptions::new("model-Q6_K.gguf", recipe))?;
//! let report = run::run(&plan, &RunOptions::new(4, 512 << 20), &Progress::default())?;
//! println!("{} bytes in {:.1} s", plan.total_bytes(), report.seconds);
//! # Ok::<(), srd_rs::Error>(())
//! ```

pub mod asymmetric;
pub mod calibrated;
mod chunk;
mod compare;
pub mod container;
mod destination;
pub mod digest;
pub mod extract;
mod factor_cache;
mod files;
pub mod journal;
mod layout;
pub mod measure;
mod metadata;
pub mod options;
mod outputs;
pub mod parts;
pub mod plan;
pub mod planned;
pub mod prices;
pub mod report;
pub mod resign;
pub mod run;
pub mod sensitivity;
pub mod shared;
mod source_hashes;
mod units;
pub mod written;
