//! What the user asks of a conversion: [`PlanOptions`] decide what is written, [`RunOptions`] how the work is done.
//!
//! ```
//! use srd_rs::convert::options::PlanOptions;
//! use srd_rs::quant::recipe::Recipe;
//!
//! let recipe = Recipe::from_name("Q4_K_M").expect("the mix is known");
//! let parts = PlanOptions { split_max_size: Some(2 << 30), ..PlanOptions::new("model.gguf", recipe) };
//! assert!(parts.container.is_none() && !parts.allow_requantize);
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::convert::parts::Handover;
use crate::convert::written::Written;
use crate::feedback;
use crate::formats::axm::layout::SourceFile;
use crate::formats::calibration::Calibration;
use crate::formats::gguf::values::KeyValues;
use crate::formats::imatrix::Importance;
use crate::quant::recipe::{Overrides, Recipe};
use crate::quant::residual::Bits;
use crate::sign::ed25519::SignKey;
use crate::sign::keys::MasterKey;

/// What is to be written.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Path of the GGUF. The parts of a split GGUF get their names from this path.
    pub output: PathBuf,
    /// The mix, which gives every tensor its type.
    pub recipe: Recipe,
    /// Exceptions from the mix.
    pub overrides: Overrides,
    /// Writes the `srd.*` keys, which say which tool made the file from what.
    pub provenance: Option<Provenance>,
    /// Mean squares of the inputs of the matrices (an imatrix), where they are known.
    pub importance: Option<Arc<Importance>>,
    /// Second moments of the inputs of the matrices, for error feedback.
    pub calibration: Option<Arc<Calibration>>,
    /// What the keys of the output say of the calibration. The keys are known before the calibration is made.
    pub calibrated: Option<Calibrated>,
    /// Cuts the GGUF into files of at most this many bytes, with the names that llama.cpp expects.
    pub split_max_size: Option<u64>,
    /// Plans a container beside the GGUF.
    pub container: Option<ContainerOptions>,
    /// Converts tensors that are quantized already. Every step loses precision, so without this option such a source is
    /// refused unless its blocks are copied. The metadata say how many tensors were quantized again.
    pub allow_requantize: bool,
    /// Scales the channels of the model before anything else: see [`crate::forward::with_scaled_channels`].
    pub scale_channels: bool,
    /// Keys of a GGUF that get another value, or that the GGUF does not have.
    pub replaced: KeyValues,
    /// Files that the conversion reads beside the weights. No output may replace one of them.
    pub inputs: Vec<PathBuf>,
}

impl PlanOptions {
    /// The options of a plain conversion: no statistics, no container, no exceptions from the mix.
    pub fn new(output: impl Into<PathBuf>, recipe: Recipe) -> Self {
        Self {
            output: output.into(),
            recipe,
            overrides: Overrides::default(),
            provenance: None,
            importance: None,
            calibration: None,
            calibrated: None,
            split_max_size: None,
            container: None,
            allow_requantize: false,
            scale_channels: false,
            replaced: KeyValues::new(),
            inputs: Vec::new(),
        }
    }
}

/// Where the statistics of a calibrated conversion came from. The metadata of the GGUF says so.
#[derive(Debug, Clone)]
pub struct Calibrated {
    /// `random`, `builtin`, or the name of a text file.
    pub text: String,
    /// Number of tokens that the model was run on.
    pub tokens: u64,
    /// Number of chunks that the tokens were cut into.
    pub chunks: u64,
    /// Number of tensors whose inputs are known.
    pub entries: u64,
    /// Digest of the calibration file: `sha256:` and 64 hex digits.
    pub digest: String,
}

impl Calibrated {
    /// Describes a calibration that is there.
    pub fn by(calibration: &Calibration) -> Self {
        let info = &calibration.info;
        Self {
            text: info.text.clone(),
            tokens: info.tokens,
            chunks: info.chunks(),
            entries: calibration.len() as u64,
            digest: calibration.digest.clone(),
        }
    }

    /// Stands for a calibration that is still to be made. The keys have the same length as those of the real one, so
    /// that a dry run knows the size of the output.
    pub fn expected(text: &str) -> Self {
        let digest = format!("sha256:{}", "0".repeat(64));
        Self { text: text.to_string(), tokens: 0, chunks: 1, entries: 0, digest }
    }
}

/// Which tool made the output, from what, and how.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// Name of the method that quantized the weights.
    pub method: String,
    /// Seed of the noise.
    pub seed: u64,
    /// `sha256:...` over the headers and small files of the source; see [`crate::convert::digest`].
    pub source_digest: String,
    /// The options that differ from their defaults and that the file does not show otherwise, as a JSON object.
    pub options: Option<String>,
    /// The files that the digest covers.
    pub sources: Vec<SourceFile>,
    /// Where the model was downloaded from: the id on the hub, `@`, and the commit.
    pub revision: Option<String>,
}

/// The container that is to be written beside the GGUF.
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    /// Path of the container.
    pub path: PathBuf,
    /// Bits per weight of the residual planes. `None`: the container has no residual planes.
    pub residual: Option<Bits>,
    /// What the header of the container says of its origin.
    pub provenance: Provenance,
}

/// How a plan is run.
pub struct RunOptions<'a> {
    /// Number of threads, at least 1.
    pub threads: usize,
    /// Bytes of weights that all threads together may hold at any time. Two things come on top: up to 256 MB of
    /// factorized second moments, and at least 64 rows for each thread of a calibrated conversion.
    pub max_memory: u64,
    /// Replaces NaN by 0 and a weight that is too large by the largest one that fits, instead of failing.
    pub allow_nonfinite: bool,
    /// Replaces existing outputs.
    pub overwrite: bool,
    /// Signs the container. The key is needed where the plan has a container.
    pub key: Option<&'a MasterKey>,
    /// Adds an Ed25519 signature to the container.
    pub sign_key: Option<&'a SignKey>,
    /// Writes the GGUF. False writes the container alone.
    pub gguf: bool,
    /// What is done with tensors whose inputs are known.
    pub effort: Effort,
    /// Compares what is made with this GGUF, byte by byte, and writes nothing.
    pub against: Option<&'a Path>,
    /// Hands each file over when it is written, instead of keeping it.
    pub handover: Option<&'a Handover>,
    /// Keeps what is complete when the run is interrupted, and goes on from what an interrupted run has left.
    pub resume: Option<Resume>,
    /// What was written of the output while its calibration was made.
    pub written: Option<&'a Written>,
}

/// What two runs must have in common, beside the plan and the input, so that one can go on where the other ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The program: another build may give other bytes.
    pub program: String,
    /// The options of the caller, as far as they decide the bytes. They are compared before the plan is complete.
    pub options: String,
    /// The shortest time after which a worker notes how far it has come within a unit of work.
    pub interval: Duration,
}

impl Resume {
    /// A tenth of a second. A unit takes seconds on a slow machine, and to note how far it is takes less than a millisecond.
    pub const INTERVAL: Duration = Duration::from_millis(100);
}

impl RunOptions<'_> {
    /// The options of a run that writes a GGUF and no container, and replaces nothing.
    pub fn new(threads: usize, max_memory: u64) -> Self {
        Self {
            threads,
            max_memory,
            allow_nonfinite: false,
            overwrite: false,
            key: None,
            sign_key: None,
            gguf: true,
            effort: Effort::default(),
            against: None,
            handover: None,
            resume: None,
            written: None,
        }
    }
}

/// How much work is spent on tensors whose inputs are known.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Effort {
    /// Options of the solver.
    pub feedback: feedback::SolverOptions,
    /// Seed of the noise.
    pub seed: u64,
    /// Layers that get all proposals, given as a range of depth (0 to 1). The other layers get one proposal. The default
    /// is all layers: a range of 40 to 77 % gains a quarter as much (docs/decisions/0005-feedback.md).
    pub dither_layers: Option<(f64, f64)>,
}
