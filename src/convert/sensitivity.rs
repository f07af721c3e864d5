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
use std::sync::Arc;

use crate::convert::chunk::Converter;
use crate::convert::planned::{Plan, PlannedTensor};
use crate::convert::{self, asymmetric};
use crate::error::{Error, Result};
use crate::forward::{self, Blocks, OfStream, Rounded, Rounding, RunOptions};
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

impl<'a> Pass<'a> {
    /// Returns the options of a forward pass.
    pub(super) fn forward(&self, logits: bool) -> RunOptions<'a> {
        RunOptions {
            logits,
            threads: self.threads,
            max_memory: self.max_memory,
            spill_folder: self.spill_folder,
            progress: self.progress,
            token_weights: None,
        }
    }
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
    let options = pass.forward(true);
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

/// A plan, and the names of the matrices that the model has as the plan will write them.
pub type Run<'a> = (&'a Plan, &'a HashSet<String>);

/// Returns for each of several plans of one model, and for each token, the divergence of the model with matrices as the plan will write
/// them, quantized by its calibration. All other matrices stay as they are; the embeddings that are looked up are rounded to their type.
/// A matrix is quantized once for all plans that quantize it alike.
///
/// # Errors
/// [`Error::Usage`] if there are no plans, and the errors of [`forward::run_replaced`] and of [`Converter::convert`].
pub fn written_divergences(
    runs: &[Run],
    options: &convert::options::RunOptions,
    tokens: &[Vec<u32>],
    pass: &Pass,
) -> Result<Vec<Vec<f64>>> {
    let Some((first, _)) = runs.first() else {
        return Err(Error::usage("there are no plans to compare", "Pass one plan or more"));
    };
    // All plans have one model, so one converter serves the tensors of all plans.
    let converter = Converter::new(first, options, pass.threads);
    let by_name: Vec<HashMap<&str, &PlannedTensor>> = runs
        .iter()
        .map(|(plan, matrices)| {
            let named = plan.tensors.iter().filter(|t| matrices.contains(&t.bound.name));
            named.map(|t| (t.bound.name.as_str(), t)).collect()
        })
        .collect();
    let replaced = |name: &str| -> Result<Vec<OfStream>> {
        let mut made: Vec<(&PlannedTensor, Arc<Blocks>)> = Vec::new();
        let mut of_streams = Vec::new();
        for tensors in &by_name {
            let Some(&tensor) = tensors.get(name) else {
                of_streams.push(None);
                continue;
            };
            let known = made.iter().find(|(other, _)| tensor.is_quantized_as(other));
            let blocks = match known {
                Some((_, blocks)) => Arc::clone(blocks),
                None => Arc::new(Blocks { ty: tensor.ty, bytes: converter.whole(tensor)? }),
            };
            made.push((tensor, Arc::clone(&blocks)));
            of_streams.push(Some(blocks));
        }
        Ok(of_streams)
    };
    let options = pass.forward(false);
    let embeddings: Vec<_> = runs.iter().map(|(plan, _)| asymmetric::embedding_type(plan)).collect();
    forward::run_replaced(&first.model, tokens, &replaced, &options, &embeddings)
}
