//! Quantizes the matrices of a model one after another, each for the inputs that the quantized matrices before it give it (effort
//! max).
//!
//! Let x be the inputs of a matrix W in the original model and y those in the model whose earlier matrices are quantized, h and
//! g the residual streams that the output of W is added to, and H the second moments of y, shrunk and damped as for
//! [`feedback`]. SRD rounds, under H, the matrix
//!
//! `W + a W E[(x - y) y^T] H^-1 + b E[(h - g) y^T] H^-1`
//!
//! instead of W: with both factors 1 it would be the matrix whose outputs are nearest to what is missing, on the tokens of the
//! calibration. The second term is that of GPTAQ (Li et al. 2025). The third one is for matrices whose output is added to the
//! residual stream. The strengths a and b are those that suit tokens which are held out from the sums.
//! `docs/decisions/0013-asymmetric-target.md` and `0016-effort-max.md` have the measurements.
//!
//! The quantized matrices stand in the calibration file, beside the second moments of the inputs of all other matrices: experts,
//! tied embeddings, and matrices of types without feedback. [`run`](crate::convert::run) copies them from there.

use std::ops::Range;

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

/// Strength of both corrections where no tokens can be held out. The full strength gains nothing on other text than that of the
/// calibration.
const STRENGTH: f32 = 0.5;
/// Number of tokens that are held out, about.
const HELD_OUT: u64 = 1024;
/// The share of the product of the squares of two corrections below which they count as parallel.
const SINGULAR: f64 = 1e-9;
/// Rows of a matrix on which the strengths are chosen.
const SAMPLED: usize = 256;
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
    let held_out = HeldOut::new(info.tokens, info.ctx);
    let embedding = embedding_type(plan);
    Accumulator::create_with(&shapes, info, output, corrected(plan).count())?.fill(|accumulator| {
        let progress = options.progress;
        let mut corrector = Corrector { plan, effort, block, held_out, accumulator, open: None, progress };
        forward::run_two_streams(&plan.model, tokens, &mut corrector, options, embedding)
    })
}

/// Returns the type to which the second stream rounds the embeddings that it looks up.
pub fn embedding_type(plan: &Plan) -> GgmlType {
    let embedding = plan.tensors.iter().find(|t| t.bound.name == recipe::EMBEDDING && t.copy.is_none());
    embedding.map_or(GgmlType::F32, |t| t.ty)
}

/// Returns the tensors of a plan that [`quantize`] corrects. The others of the types of [`feedback`] are quantized under the
/// inputs that the original model gives them.
pub fn corrected(plan: &Plan) -> impl Iterator<Item = &PlannedTensor> {
    plan.tensors.iter().filter(|t| {
        let name = &t.bound.name;
        let is_matrix =
            t.bound.ne.iter().skip(2).all(|&n| n == 1) && t.bound.ne.get(1).is_some_and(|&n| n > 1);
        let is_reached = recipe::layer_of(name).is_some() || name == recipe::OUTPUT;
        !t.is_unchanged() && feedback::supports(t.ty) && is_matrix && is_reached
    })
}

/// Which tokens the strengths of the corrections are chosen on: chunks that the sums do not have when this is done.
#[derive(Clone, Copy)]
struct HeldOut {
    /// Tokens of a chunk.
    ctx: u64,
    /// One chunk in so many is held out: the last one of them. None if there is one chunk.
    every: Option<u64>,
}

impl HeldOut {
    fn new(tokens: u64, ctx: u64) -> Self {
        let chunks = tokens.div_ceil(ctx.max(1));
        let at_most = chunks.div_ceil(HELD_OUT.div_ceil(ctx.max(1)));
        Self { ctx, every: (chunks > 1).then(|| at_most.max(8).min(chunks)) }
    }

    /// Returns the ranges of `count` tokens from number `first` on that are held out or are not.
    fn ranges(self, first: u64, count: u64) -> Vec<(Range<usize>, bool)> {
        let mut all = Vec::new();
        let mut at = first;
        while at < first + count {
            let chunk = at / self.ctx;
            let end = ((chunk + 1) * self.ctx).min(first + count);
            let is_held_out = self.every.is_some_and(|every| chunk % every + 1 == every);
            all.push(((at - first) as usize..(end - first) as usize, is_held_out));
            at = end;
        }
        all
    }
}

/// The inputs of tokens that are held out.
#[derive(Default)]
struct Rows {
    /// `x - y`, `y`, and `h - g`.
    differences: Vec<f32>,
    inputs: Vec<f32>,
    missing: Vec<f32>,
}

/// The products aa, ab, bb, ae and be of the two corrections a and b of outputs and of the error e that they are for.
type Products = [f64; 5];

/// The strengths of the two corrections of a matrix.
#[derive(Clone, Copy)]
struct Strengths {
    inputs: f32,
    residual: f32,
}

/// Sums over the tokens of one input.
struct Sums {
    first: String,
    n: usize,
    block: usize,
    /// Number of tokens seen, and of those in the sums.
    seen: u64,
    tokens: u64,
    held_out: HeldOut,
    rows: Rows,
    /// `y^T y` in diagonal blocks, `[n, block]`: the upper triangle of each.
    moments: Vec<f32>,
    /// `(x - y)^T y` in the same blocks.
    inputs: Vec<f32>,
    /// `(h - g)^T y`, `[width, n]`; empty where the output is not added to the residual stream.
    residual: Vec<f32>,
}

impl Sums {
    fn new(first: &str, n: usize, block: usize, held_out: HeldOut) -> Self {
        let zeros = || vec![0.0; n * block];
        let (moments, inputs, residual) = (zeros(), zeros(), Vec::new());
        let (first, rows) = (first.into(), Rows::default());
        Self { first, n, block, seen: 0, tokens: 0, held_out, rows, moments, inputs, residual }
    }

    fn add(&mut self, pairs: &Pairs) {
        let tokens = pairs.y.len() / self.n;
        // Runs of tokens that are in the sums are added together.
        let mut run = Range::<usize>::default();
        for (range, is_held_out) in self.held_out.ranges(self.seen, tokens as u64) {
            if is_held_out {
                let (differences, y, missing) = of_tokens(pairs, &range);
                self.rows.differences.extend(differences);
                self.rows.inputs.extend_from_slice(y);
                self.rows.missing.extend_from_slice(missing);
            } else if range.start == run.end && run.len() + range.len() <= TOKENS {
                run.end = range.end;
            } else {
                self.add_run(pairs, &run);
                run = range;
            }
        }
        self.add_run(pairs, &run);
        self.seen += tokens as u64;
    }

    fn add_run(&mut self, pairs: &Pairs, run: &Range<usize>) {
        if !run.is_empty() {
            let (differences, y, missing) = of_tokens(pairs, run);
            self.add_rows(&differences, y, missing);
        }
    }

    fn add_rows(&mut self, differences: &[f32], y: &[f32], missing: &[f32]) {
        let n = self.n;
        let tokens = y.len() / n;
        self.tokens += tokens as u64;
        moments::accumulate(y, n, self.block, &mut self.moments);
        let (differences, y) = (rows_of(differences, n), rows_of(y, n));
        for (start, len) in blocks(n, self.block) {
            let to = &mut self.inputs[start * self.block..];
            let to = MatMut::from_row_major_slice_with_stride(to, len, len, self.block);
            gemm(differences.subcols(start, len).transpose(), y.subcols(start, len), to, Update::Add);
        }
        if !missing.is_empty() {
            let width = missing.len() / tokens;
            self.residual.resize(width * n, 0.0);
            let to = MatMut::from_row_major_slice(&mut self.residual, width, n);
            gemm(rows_of(missing, width).transpose(), y, to, Update::Add);
        }
    }

    /// Adds the tokens that were held out to the sums.
    fn add_held_out(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        if !rows.inputs.is_empty() {
            self.add_rows(&rows.differences, &rows.inputs, &rows.missing);
        }
    }

    /// Returns the factorized moments of sums of `y^T y`; `None` if all inputs are zero.
    fn factorized(&self, mut values: Vec<f32>) -> Result<Option<FactorizedMoments>> {
        let (n, block, tokens) = (self.n, self.block, self.tokens);
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

/// Returns `x - y`, y and what is missing of a run of tokens.
fn of_tokens<'a>(pairs: &Pairs<'a>, run: &Range<usize>) -> (Vec<f32>, &'a [f32], &'a [f32]) {
    let of = |n: usize| run.start * n..run.end * n;
    let (x, y) = (&pairs.x[of(pairs.n)], &pairs.y[of(pairs.n)]);
    let width = pairs.missing.map_or(0, |missing| missing.len() / (pairs.y.len() / pairs.n));
    let missing = pairs.missing.map_or(&[][..], |missing| &missing[of(width)]);
    (x.par_iter().zip(y).map(|(x, y)| x - y).collect(), y, missing)
}

fn rows_of(values: &[f32], n: usize) -> MatRef<'_> {
    MatRef::from_row_major_slice(values, values.len() / n, n)
}

struct Corrector<'a> {
    plan: &'a Plan,
    effort: &'a Effort,
    /// Side of the blocks of the moments that was asked for.
    block: usize,
    held_out: HeldOut,
    /// Writes the calibration file, and sums what is not corrected.
    accumulator: &'a mut Accumulator,
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
        strengths: Strengths,
    ) -> Result<(Quantized, Blocks)> {
        let (n, ty) = (sums.n, tensor.ty);
        let rows = tensor.bound.n_weights() as usize / n;
        let row_bytes = ty.row_bytes(n as u64).expect("rows are whole blocks") as usize;
        let mut bytes = vec![0; rows * row_bytes];
        let noise = Noise::new(self.effort.seed, &format!("dither {}", tensor.bound.name));
        let options = chunk::solver_options(self.effort, self.plan.layers(), &tensor.bound.name);
        let options = match factor {
            Some(factor) => self.with_dither(tensor, sums, (factor, strengths), &options, &noise)?,
            None => options,
        };
        let every = (rows as u64 / chunk::ENERGY_ROWS).clamp(1, chunk::ENERGY_EVERY) as usize;
        let (mut error, mut energy, mut sampled) = (0.0, 0.0, 0);
        let panel = (PANEL / n).max(1).next_multiple_of(ROWS);
        for first in (0..rows).step_by(panel) {
            self.progress.check()?;
            let count = panel.min(rows - first);
            let weights = self.target(tensor, sums, factor.map(|f| (f, strengths)), first, count)?;
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
            let rows = weights.chunks_exact(n).zip(first..).filter(|(_, i)| i.is_multiple_of(every));
            let rows: Vec<&[f32]> = rows.map(|(row, _)| row).collect();
            let energies: Vec<Vec<f64>> =
                rows.par_chunks(ROWS).map(|rows| factor.energies(rows.iter().copied())).collect();
            energy += energies.iter().flatten().sum::<f64>();
            sampled += rows.len() as u64;
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
        (factor, strengths): (&FactorizedMoments, Strengths),
        options: &SolverOptions,
        noise: &Noise,
    ) -> Result<SolverOptions> {
        let rows = tensor.bound.n_weights() as usize / sums.n;
        let count = rows.min(chunk::SAMPLE_ROWS as usize);
        let first = (rows - count) / 2;
        let weights = self.target(tensor, sums, Some((factor, strengths)), first, count)?;
        let rows = feedback::Rows { weights: &weights, noise, first: first as u64 };
        Ok(feedback::choose_dither(tensor.ty, rows, factor, options))
    }

    /// Returns the strengths that suit a matrix: those with which the corrections, made without the tokens that are held out,
    /// bring the outputs of rows of the matrix nearest to what they should be on these tokens.
    fn strengths(
        &self,
        tensor: &PlannedTensor,
        sums: &Sums,
        factor: &FactorizedMoments,
    ) -> Result<Strengths> {
        let (n, held) = (sums.n, &sums.rows);
        let tokens = held.inputs.len() / n;
        let rows = tensor.bound.n_weights() as usize / n;
        let pieces = rows.div_ceil(ROWS).min(SAMPLED / ROWS);
        // For each token the products of the two changes and of the error, and the square of the error.
        let mut of = vec![(Products::default(), 0.0); tokens];
        for piece in 0..pieces {
            let first = (piece * rows / pieces).min(rows.saturating_sub(ROWS));
            let count = ROWS.min(rows - first);
            let weights = self.weights(tensor, n, first, count)?;
            let [a, b] = corrections(&weights, sums, first, count).map(|mut change| {
                factor.multiply_by_inverse(&mut change);
                change
            });
            let product = |matrix: &[f32], inputs: &[f32]| {
                let mut out = vec![0.0; tokens * count];
                if !matrix.is_empty() {
                    let to = MatMut::from_row_major_slice(&mut out, tokens, count);
                    gemm(rows_of(inputs, n), rows_of(matrix, n).transpose(), to, Update::Set);
                }
                out
            };
            let (a, b) = (product(&a, &held.inputs), product(&b, &held.inputs));
            let mut e = product(&weights, &held.differences);
            if !held.missing.is_empty() {
                let width = held.missing.len() / tokens;
                for (e, missing) in e.chunks_exact_mut(count).zip(held.missing.chunks_exact(width)) {
                    e.iter_mut().zip(&missing[first..]).for_each(|(e, m)| *e += m);
                }
            }
            let outputs = a.par_chunks(count).zip(b.par_chunks(count)).zip(e.par_chunks(count));
            of.par_iter_mut().zip(outputs).for_each(|((of, square), ((a, b), e))| {
                for (i, v) in [dot(a, a), dot(a, b), dot(b, b), dot(a, e), dot(b, e)].into_iter().enumerate()
                {
                    of[i] += v;
                }
                *square += dot(e, e);
            });
        }
        let (inputs, residual) = best_strengths(weighted(&of));
        Ok(Strengths { inputs: inputs as f32, residual: residual as f32 })
    }

    /// Reads rows of a matrix.
    fn weights(&self, tensor: &PlannedTensor, n: usize, first: usize, count: usize) -> Result<Vec<f32>> {
        let mut weights = vec![0.0; count * n];
        let rows = (PIECE / n).max(1) * n;
        weights.par_chunks_mut(rows).enumerate().try_for_each_init(
            Scratch::default,
            |scratch, (i, out)| {
                let start = (first * n + i * rows) as u64;
                tensor.bound.source.read(&self.plan.model.source, start, out, scratch)
            },
        )?;
        Ok(weights)
    }

    /// Returns rows of the matrix that is to be rounded.
    fn target(
        &self,
        tensor: &PlannedTensor,
        sums: &Sums,
        factor: Option<(&FactorizedMoments, Strengths)>,
        first: usize,
        count: usize,
    ) -> Result<Vec<f32>> {
        let n = sums.n;
        let mut weights = self.weights(tensor, n, first, count)?;
        if let Some((factor, by)) = factor {
            let [mut change, residual] = corrections(&weights, sums, first, count);
            change.par_iter_mut().for_each(|c| *c *= by.inputs);
            change.par_iter_mut().zip(residual).for_each(|(c, r)| *c += by.residual * r);
            factor.multiply_by_inverse(&mut change);
            weights.par_iter_mut().zip(change).for_each(|(w, c)| *w += c);
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

fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

/// Adds up the products of tokens. A token whose error is far above the median counts by the share of the error that is taken away:
/// the first token of a chunk, whose inputs may be a thousand times as large, would decide alone.
fn weighted(of: &[(Products, f64)]) -> Products {
    let mut squares: Vec<f64> = of.iter().map(|(_, square)| *square).collect();
    squares.sort_by(f64::total_cmp);
    let median = squares.get(squares.len() / 2).copied().unwrap_or_default();
    let mut sums = [0.0; 5];
    for (products, square) in of {
        let weight = 1.0 / (square + median).max(f64::MIN_POSITIVE);
        sums.iter_mut().zip(products).for_each(|(sum, v)| *sum += weight * v);
    }
    sums
}

/// Returns what is left of `|e|^2` beyond `|e|^2` itself when `s a + t b` is taken from e.
fn cost([aa, ab, bb, ae, be]: Products, (s, t): (f64, f64)) -> f64 {
    s * s * aa + 2.0 * s * t * ab + t * t * bb - 2.0 * (s * ae + t * be)
}

/// Returns s and t, each from 0 to 1, with the least [`cost`].
fn best_strengths(products: Products) -> (f64, f64) {
    let [aa, ab, bb, ae, be] = products;
    let ratio = |x: f64, y: f64| if y > 0.0 { (x / y).clamp(0.0, 1.0) } else { 0.0 };
    // The least of a convex function on a square is inside or on one of the four sides.
    let mut all = Vec::new();
    for fixed in [0.0, 1.0] {
        all.push((fixed, ratio(be - fixed * ab, bb)));
        all.push((ratio(ae - fixed * ab, aa), fixed));
    }
    let determinant = aa * bb - ab * ab;
    if determinant > SINGULAR * aa * bb {
        let inside = ((ae * bb - be * ab) / determinant, (be * aa - ae * ab) / determinant);
        if [inside.0, inside.1].iter().all(|s| (0.0..=1.0).contains(s)) {
            all.push(inside);
        }
    }
    let less = |a: &(f64, f64), b: &(f64, f64)| cost(products, *a).total_cmp(&cost(products, *b));
    all.into_iter().min_by(less).unwrap_or_default()
}

/// Returns the two corrections of rows of a matrix at full strength, times H. The second one is empty where the output is not added
/// to the residual stream.
fn corrections(weights: &[f32], sums: &Sums, first: usize, count: usize) -> [Vec<f32>; 2] {
    let n = sums.n;
    let mut change = vec![0.0; count * n];
    for (start, len) in blocks(n, sums.block) {
        let inputs = &sums.inputs[start * sums.block..];
        let inputs = MatRef::from_slice_with_strides(inputs, len, len, sums.block, 1);
        let to = MatMut::from_row_major_slice_with_stride(&mut change[start..], count, len, n);
        gemm(rows_of(weights, n).subcols(start, len), inputs, to, Update::Set);
    }
    let residual = match sums.residual.is_empty() {
        true => Vec::new(),
        false => sums.residual[first * n..(first + count) * n].to_vec(),
    };
    let mean = 1.0 / sums.tokens as f32;
    [change, residual].map(|mut change| {
        change.par_iter_mut().for_each(|c| *c *= mean);
        change
    })
}

impl Observer for Corrector<'_> {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        self.accumulator.inputs(tensors, expert, n, x)
    }

    fn group(&mut self, is_last: bool) {
        self.accumulator.group(is_last);
    }

    // Behind a layer no input waits for the rest of its tokens, so that the accumulator has all that is to be kept.
    fn layers_done(&mut self, layers: usize, states: &[&[f32]]) -> Result<()> {
        self.accumulator.layers_done(layers, states)
    }

    fn resume(&mut self, progress: &Progress) -> Result<Option<(usize, Vec<Vec<f32>>)>> {
        self.accumulator.resume(progress)
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
        let held_out = self.held_out;
        self.open.get_or_insert_with(|| Sums::new(tensors[0], pairs.n, block, held_out)).add(pairs);
        Ok(())
    }

    fn quantized(&mut self, tensors: &[&str]) -> Result<Vec<Option<Blocks>>> {
        let fail = || Error::model(Place::named_tensor(tensors[0]), "has no inputs", "Report this");
        let mut sums = self.open.take().filter(|sums| sums.first == tensors[0]).ok_or_else(fail)?;
        let mut strengths = vec![Strengths { inputs: STRENGTH, residual: STRENGTH }; tensors.len()];
        if !sums.rows.inputs.is_empty() {
            if let Some(factor) = sums.factorized(sums.moments.clone())? {
                for (name, to) in tensors.iter().zip(&mut strengths) {
                    if let Some(tensor) = self.find(name) {
                        *to = self.strengths(tensor, &sums, &factor)?;
                    }
                }
            }
            sums.add_held_out();
        }
        let moments = std::mem::take(&mut sums.moments);
        let factor = sums.factorized(moments)?;
        let mut all = Vec::new();
        for (name, strengths) in tensors.iter().zip(strengths) {
            let made = match self.find(name) {
                Some(tensor) => Some(self.quantize(tensor, &sums, factor.as_ref(), strengths)?),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strengths_are_the_best_ones_from_0_to_1() {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let (a, b) = ([1.0, 0.5, -0.5], [0.25, 1.0, 0.5]);
        for e in [[0.5, 0.7, 0.1], [-1.0, 2.0, 0.0], [3.0, 3.0, 0.0], [0.6, -0.2, 0.3], [-1.0, -1.0, 0.0]] {
            let products = [dot(&a, &a), dot(&a, &b), dot(&b, &b), dot(&a, &e), dot(&b, &e)];
            let found = best_strengths(products);
            let grid =
                (0..=100).flat_map(|s| (0..=100).map(move |t| (f64::from(s) / 100.0, f64::from(t) / 100.0)));
            let least = grid.map(|by| cost(products, by)).fold(f64::INFINITY, f64::min);
            assert!((0.0..=1.0).contains(&found.0) && (0.0..=1.0).contains(&found.1), "{found:?}");
            assert!(cost(products, found) <= least + 1e-12, "{found:?} for {e:?}");
        }
        // Without a second correction, and without any.
        assert_eq!(best_strengths([2.0, 0.0, 0.0, 1.0, 0.0]).0, 0.5);
        assert_eq!(best_strengths([0.0; 5]), (0.0, 0.0));
    }

    #[test]
    fn a_token_with_large_errors_does_not_decide_alone() {
        // Half of the correction suits nine tokens, and all of it suits one whose values are a thousand times as large.
        let token = |scale: f64, best: f64| ([scale, 0.0, 0.0, best * scale, 0.0], scale);
        let mut of = vec![token(1.0, 0.5); 9];
        of.push(token(1e6, 1.0));
        let (strength, _) = best_strengths(weighted(&of));
        assert!((0.55..0.65).contains(&strength), "{strength}");
        assert_eq!(weighted(&[]), Products::default());
    }

    #[test]
    fn some_chunks_are_held_out_and_the_ranges_are_all_tokens() {
        for (tokens, ctx, held) in
            [(4096, 512, 512), (16384, 512, 1024), (2048, 512, 512), (1000, 512, 488), (512, 512, 0)]
        {
            let of = HeldOut::new(tokens, ctx);
            let ranges: Vec<_> = [(0, tokens / 3), (tokens / 3, tokens - tokens / 3)]
                .into_iter()
                .flat_map(|(first, count)| {
                    of.ranges(first, count)
                        .into_iter()
                        .map(move |(range, held)| (first as usize + range.start, range.len(), held))
                })
                .collect();
            let mut at = 0;
            for &(start, len, _) in &ranges {
                assert_eq!(start, at);
                at += len;
            }
            assert_eq!(at, tokens as usize);
            assert_eq!(ranges.iter().filter(|r| r.2).map(|r| r.1).sum::<usize>(), held, "{tokens} tokens");
        }
    }
}
