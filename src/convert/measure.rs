//! Measures what each candidate type would cost each tensor of a plan, on a sample of the tensor's rows. The costs decide
//! which tensor gets which type within a budget of bytes; see [`crate::quant::budget`].
//!
//! The error of a tensor in a type is the share of the energy of its output that the rounding adds:
//! `sum (v - w) H (v - w)^T / sum w H w^T` over the sampled rows, with H the second moments of the inputs. The solver
//! quantizes the sample as it will quantize the tensor. Where H is not known, the importances of the columns take its
//! place, or the plain squared error.
//!
//! ```no_run
//! use srd_rs::convert::measure::{Types, measure};
//! use srd_rs::convert::options::{PlanOptions, RunOptions};
//! use srd_rs::convert::plan::plan_gguf;
//! use srd_rs::dtype::GgmlType;
//! use srd_rs::formats::gguf::Gguf;
//! use srd_rs::progress::Progress;
//! use srd_rs::quant::recipe::Recipe;
//!
//! let options = PlanOptions::new("out.gguf", Recipe::Q4_K_M);
//! let plan = plan_gguf(&Gguf::open("model-BF16.gguf")?, &options)?;
//! let types = Types { all: &[GgmlType::Q3_K, GgmlType::Q4_K, GgmlType::Q6_K], small_blocks: &[] };
//! for tensor in measure(&plan, types, &options.overrides, &RunOptions::new(4, 512 << 20), &Progress::default())? {
//!     println!("{}: {:?}", plan.tensors[tensor.index].bound.name, tensor.candidates);
//! }
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::sync::Mutex;

use crate::convert::factor_cache::FactorCache;
use crate::convert::options::RunOptions;
use crate::convert::planned::{Plan, PlannedTensor};
use crate::dtype::{GgmlType, QK_K};
use crate::error::Result;
use crate::feedback::{self, FactorizedMoments, Rows, SolverOptions};
use crate::model::transform::Scratch;
use crate::noise::Noise;
use crate::progress::Progress;
use crate::quant::recipe::{self, Overrides};
use crate::quant::{self, Weighting};
use crate::work;

/// Rows of a matrix that are sampled, spread evenly over the matrix: as many as the solver takes at a time. With 48 rows the
/// measurement took three times as long.
const SAMPLE_ROWS: u64 = 16;
/// Rows that are sampled of each expert of a stack, at least.
const EXPERT_ROWS: u64 = 4;
/// Bytes of factors that are kept for other tensors with the same inputs.
const FACTOR_BYTES: u64 = 256 << 20;

/// The type that shows how sensitive the answers are to errors in a matrix. See [`super::sensitivity`].
pub const PROBE: GgmlType = GgmlType::Q4_0;

/// What a type would cost a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The type.
    pub ty: GgmlType,
    /// Size of the tensor in bytes.
    pub bytes: u64,
    /// Energy of the error of the output as a share of the energy of the output.
    pub error: f64,
    /// Mean energy of one output: the mean of `w H w^T` over the sampled rows.
    pub energy: f64,
    /// The error when the tensor is rounded to the type by the search for scales, without importances: what
    /// [`super::sensitivity`] does.
    pub rounding: f64,
}

/// The candidates of a tensor, the smallest first.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Index of the tensor in the plan.
    pub index: usize,
    /// One element for each type whose blocks fit the rows.
    pub candidates: Vec<Candidate>,
    /// The error when the tensor is rounded to [`PROBE`] by the search for scales; `None` if its rows are no whole blocks.
    pub probe: Option<f64>,
}

/// The types that are measured.
#[derive(Debug, Clone, Copy)]
pub struct Types<'a> {
    /// The types for every matrix whose rows are whole blocks of them.
    pub all: &'a [GgmlType],
    /// More types for matrices whose rows are no whole super-blocks.
    pub small_blocks: &'a [GgmlType],
}

impl Types<'_> {
    /// Returns the types that fit rows of a length.
    fn fitting(self, row: u64) -> Vec<GgmlType> {
        let more = if row.is_multiple_of(QK_K as u64) { &[] } else { self.small_blocks };
        let fits = |ty: &GgmlType| row.is_multiple_of(ty.block_len() as u64);
        let mut types: Vec<_> = self.all.iter().chain(more).copied().filter(fits).collect();
        types.sort();
        types.dedup();
        types
    }
}

/// Measures the matrices of a plan for which a mix may choose the type: all that may be quantized, and that the user names no
/// type for. Tensors for which no candidate fits are left out.
///
/// # Errors
/// Whatever reading the weights or the moments fails with; [`Error::Interrupted`](crate::Error::Interrupted) after
/// [`Progress::cancel`].
pub fn measure(
    plan: &Plan,
    types: Types,
    overrides: &Overrides,
    options: &RunOptions,
    progress: &Progress,
) -> Result<Vec<Measured>> {
    let free = |t: &PlannedTensor| {
        recipe::may_quantize(&plan.model.arch, &t.bound.name, &t.bound.ne) && !overrides.names(&t.bound.name)
    };
    let indices: Vec<usize> = (0..plan.tensors.len()).filter(|&i| free(&plan.tensors[i])).collect();
    let factors = FactorCache::new(FACTOR_BYTES);
    let found: Mutex<Vec<Measured>> = Mutex::default();
    progress.start("", indices.len() as u64);
    work::run(indices.len(), options.threads.max(1), progress, |number, scratch: &mut Scratch, _active| {
        let tensor = &plan.tensors[indices[number]];
        progress.set_phase(&tensor.bound.name);
        let fitting = types.fitting(tensor.bound.row_len());
        if !fitting.is_empty() {
            let sample = Sample { plan, tensor, factors: &factors, options };
            let (mut candidates, probe) = sample.measure(&fitting, scratch)?;
            candidates.sort_by_key(|c| (c.bytes, c.ty));
            let measured = Measured { index: indices[number], candidates, probe };
            found.lock().unwrap_or_else(|p| p.into_inner()).push(measured);
        }
        progress.add(1);
        Ok(())
    })?;
    let mut found = found.into_inner().unwrap_or_else(|p| p.into_inner());
    found.sort_by_key(|m| m.index);
    Ok(found)
}

/// One tensor that is measured.
struct Sample<'a> {
    plan: &'a Plan,
    tensor: &'a PlannedTensor,
    factors: &'a FactorCache,
    options: &'a RunOptions<'a>,
}

/// Sums over the sampled rows.
#[derive(Clone, Copy, Default)]
struct Sums {
    error: f64,
    energy: f64,
}

impl Sums {
    fn add(&mut self, more: Self) {
        self.error += more.error;
        self.energy += more.energy;
    }

    /// Returns the error as a share of the energy.
    fn share(self) -> f64 {
        if self.energy > 0.0 { self.error / self.energy } else { 0.0 }
    }
}

impl Sample<'_> {
    fn measure(&self, types: &[GgmlType], scratch: &mut Scratch) -> Result<(Vec<Candidate>, Option<f64>)> {
        let tensor = self.tensor;
        let rows = tensor.bound.ne.get(1).copied().unwrap_or(1).max(1);
        let experts = (tensor.bound.n_weights() / tensor.bound.row_len() / rows).max(1);
        let taken = (SAMPLE_ROWS / experts).max(EXPERT_ROWS).min(rows);
        // As the conversion quantizes the tensor, and by the search for scales without importances.
        let mut sums = vec![[Sums::default(); 2]; types.len()];
        let mut probe = Sums::default();
        let importance = match &self.plan.importance {
            Some(importance) => importance.of(&tensor.bound.name, &tensor.bound.ne)?,
            None => None,
        };
        let n = tensor.bound.row_len() as usize;
        let mut weights = vec![0.0; taken as usize * n];
        for expert in 0..experts {
            for (i, row) in weights.chunks_exact_mut(n).enumerate() {
                let at = expert * rows + (2 * i as u64 + 1) * rows / (2 * taken);
                tensor.bound.source.read(&self.plan.model.source, at * n as u64, row, scratch)?;
            }
            let h = importance.as_ref().and_then(|h| h.chunks_exact(n).nth(expert as usize));
            let moments = match &tensor.moments {
                Some(moments) => self.factors.get(tensor, moments, expert as usize)?,
                None => None,
            };
            let energy = moments.as_ref().map_or(0.0, |moments| moments.energy(&weights));
            for (ty, [converted, rounded]) in types.iter().zip(&mut sums) {
                let limit = quant::max_abs(*ty);
                let fits = |w: f32| if w.abs() <= limit { w } else { 0.0 };
                let kept: Vec<f32> = weights.iter().map(|&w| fits(w)).collect();
                let Some(moments) = &moments else {
                    converted.add(by_search(*ty, &kept, n, h, h));
                    rounded.add(by_search(*ty, &kept, n, None, h));
                    continue;
                };
                let energy = if kept == weights { energy } else { moments.energy(&kept) };
                let error = match feedback::supports(*ty) {
                    true => self.with_feedback(*ty, &kept, moments),
                    false => by_rounding(*ty, &kept, moments, Some(moments.importance())),
                };
                converted.add(Sums { error, energy });
                rounded.add(Sums { error: by_rounding(*ty, &kept, moments, None), energy });
            }
            if n.is_multiple_of(PROBE.block_len()) {
                probe.add(match &moments {
                    Some(moments) => Sums { error: by_rounding(PROBE, &weights, moments, None), energy },
                    None => by_search(PROBE, &weights, n, h, h),
                });
            }
        }
        let candidate = |(&ty, [converted, rounded]): (&GgmlType, &[Sums; 2])| Candidate {
            ty,
            bytes: ty.row_bytes(tensor.bound.n_weights()).expect("rows are whole blocks"),
            error: converted.share(),
            energy: converted.energy / (experts * taken) as f64,
            rounding: rounded.share(),
        };
        let probe = (probe.energy > 0.0).then(|| probe.share());
        Ok((types.iter().zip(&sums).map(candidate).collect(), probe))
    }

    /// Quantizes the sample as the conversion quantizes the tensor, but with one proposal for each row, and returns the error.
    fn with_feedback(&self, ty: GgmlType, weights: &[f32], moments: &FactorizedMoments) -> f64 {
        let options = SolverOptions { beam_width: 1, dither: Some(0.0), ..self.options.effort.feedback };
        let noise = Noise::new(self.options.effort.seed, "");
        let mut blocks = vec![0; ty.row_bytes(weights.len() as u64).expect("whole blocks") as usize];
        let rows = Rows { weights, noise: &noise, first: 0 };
        feedback::quantize_rows(ty, rows, moments, &options, &mut blocks)
    }
}

/// Quantizes rows without feedback, by the search for scales under the importances `h`, and returns the error under the moments.
fn by_rounding(ty: GgmlType, weights: &[f32], moments: &FactorizedMoments, h: Option<&[f32]>) -> f64 {
    let mut back = searched(ty, weights, h);
    back.iter_mut().zip(weights).for_each(|(v, w)| *v = w - *v);
    moments.energy(&back)
}

/// Quantizes rows by the search for scales under the importances `h`, and returns what comes back.
fn searched(ty: GgmlType, weights: &[f32], h: Option<&[f32]>) -> Vec<f32> {
    let n = h.map_or(weights.len(), <[f32]>::len);
    let mut blocks = vec![0; ty.row_bytes(weights.len() as u64).expect("whole blocks") as usize];
    let mut back = vec![0.0; weights.len()];
    let weighting = h.map(|h| Weighting::new(ty, h));
    quant::quantize_weighted(ty, weights, weighting.as_ref().and_then(|w| w.columns(0..n)), &mut blocks);
    quant::dequantize(ty, &blocks, &mut back);
    back
}

/// Quantizes rows of `n` weights by the search for scales under the importances `searched_under`, and weighs the squared errors
/// by the importances `h`.
fn by_search(
    ty: GgmlType,
    weights: &[f32],
    n: usize,
    searched_under: Option<&[f32]>,
    h: Option<&[f32]>,
) -> Sums {
    let back = searched(ty, weights, searched_under);
    let mut sums = Sums::default();
    for (i, (&w, &v)) in weights.iter().zip(&back).enumerate() {
        let (h, w, v) = (h.map_or(1.0, |h| f64::from(h[i % n])), f64::from(w), f64::from(v));
        sums.error += h * (w - v) * (w - v);
        sums.energy += h * w * w;
    }
    sums
}
