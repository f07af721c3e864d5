//! Measures what each candidate type would cost each tensor of a plan, on a sample of the tensor's rows. The costs decide
//! which tensor gets which type within a budget of bytes; see [`crate::quant::budget`].
//!
//! The error of a tensor in a type is the share of the energy of its output that the rounding adds:
//! `sum (v - w) H (v - w)^T / sum w H w^T` over the sampled rows, with H the second moments of the inputs. The solver
//! quantizes the sample as it will quantize the tensor. Where H is not known, the importances of the columns take its
//! place, or the plain squared error.
//!
//! [`prices`](super::prices) finds what the errors cost the answers of the model.
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
//! let how = RunOptions::new(4, 512 << 20);
//! for tensor in measure(&plan, types, &options.overrides, &how, &[], &Progress::default())? {
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
/// Rows that are sampled of the embeddings and of the output matrix. They differ more than those of other matrices.
const TABLE_ROWS: u64 = 64;
/// The errors of the sampled rows are kept in the type whose bits per weight are nearest to this number.
const USUAL_BITS: f64 = 4.5;
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
    /// The errors of the weights of the sampled rows; `None` for a stack of experts.
    pub sampled: Option<Sampled>,
}

/// The errors of the weights of sampled rows in one of the candidates.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// Energy of the error of the output as a share of the energy of the output.
    pub error: f64,
    /// What the rounding adds to the weights, row after row.
    pub rows: Vec<f32>,
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
        types.sort_by(|a, b| a.bpw().total_cmp(&b.bpw()).then(a.cmp(b)));
        types.dedup();
        types
    }
}

/// Measures the matrices of a plan for which a mix may choose the type: all that may be quantized, and that the user names no
/// type for. Tensors for which no candidate fits are left out. `tokens` are those of a text: of matrices that have a row for each token
/// of the vocabulary, the rows of tokens of the text are sampled. Without a text the rows of all tokens count alike.
///
/// # Errors
/// Whatever reading the weights or the moments fails with; [`Error::Interrupted`](crate::Error::Interrupted) after
/// [`Progress::cancel`].
pub fn measure(
    plan: &Plan,
    types: Types,
    overrides: &Overrides,
    options: &RunOptions,
    tokens: &[u32],
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
        let index = indices[number];
        let tensor = &plan.tensors[index];
        progress.set_phase(&tensor.bound.name);
        let fitting = types.fitting(tensor.bound.row_len());
        if !fitting.is_empty() {
            let sample = Sample { plan, index, tensor, factors: &factors, options, tokens };
            let measured = sample.measure(&fitting, scratch)?;
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
    index: usize,
    tensor: &'a PlannedTensor,
    factors: &'a FactorCache,
    options: &'a RunOptions<'a>,
    tokens: &'a [u32],
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
    /// Measures types, the smallest first.
    fn measure(&self, types: &[GgmlType], scratch: &mut Scratch) -> Result<Measured> {
        let tensor = self.tensor;
        let rows = tensor.bound.ne.get(1).copied().unwrap_or(1).max(1);
        let experts = (tensor.bound.n_weights() / tensor.bound.row_len() / rows).max(1);
        let numbers = self.numbers(rows, experts);
        let taken = numbers.len();
        // As the conversion quantizes the tensor, and by the search for scales without importances.
        let mut sums = vec![[Sums::default(); 2]; types.len()];
        let mut probe = Sums::default();
        let (usual, mut sampled) = (usual(types), None);
        let importance = match &self.plan.importance {
            Some(importance) => importance.of(&tensor.bound.name, &tensor.bound.ne)?,
            None => None,
        };
        let n = tensor.bound.row_len() as usize;
        let mut weights = vec![0.0; taken * n];
        for expert in 0..experts {
            for (number, row) in numbers.iter().zip(weights.chunks_exact_mut(n)) {
                let at = expert * rows + number;
                tensor.bound.source.read(&self.plan.model.source, at * n as u64, row, scratch)?;
            }
            let h = importance.as_ref().and_then(|h| h.chunks_exact(n).nth(expert as usize));
            let moments = match &tensor.moments {
                Some(moments) => self.factors.get(tensor, moments, expert as usize)?,
                None => None,
            };
            let energy = moments.as_ref().map_or(0.0, |moments| moments.energy(&weights));
            for (i, (ty, [converted, rounded])) in types.iter().zip(&mut sums).enumerate() {
                let limit = quant::max_abs(*ty);
                let fits = |w: f32| if w.abs() <= limit { w } else { 0.0 };
                let kept: Vec<f32> = weights.iter().map(|&w| fits(w)).collect();
                let errors = match &moments {
                    Some(moments) if feedback::supports(*ty) => self.with_feedback(*ty, &kept, moments),
                    Some(moments) => by_search(*ty, &kept, Some(moments.importance())),
                    None => by_search(*ty, &kept, h),
                };
                let energy = match &moments {
                    Some(moments) if kept != weights => moments.energy(&kept),
                    _ => energy,
                };
                let sums_of = |errors: &[f32]| match &moments {
                    Some(moments) => Sums { error: moments.energy(errors), energy },
                    None => weighed(errors, &kept, h),
                };
                converted.add(sums_of(&errors));
                rounded.add(sums_of(&by_search(*ty, &kept, None)));
                if i == usual && experts == 1 {
                    sampled = Some(errors);
                }
            }
            if n.is_multiple_of(PROBE.block_len()) {
                probe.add(match &moments {
                    Some(moments) => {
                        Sums { error: moments.energy(&by_search(PROBE, &weights, None)), energy }
                    }
                    None => weighed(&by_search(PROBE, &weights, h), &weights, h),
                });
            }
        }
        let candidate = |(&ty, [converted, rounded]): (&GgmlType, &[Sums; 2])| Candidate {
            ty,
            bytes: ty.row_bytes(tensor.bound.n_weights()).expect("rows are whole blocks"),
            error: converted.share(),
            energy: converted.energy / (experts as usize * taken) as f64,
            rounding: rounded.share(),
        };
        let mut candidates: Vec<_> = types.iter().zip(&sums).map(candidate).collect();
        let sampled = sampled.map(|rows| Sampled { error: candidates[usual].error, rows });
        candidates.sort_by_key(|c| (c.bytes, c.ty));
        let probe = (probe.energy > 0.0).then(|| probe.share());
        Ok(Measured { index: self.index, candidates, probe, sampled })
    }

    /// Returns the numbers of the rows of each matrix that are sampled.
    fn numbers(&self, rows: u64, experts: u64) -> Vec<u64> {
        let is_table = [recipe::EMBEDDING, recipe::OUTPUT].contains(&self.tensor.bound.name.as_str());
        let taken = if is_table { TABLE_ROWS } else { (SAMPLE_ROWS / experts).max(EXPERT_ROWS) }.min(rows);
        let spread = |all: u64| (0..taken).map(move |i| (2 * i + 1) * all / (2 * taken));
        if !is_table || self.tokens.is_empty() {
            return spread(rows).collect();
        }
        let of_token = |at: u64| u64::from(self.tokens[at as usize]).min(rows - 1);
        spread(self.tokens.len() as u64).map(of_token).collect()
    }

    /// Quantizes the sample as the conversion quantizes the tensor, but with one proposal for each row, and returns what this adds to
    /// the weights.
    fn with_feedback(&self, ty: GgmlType, weights: &[f32], moments: &FactorizedMoments) -> Vec<f32> {
        let options = SolverOptions { beam_width: 1, dither: Some(0.0), ..self.options.effort.feedback };
        let noise = Noise::new(self.options.effort.seed, "");
        let mut blocks = vec![0; ty.row_bytes(weights.len() as u64).expect("whole blocks") as usize];
        let rows = Rows { weights, noise: &noise, first: 0 };
        feedback::quantize_rows(ty, rows, moments, &options, &mut blocks);
        errors_of(ty, &blocks, weights)
    }
}

/// Returns the index of the type that is nearest to [`USUAL_BITS`].
fn usual(types: &[GgmlType]) -> usize {
    let away = |i: &usize| (types[*i].bpw() - USUAL_BITS).abs();
    (0..types.len()).min_by(|a, b| away(a).total_cmp(&away(b))).unwrap_or(0)
}

/// Quantizes rows without feedback, by the search for scales under the importances `h`, and returns what this adds to the weights.
fn by_search(ty: GgmlType, weights: &[f32], h: Option<&[f32]>) -> Vec<f32> {
    let n = h.map_or(weights.len(), <[f32]>::len);
    let mut blocks = vec![0; ty.row_bytes(weights.len() as u64).expect("whole blocks") as usize];
    let weighting = h.map(|h| Weighting::new(ty, h));
    quant::quantize_weighted(ty, weights, weighting.as_ref().and_then(|w| w.columns(0..n)), &mut blocks);
    errors_of(ty, &blocks, weights)
}

/// Returns what blocks have more than the weights that they stand for.
fn errors_of(ty: GgmlType, blocks: &[u8], weights: &[f32]) -> Vec<f32> {
    let mut errors = vec![0.0; weights.len()];
    quant::dequantize(ty, blocks, &mut errors);
    errors.iter_mut().zip(weights).for_each(|(v, w)| *v -= w);
    errors
}

/// Returns the energies of errors and of the weights of rows, with the importances `h` of the columns.
fn weighed(errors: &[f32], weights: &[f32], h: Option<&[f32]>) -> Sums {
    let mut sums = Sums::default();
    for (i, (&w, &d)) in weights.iter().zip(errors).enumerate() {
        let (h, w, d) = (h.map_or(1.0, |h| f64::from(h[i % h.len()])), f64::from(w), f64::from(d));
        sums.error += h * d * d;
        sums.energy += h * w * w;
    }
    sums
}
