//! Measures what the errors of groups of matrices cost the answers of a model: the forward pass runs with the matrices of one
//! group rounded, and its logits are compared with those of the model as it is.
//!
//! The divergence of a group over the error of its matrices is the price of one unit of error, which
//! [`measure`](super::measure) finds for each type. A group of all matrices, each with the type of a mix, gives an estimate of
//! the divergence of the mix.
//!
//! ```no_run
//! use srd_rs::convert::measure::PROBE;
//! use srd_rs::convert::sensitivity::{Group, Pass, divergences};
//! use srd_rs::formats::gguf::split::Gguf;
//! use srd_rs::model::bound::BoundModel;
//! use srd_rs::progress::Progress;
//!
//! let model = BoundModel::from_gguf(&Gguf::open("model-BF16.gguf")?)?;
//! let rounded = |name: &str| Group::from([(name.to_string(), PROBE.into())]);
//! let groups = [rounded("blk.0.ffn_down.weight"), rounded("output.weight")];
//! let pass = Pass { threads: 4, max_memory: 1 << 30, spill_folder: ".".as_ref(), progress: &Progress::default() };
//! let klds = divergences(&model, &groups, &[vec![1, 2, 3, 4]], &pass)?;
//! assert!(klds.iter().all(|&kld| kld >= 0.0));
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::convert::chunk::Converter;
use crate::convert::planned::Plan;
use crate::convert::{self, asymmetric};
use crate::error::Result;
use crate::forward::{self, Blocks, Rounded, Rounding, RunOptions};
use crate::model::bound::BoundModel;
use crate::progress::Progress;

/// How the forward passes are run.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Number of threads.
    pub threads: usize,
    /// Bytes of weights and activations in memory. The logits of all tokens come on top, twice.
    pub max_memory: u64,
    /// The folder for temporary files.
    pub spill_folder: &'a Path,
    /// Counts the layers of all passes, and may cancel the run.
    pub progress: &'a Progress,
}

/// How the tensors of a group are rounded, by their names.
pub type Group = HashMap<String, Rounding>;

/// Returns for each group of tensors the mean divergence `KL(model || model with the group rounded)` over the tokens, in nats; for an
/// encoder the mean of 1 - cos of its last states.
/// The matrices are rounded by the search for scales; a matrix whose rows are no whole blocks of its type stays as it is. Weights that come
/// over the network are fetched once for all groups.
///
/// # Errors
/// The errors of [`forward::run`].
pub fn divergences(
    model: &BoundModel,
    groups: &[Group],
    tokens: &[Vec<u32>],
    pass: &Pass,
) -> Result<Vec<f64>> {
    let options = forward_options(pass, true);
    let named: Vec<_> = groups.iter().map(|group| |name: &str| group.get(name).copied()).collect();
    let variants: Vec<Rounded> =
        std::iter::once(&AS_IS as Rounded).chain(named.iter().map(|f| f as Rounded)).collect();
    let (mut base, mut found) = (None, Vec::new());
    forward::run_variants(model, tokens, &variants, &options, &mut |_, logits| {
        match &base {
            None => base = Some(logits),
            Some(base) => found.push(base.mean_divergence(&logits)),
        }
        Ok(())
    })?;
    Ok(found)
}

/// The rounding of a model that stays as it is.
const AS_IS: fn(&str) -> Option<Rounding> = |_| None;

fn forward_options<'a>(pass: &Pass<'a>, logits: bool) -> RunOptions<'a> {
    RunOptions {
        logits,
        threads: pass.threads,
        max_memory: pass.max_memory,
        spill_folder: pass.spill_folder,
        progress: pass.progress,
        token_weights: None,
    }
}

/// Returns for each token the divergence of the model with `matrices` as `plan` will write them, quantized by its calibration. All
/// other matrices stay as they are; the embeddings that are looked up are rounded to their type.
///
/// # Errors
/// The errors of [`forward::run_replaced`] and of [`Converter::convert`].
pub fn written_divergences(
    plan: &Plan,
    matrices: &HashSet<String>,
    options: &convert::options::RunOptions,
    tokens: &[Vec<u32>],
    pass: &Pass,
) -> Result<Vec<f64>> {
    let converter = Converter::new(plan, options, pass.threads);
    let named = plan.tensors.iter().filter(|t| matrices.contains(&t.bound.name));
    let by_name: HashMap<_, _> = named.map(|t| (t.bound.name.as_str(), t)).collect();
    let replaced = |name: &str| -> Result<Option<Blocks>> {
        let Some(&tensor) = by_name.get(name) else { return Ok(None) };
        Ok(Some(Blocks { ty: tensor.ty, bytes: converter.whole(tensor)? }))
    };
    let options = forward_options(pass, false);
    let embedding = asymmetric::embedding_type(plan);
    forward::run_replaced(&plan.model, tokens, &replaced, &options, embedding)
}
