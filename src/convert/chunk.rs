//! Converts one chunk: source bytes in, blocks out.

use rayon::prelude::*;

use crate::convert::factor_cache::FactorCache;
use crate::convert::options::{Effort, RunOptions};
use crate::convert::planned::{Plan, PlannedTensor};
use crate::convert::report::RowErrors;
use crate::convert::units::{Chunk, whole_blocks};
use crate::dtype::GgmlType;
use crate::dtype::SourceType;
use crate::error::{Error, Place, Result};
use crate::feedback::{self, FactorizedMoments};
use crate::formats::calibration::Moments;
use crate::formats::decode;
use crate::model::kept;
use crate::model::source::Encoding;
use crate::model::transform::Scratch;
use crate::noise::Noise;
use crate::quant::{self, recipe};

/// Weights in a chunk. The f32 form of a chunk and the bytes read and written for it fit into the L2 cache of a core.
const CHUNK_WEIGHTS: u64 = 32 * 1024;
/// Bytes that a worker holds for each weight of a chunk: source (at most 4), f32, output (at most 4), and for a container
/// the values of the base, their steps and the codes of the residual.
const BYTES_PER_WEIGHT: u64 = 20;
/// Rows of a calibrated tensor in a chunk, so that one fetch of the factors from memory serves many rows.
const CALIBRATED_ROWS: u64 = 64;
/// Rows on which the amplitude of the dither is chosen.
pub(super) const SAMPLE_ROWS: u64 = 16;
/// Rows of a tensor from which the mean energy of its output is taken, at least; they are spread evenly over the tensor.
pub(super) const ENERGY_ROWS: u64 = 256;
/// One row in so many is taken at least. All rows of a large tensor would take a tenth of the time of the conversion.
pub(super) const ENERGY_EVERY: u64 = 32;
/// Bytes of factors that are kept in case that another tensor has the same inputs.
const FACTOR_BYTES: u64 = 256 << 20;

/// The buffers of one worker.
#[derive(Default)]
pub struct Buffers {
    scratch: Scratch,
    weights: Vec<f32>,
    /// The scales of weights that are packed.
    scales: Vec<f32>,
    blocks: Vec<u8>,
    /// Number of weights that were replaced since the last [`Buffers::take_replaced`].
    replaced: u64,
    /// What rounding cost since the last [`Buffers::take_errors`].
    errors: RowErrors,
}

impl Buffers {
    /// Returns how many weights were replaced, because they are not finite or too large, since the last call.
    pub fn take_replaced(&mut self) -> u64 {
        std::mem::take(&mut self.replaced)
    }

    /// Returns what rounding cost the rows whose inputs are known, since the last call.
    pub fn take_errors(&mut self) -> RowErrors {
        std::mem::take(&mut self.errors)
    }

    /// Returns the blocks of the last chunk.
    pub fn blocks(&self) -> &[u8] {
        &self.blocks
    }

    /// Returns the weights that the last chunk was made from. There are none where the blocks are a copy of the source.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }
}

/// Converts the chunks of a plan. All workers share one converter.
pub struct Converter<'a> {
    plan: &'a Plan,
    layers: u32,
    /// Largest number of weights in a chunk.
    chunk: u64,
    effort: &'a Effort,
    allow_nonfinite: bool,
    factors: FactorCache,
}

impl<'a> Converter<'a> {
    /// A converter for `threads` workers.
    pub fn new(plan: &'a Plan, options: &'a RunOptions, threads: usize) -> Self {
        let share = options.max_memory / threads as u64 / BYTES_PER_WEIGHT;
        Self {
            plan,
            layers: plan.layers(),
            chunk: whole_blocks(share.min(CHUNK_WEIGHTS)),
            effort: &options.effort,
            allow_nonfinite: options.allow_nonfinite,
            factors: FactorCache::new(FACTOR_BYTES),
        }
    }

    /// Returns the largest number of weights in a chunk of `tensor`. Chunks of calibrated tensors are whole rows.
    pub fn chunk_weights(&self, tensor: &PlannedTensor) -> u64 {
        match tensor.moments {
            Some(_) => self.chunk.max(CALIBRATED_ROWS * tensor.bound.row_len()),
            None => self.chunk,
        }
    }

    /// Makes the blocks of a whole tensor, on rayon's current pool.
    ///
    /// # Errors
    /// As [`Converter::convert`].
    pub fn whole(&self, tensor: &PlannedTensor) -> Result<Vec<u8>> {
        let bytes = |weights: u64| tensor.ty.row_bytes(weights).expect("rows are whole blocks") as usize;
        let row = tensor.bound.row_len().max(1);
        let rows = (self.chunk_weights(tensor) / row).max(1) * row;
        let of_expert = tensor.bound.ne.get(1).copied().unwrap_or(1).max(1) * row;
        let mut out = vec![0; bytes(tensor.bound.n_weights())];
        for (expert, out) in out.chunks_mut(bytes(of_expert)).enumerate() {
            // A worker that waits for the factors takes other chunks meanwhile, one inside the other, until its stack is full. So
            // the factors are there before the first chunk.
            let _factors = match &tensor.moments {
                Some(moments) if !tensor.is_unchanged() => self.factors.get(tensor, moments, expert)?,
                _ => None,
            };
            out.par_chunks_mut(bytes(rows)).enumerate().try_for_each_init(
                Buffers::default,
                |buffers, (i, out)| -> Result<()> {
                    let at = i as u64 * rows;
                    let (start, len) = (expert as u64 * of_expert + at, rows.min(of_expert - at));
                    self.convert(&Chunk { tensor, start, len }, buffers)?;
                    out.copy_from_slice(buffers.blocks());
                    Ok(())
                },
            )?;
        }
        Ok(out)
    }

    /// Makes the blocks of a chunk.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a weight that the type cannot hold, and whatever reading fails with.
    pub fn convert(&self, chunk: &Chunk, buffers: &mut Buffers) -> Result<()> {
        let tensor = chunk.tensor;
        let bytes = tensor.ty.row_bytes(chunk.len).expect("chunks are cut at block boundaries");
        buffers.blocks.resize(bytes as usize, 0);
        match tensor.copy {
            Some(index) => {
                buffers.weights.clear();
                self.copy(chunk, index, &mut buffers.blocks)
            }
            None if tensor.packed => self.pack(chunk, buffers),
            None => self.quantize(chunk, buffers),
        }
    }

    /// Packs the codes and scales of the checkpoint, which are FP4 of the wanted type.
    fn pack(&self, chunk: &Chunk, buffers: &mut Buffers) -> Result<()> {
        let Some(kept) = &chunk.tensor.bound.blocks else {
            unreachable!("a tensor is planned as packed only if it has blocks")
        };
        let Buffers { scratch, weights, scales, blocks, replaced, .. } = buffers;
        let source = &self.plan.model.source;
        let found = kept.read(source, chunk.start, [&mut *weights, scales], blocks, scratch)?;
        weights.clear();
        let place = || Place::file(source.path()).tensor(&chunk.tensor.bound.name);
        if let Some(error) = kept::misfit(found, kept.ty(), place()) {
            return Err(error);
        }
        if let Some(at) = found.no_number.filter(|_| !self.allow_nonfinite) {
            return Err(self.non_finite(chunk, at as u64, f32::NAN));
        }
        *replaced += found.replaced;
        Ok(())
    }

    /// Copies the bytes of the source, which has the wanted type already. Plain types are checked for NaN and infinity.
    fn copy(&self, chunk: &Chunk, index: usize, blocks: &mut [u8]) -> Result<()> {
        let offset = chunk.tensor.ty.row_bytes(chunk.start).expect("chunks are cut at block boundaries");
        self.plan.model.source.read_raw(index, offset, blocks)?;
        let Encoding::Element(ty) = self.plan.model.source.encoding(index) else {
            return Ok(());
        };
        if decode::scan(*ty, blocks).non_finite && !self.allow_nonfinite {
            let at = decode::first_bad(*ty, blocks, f32::MAX).unwrap_or(0);
            let mut value = [0.0];
            let size = ty.bytes();
            decode::decode_row(*ty, &blocks[at * size..(at + 1) * size], &mut value);
            return Err(self.non_finite(chunk, at as u64, value[0]));
        }
        Ok(())
    }

    fn quantize(&self, chunk: &Chunk, buffers: &mut Buffers) -> Result<()> {
        let tensor = chunk.tensor;
        let weights = &mut buffers.weights;
        weights.resize(chunk.len as usize, 0.0);
        tensor.bound.source.read(&self.plan.model.source, chunk.start, weights, &mut buffers.scratch)?;
        if tensor.ty == GgmlType::I64 {
            let integers = weights.iter().flat_map(|&w| (w as i64).to_le_bytes());
            buffers.blocks.iter_mut().zip(integers).for_each(|(to, byte)| *to = byte);
            return Ok(());
        }
        buffers.replaced += self.check(chunk, weights)?;
        if let Some(made) = &tensor.made {
            let start = tensor.ty.row_bytes(chunk.start).expect("chunks are cut at block boundaries");
            if chunk.start == 0 {
                let of = &made.of;
                let all =
                    RowErrors { error: of.error, rows: of.rows, energy: of.energy, sampled: of.sampled };
                buffers.errors.add(&all);
            }
            return made.read(start, &mut buffers.blocks);
        }
        if let Some(moments) = &tensor.moments {
            return self.calibrated(chunk, moments, weights, &mut buffers.blocks, &mut buffers.errors);
        }
        if tensor.weightings.is_empty() {
            quant::quantize_weighted(tensor.ty, weights, None, &mut buffers.blocks);
        } else {
            quantize_weighted(chunk, weights, &mut buffers.blocks);
        }
        Ok(())
    }

    /// Quantizes whole rows under the second moments of their inputs, and adds up the errors. Each expert has its own moments.
    fn calibrated(
        &self,
        chunk: &Chunk,
        moments: &Moments,
        weights: &[f32],
        blocks: &mut [u8],
        errors: &mut RowErrors,
    ) -> Result<()> {
        let (tensor, row) = (chunk.tensor, chunk.tensor.bound.row_len());
        let rows_per_expert = tensor.bound.ne.get(1).copied().unwrap_or(1).max(1);
        let options = solver_options(self.effort, self.layers, &tensor.bound.name);
        let noise = Noise::new(self.effort.seed, &format!("dither {}", tensor.bound.name));
        let bytes = |rows: u64| tensor.ty.row_bytes(rows * row).expect("rows are whole blocks") as usize;
        let (first, rows) = (chunk.start / row, chunk.len / row);
        let every = (tensor.bound.n_weights() / row / ENERGY_ROWS).clamp(1, ENERGY_EVERY);
        let mut at = 0;
        while at < rows {
            let expert = (first + at) / rows_per_expert;
            let n = (rows - at).min((expert + 1) * rows_per_expert - (first + at));
            let weights = &weights[(at * row) as usize..((at + n) * row) as usize];
            let out = &mut blocks[bytes(at)..bytes(at + n)];
            match self.factors.get(tensor, moments, expert as usize)? {
                Some(factor) => {
                    let sample = || self.sampled(tensor, &factor, expert, &options, &noise);
                    let options = self.factors.options(tensor, expert as usize, sample)?;
                    let rows = feedback::Rows { weights, noise: &noise, first: first + at };
                    errors.error += feedback::quantize_rows(tensor.ty, rows, &factor, &options, out);
                    errors.rows += n;
                    let rows = weights.chunks_exact(row as usize).zip(first + at..);
                    let sampled = rows.filter(|(_, i)| i.is_multiple_of(every)).map(|(row, _)| row);
                    for energy in factor.energies(sampled) {
                        errors.energy += energy;
                        errors.sampled += 1;
                    }
                }
                None => quant::quantize(tensor.ty, weights, row as usize, None, out),
            }
            at += n;
        }
        Ok(())
    }

    /// Returns `options` with the amplitude of the dither that suits a tensor. The amplitude is chosen on rows from the middle
    /// of the tensor.
    fn sampled(
        &self,
        tensor: &PlannedTensor,
        factor: &FactorizedMoments,
        expert: u64,
        options: &feedback::SolverOptions,
        noise: &Noise,
    ) -> Result<feedback::SolverOptions> {
        let (row, rows) = (tensor.bound.row_len(), tensor.bound.ne.get(1).copied().unwrap_or(1).max(1));
        let n = rows.min(SAMPLE_ROWS);
        let first = expert * rows + (rows - n) / 2;
        let mut weights = vec![0.0; (n * row) as usize];
        tensor.bound.source.read(
            &self.plan.model.source,
            first * row,
            &mut weights,
            &mut Scratch::default(),
        )?;
        let limit = quant::max_abs(tensor.ty);
        weights.iter_mut().filter(|w| !fits(**w, limit)).for_each(|w| *w = 0.0);
        let rows = feedback::Rows { weights: &weights, noise, first };
        Ok(feedback::choose_dither(tensor.ty, rows, factor, options))
    }

    /// Checks that every weight is finite and fits the scales of the type. Replaces those that do not if the user allows it,
    /// and returns how many they were.
    fn check(&self, chunk: &Chunk, weights: &mut [f32]) -> Result<u64> {
        let limit = quant::max_abs(chunk.tensor.ty);
        let scan = decode::scan(SourceType::F32, bytemuck::cast_slice(weights));
        if !scan.non_finite && scan.max_abs <= limit {
            return Ok(0);
        }
        if !self.allow_nonfinite {
            let at = weights.iter().position(|&w| !fits(w, limit)).unwrap_or(0);
            return Err(self.non_finite(chunk, at as u64, weights[at]));
        }
        let mut replaced = 0;
        for w in weights.iter_mut().filter(|w| !fits(**w, limit)) {
            *w = if w.is_nan() { 0.0 } else { w.clamp(-limit, limit) };
            replaced += 1;
        }
        Ok(replaced)
    }

    fn non_finite(&self, chunk: &Chunk, at: u64, value: f32) -> Error {
        let index = chunk.start + at;
        let tensor = chunk.tensor;
        let row = tensor.bound.row_len();
        let why = if value.is_finite() {
            format!("too large for the scales of {}", tensor.ty.name())
        } else {
            "not finite".into()
        };
        Error::NonFinite {
            place: self.place_of(chunk, index),
            index,
            what: format!(
                "weight at flat index {index} (row {}, column {}) is {value}: {why}",
                index / row,
                index % row
            ),
            fix: "Get a sound copy of the checkpoint, or convert with --allow-nonfinite to replace such weights"
                .into(),
        }
    }

    /// Returns the source tensor and the offset of the weight in the file where one source tensor is the output tensor, else
    /// the output tensor.
    fn place_of(&self, chunk: &Chunk, index: u64) -> Place {
        let source = &self.plan.model.source;
        match chunk.tensor.bound.source.as_source() {
            Some(i) => {
                let (file, offset) = source.position(i);
                let place = Place::file(file).tensor(source.name(i));
                let width = source.bytes(i) / chunk.tensor.bound.n_weights().max(1);
                if width > 0 { place.at(offset + index * width) } else { place }
            }
            None => Place::file(source.path()).tensor(&chunk.tensor.bound.name),
        }
    }
}

/// Returns the options for a tensor of a model of `layers` layers. A tensor outside of the layers of the dither gets one
/// proposal.
pub(super) fn solver_options(effort: &Effort, layers: u32, name: &str) -> feedback::SolverOptions {
    let layers = f64::from(layers.max(1));
    let depth = recipe::layer_of(name).map(|l| (f64::from(l) + 0.5) / layers);
    let (from, to) = effort.dither_layers.unwrap_or((0.0, 1.0));
    let beam_width = match depth.is_some_and(|d| from <= d && d < to) {
        true => effort.feedback.beam_width,
        false => 1,
    };
    feedback::SolverOptions { beam_width, ..effort.feedback }
}

/// Returns whether `|w| <= limit`. NaN does not fit.
fn fits(w: f32, limit: f32) -> bool {
    w.abs() <= limit
}

/// Quantizes whole rows, and the pieces of rows at the ends of the chunk, under the importances of the columns. Each expert
/// has its own importances.
fn quantize_weighted(chunk: &Chunk, weights: &[f32], blocks: &mut [u8]) {
    let tensor = chunk.tensor;
    let row = tensor.bound.row_len();
    let rows_per_expert = tensor.bound.ne.get(1).copied().unwrap_or(1).max(1);
    let mut at = 0;
    while at < chunk.len {
        let (index, col) = ((chunk.start + at) / row, (chunk.start + at) % row);
        let left = chunk.len - at;
        let n = if col == 0 && left >= row {
            (left / row).min(rows_per_expert - index % rows_per_expert) * row
        } else {
            (row - col).min(left)
        };
        let expert = (index / rows_per_expert) as usize % tensor.weightings.len();
        let columns = tensor.weightings[expert].columns(col as usize..(col + n.min(row)) as usize);
        let bytes = |n: u64| tensor.ty.row_bytes(n).expect("chunks are cut at block boundaries") as usize;
        let piece = &weights[at as usize..(at + n) as usize];
        quant::quantize_weighted(tensor.ty, piece, columns, &mut blocks[bytes(at)..bytes(at + n)]);
        at += n;
    }
}
