//! Quantizes the matrices of a model one after another, each for the inputs that the quantized matrices before it give it (effort
//! max).
//!
//! Let x be the inputs of a matrix W in the original model and y those in the model whose earlier matrices are quantized, h and
//! g the residual streams that the output of W is added to, and H the second moments of y, shrunk and damped as for
//! [`feedback`]. SRD rounds, under H, the matrix
//!
//! `W + ALPHA W E[(x - y) y^T] H^-1 + BETA E[(h - g) y^T] H^-1`
//!
//! instead of W: with both factors 1 it would be the matrix whose outputs are nearest to what is missing, on the tokens of the
//! calibration. The second term is that of GPTAQ (Li et al. 2025). The third one is for matrices whose output is added to the
//! residual stream. `docs/decisions/0013-asymmetric-target.md` has the measurements.
//!
//! The quantized matrices stand in the calibration file, beside the second moments of the inputs of all other matrices: experts,
//! tied embeddings, and matrices of types without feedback. [`run`](crate::convert::run) copies them from there.

use rayon::prelude::*;

use crate::calibrate::Accumulator;
use crate::convert::chunk;
use crate::convert::options::Effort;
use crate::convert::planned::{Plan, PlannedTensor};
use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use crate::feedback::{self, FactorizedMoments, SolverOptions};
use crate::formats::calibration::{Calibration, Info, Output, Quantized, SecondMoments, block_side, blocks};
use crate::forward::{self, Blocks, Observer, Pairs, Quantizer};
use crate::linalg::gemm::{Update, gemm};
use crate::linalg::matrix::{MatMut, MatRef};
use crate::linalg::moments;
use crate::model::transform::Scratch;
use crate::noise::Noise;
use crate::progress::Progress;
use crate::quant::{self, recipe};

/// Strength of the correction of the inputs. The full strength gains nothing on other text than that of the calibration.
const ALPHA: f32 = 0.5;
/// Strength of the correction of the residual stream.
const BETA: f32 = 0.5;
/// Number of weights that are corrected together.
const PANEL: usize = 1 << 22;
/// Tokens whose differences are in memory at a time: whole pieces of the sums of a product, so that the number changes no bit.
const TOKENS: usize = 1024;
/// Rows that a thread quantizes at a time.
const ROWS: usize = 64;
/// Weights that a thread reads at a time.
const PIECE: usize = 1 << 16;

/// Runs the model of `plan` on chunks of tokens, quantizes its matrices to the types of the plan, and writes the calibration
/// file.
///
/// # Errors
/// As [`forward::run_two_streams`], and the errors of the output.
pub fn quantize(
    plan: &Plan,
    tokens: &[Vec<u32>],
    (info, output): (Info, &Output),
    effort: &Effort,
    options: &forward::RunOptions,
) -> Result<Calibration> {
    effort.feedback.check()?;
    let shapes: Vec<_> = plan.model.tensors.iter().map(|t| (t.name.as_str(), t.ne.as_slice())).collect();
    let block = info.block as usize;
    let accumulator = Accumulator::create_with(&shapes, info, output, corrected(plan).count())?;
    let embedding = plan.tensors.iter().find(|t| t.bound.name == EMBEDDING && t.copy.is_none());
    let embedding = embedding.map_or(GgmlType::F32, |t| t.ty);
    let mut corrector =
        Corrector { plan, effort, block, accumulator, open: None, progress: options.progress };
    forward::run_two_streams(&plan.model, tokens, &mut corrector, options, embedding)?;
    corrector.accumulator.finish()
}

/// The table that may be the output matrix as well. It is looked up, so its own error counts too.
const EMBEDDING: &str = "token_embd.weight";

/// Returns the tensors of a plan that [`quantize`] corrects. The others of the types of [`feedback`] are quantized under the
/// inputs that the original model gives them.
pub fn corrected(plan: &Plan) -> impl Iterator<Item = &PlannedTensor> {
    plan.tensors.iter().filter(|t| {
        let name = &t.bound.name;
        let is_matrix =
            t.bound.ne.iter().skip(2).all(|&n| n == 1) && t.bound.ne.get(1).is_some_and(|&n| n > 1);
        let is_reached = recipe::layer_of(name).is_some() || name == "output.weight";
        !t.is_unchanged() && feedback::supports(t.ty) && is_matrix && is_reached
    })
}

/// Sums over the tokens of one input.
struct Sums {
    first: String,
    n: usize,
    block: usize,
    tokens: u64,
    /// `y^T y` in diagonal blocks, `[n, block]`: the upper triangle of each.
    moments: Vec<f32>,
    /// `(x - y)^T y` in the same blocks.
    inputs: Vec<f32>,
    /// `(h - g)^T y`, `[width, n]`; empty where the output is not added to the residual stream.
    residual: Vec<f32>,
}

impl Sums {
    fn new(first: &str, n: usize, block: usize) -> Self {
        let zeros = || vec![0.0; n * block];
        let (moments, inputs, residual) = (zeros(), zeros(), Vec::new());
        Self { first: first.into(), n, block, tokens: 0, moments, inputs, residual }
    }

    fn add(&mut self, &Pairs { n, x, y, missing }: &Pairs) {
        let tokens = y.len() / n;
        self.tokens += tokens as u64;
        moments::accumulate(y, n, self.block, &mut self.moments);
        for (x, y) in x.chunks(TOKENS * n).zip(y.chunks(TOKENS * n)) {
            let difference: Vec<f32> = x.par_iter().zip(y).map(|(x, y)| x - y).collect();
            let (difference, y) = (rows_of(&difference, n), rows_of(y, n));
            for (start, len) in blocks(n, self.block) {
                let to = &mut self.inputs[start * self.block..];
                let to = MatMut::from_row_major_slice_with_stride(to, len, len, self.block);
                gemm(difference.subcols(start, len).transpose(), y.subcols(start, len), to, Update::Add);
            }
        }
        if let Some(missing) = missing {
            let width = missing.len() / tokens;
            self.residual.resize(width * n, 0.0);
            let to = MatMut::from_row_major_slice(&mut self.residual, width, n);
            gemm(rows_of(missing, width).transpose(), rows_of(y, n), to, Update::Add);
        }
    }

    /// Returns the factorized moments; `None` if all inputs are zero.
    fn factorized(&mut self) -> Result<Option<FactorizedMoments>> {
        let (n, block, tokens) = (self.n, self.block, self.tokens);
        let mut values = std::mem::take(&mut self.moments);
        moments::symmetrize(&mut values, n, block, tokens);
        let mut all = values.iter().chain(&self.inputs).chain(&self.residual);
        if all.any(|v| !v.is_finite()) {
            let what = "has inputs that overflow in the forward pass";
            let fix = "Check that the weights are finite, or use --effort fast, which needs no calibration";
            return Err(Error::model(Place::named_tensor(&self.first), what, fix));
        }
        let mut moments = SecondMoments { n, block, values, tokens };
        moments.shrink_to_diagonal(feedback::shrinkage(block, tokens));
        FactorizedMoments::new(moments, feedback::DAMPING)
    }
}

fn rows_of(values: &[f32], n: usize) -> MatRef<'_> {
    MatRef::from_row_major_slice(values, values.len() / n, n)
}

struct Corrector<'a> {
    plan: &'a Plan,
    effort: &'a Effort,
    /// Side of the blocks of the moments that was asked for.
    block: usize,
    /// Writes the calibration file, and sums what is not corrected.
    accumulator: Accumulator,
    open: Option<Sums>,
    progress: &'a Progress,
}

impl Corrector<'_> {
    fn find(&self, name: &str) -> Option<&PlannedTensor> {
        corrected(self.plan).find(|t| t.bound.name == name)
    }

    /// Quantizes a matrix.
    fn quantize(
        &self,
        tensor: &PlannedTensor,
        sums: &Sums,
        factor: Option<&FactorizedMoments>,
    ) -> Result<(Quantized, Blocks)> {
        let (n, ty) = (sums.n, tensor.ty);
        let rows = tensor.bound.n_weights() as usize / n;
        let row_bytes = ty.row_bytes(n as u64).expect("rows are whole blocks") as usize;
        let mut bytes = vec![0; rows * row_bytes];
        let noise = Noise::new(self.effort.seed, &format!("dither {}", tensor.bound.name));
        let options = chunk::solver_options(self.effort, self.plan.layers(), &tensor.bound.name);
        let options = match factor {
            Some(factor) => self.with_dither(tensor, sums, factor, &options, &noise)?,
            None => options,
        };
        let every = (rows as u64 / chunk::ENERGY_ROWS).clamp(1, chunk::ENERGY_EVERY) as usize;
        let (mut error, mut energy, mut sampled) = (0.0, 0.0, 0);
        let panel = (PANEL / n).max(1).next_multiple_of(ROWS);
        for first in (0..rows).step_by(panel) {
            self.progress.check()?;
            let count = panel.min(rows - first);
            let weights = self.target(tensor, sums, factor, first, count)?;
            let out = &mut bytes[first * row_bytes..(first + count) * row_bytes];
            let Some(factor) = factor else {
                quant::quantize(ty, &weights, n, None, out);
                continue;
            };
            let pieces = weights.par_chunks(ROWS * n).zip(out.par_chunks_mut(ROWS * row_bytes)).enumerate();
            let costs: Vec<f64> = pieces
                .map(|(i, (weights, out))| {
                    let rows = feedback::Rows { weights, noise: &noise, first: (first + i * ROWS) as u64 };
                    feedback::quantize_rows(ty, rows, factor, &options, out)
                })
                .collect();
            error += costs.iter().sum::<f64>();
            for (row, _) in weights.chunks_exact(n).zip(first..).filter(|(_, i)| i % every == 0) {
                energy += factor.energy(row);
                sampled += 1;
            }
        }
        let (name, ty_name) = (tensor.bound.name.clone(), ty.name().to_string());
        let of = Quantized { tensor: name, r#type: ty_name, error, rows: rows as u64, energy, sampled };
        Ok((of, Blocks { ty, bytes }))
    }

    /// Returns `options` with the amplitude of the dither that suits a tensor.
    fn with_dither(
        &self,
        tensor: &PlannedTensor,
        sums: &Sums,
        factor: &FactorizedMoments,
        options: &SolverOptions,
        noise: &Noise,
    ) -> Result<SolverOptions> {
        let rows = tensor.bound.n_weights() as usize / sums.n;
        let count = rows.min(chunk::SAMPLE_ROWS as usize);
        let first = (rows - count) / 2;
        let weights = self.target(tensor, sums, Some(factor), first, count)?;
        let rows = feedback::Rows { weights: &weights, noise, first: first as u64 };
        Ok(feedback::choose_dither(tensor.ty, rows, factor, options))
    }

    /// Returns rows of the matrix that is to be rounded.
    fn target(
        &self,
        tensor: &PlannedTensor,
        sums: &Sums,
        factor: Option<&FactorizedMoments>,
        first: usize,
        count: usize,
    ) -> Result<Vec<f32>> {
        let n = sums.n;
        let mut weights = vec![0.0; count * n];
        let rows = (PIECE / n).max(1) * n;
        weights.par_chunks_mut(rows).enumerate().try_for_each_init(
            Scratch::default,
            |scratch, (i, out)| {
                let start = (first * n + i * rows) as u64;
                tensor.bound.source.read(&self.plan.model.source, start, out, scratch)
            },
        )?;
        if let Some(factor) = factor {
            let mut change = vec![0.0; count * n];
            for (start, len) in blocks(n, sums.block) {
                let inputs = &sums.inputs[start * sums.block..];
                let inputs = MatRef::from_slice_with_strides(inputs, len, len, sums.block, 1);
                let to = &mut change[start..];
                let to = MatMut::from_row_major_slice_with_stride(to, count, len, n);
                gemm(rows_of(&weights, n).subcols(start, len), inputs, to, Update::Set);
            }
            let mean = 1.0 / sums.tokens as f32;
            change.par_iter_mut().for_each(|c| *c *= ALPHA * mean);
            if !sums.residual.is_empty() {
                let residual = &sums.residual[first * n..(first + count) * n];
                change.par_iter_mut().zip(residual).for_each(|(c, r)| *c += BETA * mean * r);
            }
            factor.multiply_by_inverse(&mut change);
            weights.par_iter_mut().zip(&change).for_each(|(w, c)| *w += c);
        }
        let limit = quant::max_abs(tensor.ty);
        if let Some(bad) = weights.iter().find(|w| !w.is_finite()) {
            let what = format!("has a weight that becomes {bad} when it is corrected");
            let fix = "Check that the weights are finite, or use --effort srd";
            return Err(Error::model(Place::named_tensor(&tensor.bound.name), what, fix));
        }
        weights.par_iter_mut().for_each(|w| *w = w.clamp(-limit, limit));
        Ok(weights)
    }
}

impl Observer for Corrector<'_> {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        self.accumulator.inputs(tensors, expert, n, x)
    }
}

impl Quantizer for Corrector<'_> {
    fn quantizes(&self, tensors: &[&str]) -> bool {
        tensors.iter().any(|name| self.find(name).is_some())
    }

    fn pairs(&mut self, tensors: &[&str], pairs: &Pairs) -> Result<()> {
        let others: Vec<&str> = tensors.iter().copied().filter(|name| self.find(name).is_none()).collect();
        self.accumulator.inputs(&others, None, pairs.n, pairs.x)?;
        let block = block_side(self.block, pairs.n)?;
        self.open.get_or_insert_with(|| Sums::new(tensors[0], pairs.n, block)).add(pairs);
        Ok(())
    }

    fn quantized(&mut self, tensors: &[&str]) -> Result<Vec<Option<Blocks>>> {
        let fail = || Error::model(Place::named_tensor(tensors[0]), "has no inputs", "Report this");
        let mut sums = self.open.take().filter(|sums| sums.first == tensors[0]).ok_or_else(fail)?;
        let factor = sums.factorized()?;
        let mut all = Vec::new();
        for name in tensors {
            let made = match self.find(name) {
                Some(tensor) => Some(self.quantize(tensor, &sums, factor.as_ref())?),
                None => None,
            };
            all.push(match made {
                Some((of, blocks)) => {
                    self.accumulator.add_quantized(of, &blocks.bytes)?;
                    Some(blocks)
                }
                None => None,
            });
        }
        Ok(all)
    }
}
