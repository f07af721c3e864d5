//! The walk over the weights: rows are read, decoded, checked, quantised and written a chunk at a time,
//! by as many workers as asked. Every byte depends on its chunk alone, so the number of workers and
//! their order change nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use crate::convert::container::{ContainerSink, Sealed, ShardSink};
use crate::convert::factors::Factors;
use crate::convert::plan::{Plan, PlannedTensor};
use crate::convert::report::{Clock, Report, peak_rss_bytes};
use crate::dtype::SourceType;
use crate::error::{Error, Place, Result};
use crate::feedback::{self, Factor};
use crate::formats::axm::layout::shard_weights;
use crate::formats::calibration::Moments;
use crate::formats::decode;
use crate::formats::sink::{self, Sink};
use crate::model::transform::Scratch;
use crate::noise::Noise;
use crate::progress::Progress;
use crate::quant::residual::{self, Bits, Run};
use crate::quant::{self, recipe};
use crate::sign::ed25519::SignKey;
use crate::sign::keys::MasterKey;
use crate::work::{self, Active};

/// Weights in a chunk: its f32 form and the bytes read and written for it stay in a core's L2 cache.
const CHUNK_WEIGHTS: u64 = 32 * 1024;
/// Bytes a worker holds per weight of a chunk: source (4 at most), f32, output (4 at most),
/// and, for a container, the base's values, its steps and the residual's codes.
const BYTES_PER_WEIGHT: u64 = 20;
/// Rows of a calibrated tensor that are worked on at a stretch, so that its factors are fetched from memory for many.
const CALIBRATED_ROWS: u64 = 64;
/// Rows that the noise is chosen on.
const SAMPLE_ROWS: u64 = 16;
/// Factors are kept up to this, in case another tensor has the same inputs.
const FACTOR_BYTES: u64 = 256 << 20;
/// Blocks of every type divide this, so a row longer than a chunk is cut at its multiples.
const CUT: u64 = 256;
/// Bytes that are written at a time: chunk by chunk takes twice the system time, as every write locks the file and
/// begins and ends within a page.
const WRITE: usize = 1 << 20;
/// Weights whose residuals are made at a time, so that they, their base and its values stay in the first
/// cache: a multiple of [`CUT`].
const KEEP_WEIGHTS: usize = 2048;

pub struct RunOptions<'a> {
    pub threads: usize,
    /// Bytes of weights alive at any time, over all workers.
    pub max_memory: u64,
    /// Replace NaN by 0 and what does not fit by the largest value that does, instead of failing.
    pub allow_nonfinite: bool,
    pub overwrite: bool,
    /// Signs the container: needed where the plan has one.
    pub key: Option<&'a MasterKey>,
    /// Adds an Ed25519 signature to the container.
    pub sign_key: Option<&'a SignKey>,
    /// False writes the container alone.
    pub gguf: bool,
    /// What is done with calibrated tensors.
    pub effort: Effort,
}

/// How much is spent on tensors whose inputs are known.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Effort {
    pub feedback: feedback::Options,
    /// Of the noise.
    pub seed: u64,
    /// Layers that get all proposals, from and to as shares of depth; the others get one. By default all: 40 to 77 %
    /// alone gain a quarter as much (docs/decisions/0005-feedback.md).
    pub dither_layers: Option<(f64, f64)>,
}

impl Effort {
    /// For a tensor of `plan`; what belongs to no layer gets one proposal.
    fn of(&self, tensor: &PlannedTensor, plan: &Plan) -> feedback::Options {
        let layers = f64::from(plan.layers().max(1));
        let depth = recipe::layer_of(&tensor.bound.name).map(|l| (f64::from(l) + 0.5) / layers);
        let (from, to) = self.dither_layers.unwrap_or((0.0, 1.0));
        let proposals = match depth.is_some_and(|d| from <= d && d < to) {
            true => self.feedback.proposals,
            false => 1,
        };
        feedback::Options { proposals, ..self.feedback }
    }
}

/// Runs `plan`: when it returns `Ok`, every output file is complete under its name; otherwise none is.
///
/// # Errors
/// Whatever went wrong first in the order of the plan; [`Error::Interrupted`] after [`Progress::cancel`];
/// [`Error::Usage`] when there is a container to sign and no key.
pub fn run(plan: &Plan, options: &RunOptions, progress: &Progress) -> Result<Report> {
    let clock = Clock::start();
    let threads = options.threads.max(1);
    let outputs = Outputs::create(plan, options)?;
    let replaced = AtomicU64::new(0);
    let job = Job {
        plan,
        outputs: &outputs,
        units: &Units::cut(plan),
        chunk: chunk_weights(options.max_memory, threads),
        options,
        progress,
        replaced: &replaced,
        factors: Factors::new(FACTOR_BYTES),
    };
    progress.start("", plan.tensor_bytes());
    work::run(job.units.count, threads, progress, |number, buffers, active| {
        job.process(&job.units.get(plan, number), buffers, active)
    })?;
    let container = outputs.commit(plan, options)?;
    Ok(Report {
        seconds: clock.seconds(),
        cpu_seconds: clock.cpu_seconds(),
        peak_rss_bytes: peak_rss_bytes(),
        source_bytes: plan.source_bytes(),
        replaced: replaced.into_inner(),
        threads,
        container,
    })
}

/// The files that are being written.
struct Outputs<'a> {
    /// One for each file of the plan, or none where only the container is wanted.
    gguf: Vec<Sink>,
    container: Option<ContainerSink<'a>>,
}

impl<'a> Outputs<'a> {
    fn create(plan: &'a Plan, options: &RunOptions) -> Result<Self> {
        let files = if options.gguf { plan.files.as_slice() } else { &[] };
        let targets = files.iter().map(|f| &f.path).chain(plan.container.as_ref().map(|c| &c.path));
        targets.into_iter().try_for_each(|path| sink::check_target(path, options.overwrite))?;
        let gguf = files
            .iter()
            .map(|f| {
                let sink = Sink::create(&f.path, f.bytes, options.overwrite)?;
                sink.write_at(&f.header, 0)?;
                Ok(sink)
            })
            .collect::<Result<Vec<_>>>()?;
        let container = match (&plan.container, options.key) {
            (None, _) => None,
            (Some(planned), Some(key)) => {
                Some(ContainerSink::create(planned, &plan.files, key, options.overwrite)?)
            }
            (Some(_), None) => {
                let fix = "Set SRD_MASTER_KEY, name a key file, or convert without a container";
                return Err(Error::usage("there is no key to sign the container with", fix));
            }
        };
        Ok(Self { gguf, container })
    }

    /// Names all files; if one cannot be named, those already named are taken away again.
    fn commit(self, plan: &Plan, options: &RunOptions) -> Result<Option<Sealed>> {
        let mut sinks: Vec<_> =
            self.gguf.into_iter().zip(plan.files.iter().map(|f| f.path.clone())).collect();
        let mut sealed = None;
        if let (Some(container), Some(key)) = (self.container, options.key) {
            let (sink, seal) = container.seal(key, options.sign_key)?;
            sinks.push((sink, seal.path.clone()));
            sealed = Some(seal);
        }
        let mut named = Vec::new();
        for (sink, path) in sinks {
            if let Err(error) = sink.commit() {
                named.iter().for_each(|path| drop(std::fs::remove_file(path)));
                return Err(error);
            }
            named.push(path);
        }
        Ok(sealed)
    }
}

fn chunk_weights(max_memory: u64, threads: usize) -> u64 {
    let share = max_memory / threads as u64 / BYTES_PER_WEIGHT;
    (share.min(CHUNK_WEIGHTS) / CUT * CUT).max(CUT)
}

/// The plan's tensors cut into what one worker does at a stretch: the shards of a container, whether
/// there is one or not.
struct Units {
    /// Per tensor: number of its first unit and weights in each of its units but the last.
    tensors: Vec<(usize, u64)>,
    count: usize,
}

/// A shard's run of weights of one tensor.
struct Unit<'a> {
    tensor: &'a PlannedTensor,
    /// In the plan.
    index: usize,
    shard: usize,
    start: u64,
    end: u64,
}

/// A run of weights within a unit: whole rows, or a piece of a row that is longer than a chunk.
struct Chunk<'a> {
    tensor: &'a PlannedTensor,
    start: u64,
    len: u64,
}

impl Units {
    fn cut(plan: &Plan) -> Self {
        let mut count = 0;
        let tensors = plan
            .tensors
            .iter()
            .map(|t| {
                let (first, weights) = (count, shard_weights(t.ty, t.bound.row_len(), t.bound.n_weights()));
                count += t.bound.n_weights().div_ceil(weights) as usize;
                (first, weights)
            })
            .collect();
        Self { tensors, count }
    }

    fn get<'a>(&self, plan: &'a Plan, number: usize) -> Unit<'a> {
        let index = self.tensors.partition_point(|&(first, _)| first <= number) - 1;
        let (first, weights) = self.tensors[index];
        let (tensor, shard) = (&plan.tensors[index], number - first);
        let start = shard as u64 * weights;
        Unit { tensor, index, shard, start, end: (start + weights).min(tensor.bound.n_weights()) }
    }
}

impl<'a> Unit<'a> {
    /// The chunk of at most `weights` weights that begins at `start`.
    fn chunk(&self, start: u64, weights: u64) -> Chunk<'a> {
        let row = self.tensor.bound.row_len();
        let len = if row <= weights { weights / row * row } else { weights.min(row - start % row) };
        Chunk { tensor: self.tensor, start, len: len.min(self.end - start) }
    }
}

/// What a unit writes beside the GGUF.
struct Shards {
    base: ShardSink,
    residual: Option<(ShardSink, Bits, Noise)>,
}

/// Buffers of one worker.
#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    weights: Vec<f32>,
    blocks: Vec<u8>,
    /// Blocks, and residual codes, of a unit that are not yet written.
    base: Vec<u8>,
    residual: Vec<u8>,
    /// What the blocks stand for.
    values: Vec<f32>,
    steps: Vec<f32>,
}

struct Job<'a> {
    plan: &'a Plan,
    outputs: &'a Outputs<'a>,
    units: &'a Units,
    /// Weights in a chunk at most.
    chunk: u64,
    options: &'a RunOptions<'a>,
    progress: &'a Progress,
    replaced: &'a AtomicU64,
    factors: Factors,
}

impl Job<'_> {
    /// One unit, a chunk at a time; unfinished when it is no longer wanted.
    fn process(&self, unit: &Unit, buffers: &mut Buffers, active: &Active) -> Result<()> {
        self.progress.set_phase(&unit.tensor.bound.name);
        // What an unfinished unit left behind.
        buffers.base.clear();
        buffers.residual.clear();
        let mut shards = self.outputs.container.as_ref().map(|c| self.open_shards(c, unit));
        let mut written = unit.tensor.offset
            + unit.tensor.ty.row_bytes(unit.start).expect("units are cut at block boundaries");
        let mut start = unit.start;
        while start < unit.end {
            if !active.is_wanted() {
                return Ok(());
            }
            let chunk = unit.chunk(start, self.chunk_of(unit.tensor));
            self.convert(&chunk, buffers)?;
            if let Some(shards) = &mut shards {
                keep(shards, &chunk, buffers);
            }
            buffers.base.extend_from_slice(&buffers.blocks);
            start += chunk.len;
            self.write(unit, start == unit.end, &mut written, shards.as_mut(), buffers)?;
        }
        if let (Some(container), Some(shards)) = (&self.outputs.container, shards) {
            container.finish_shard(shards.base);
            if let Some((residual, ..)) = shards.residual {
                container.finish_shard(residual);
            }
        }
        Ok(())
    }

    /// Writes what has piled up, if that is enough or `all` there will be; `written`: the place in the GGUF.
    fn write(
        &self,
        unit: &Unit,
        all: bool,
        written: &mut u64,
        shards: Option<&mut Shards>,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let enough = |bytes: &[u8]| all || bytes.len() >= WRITE;
        let mut shards = self.outputs.container.as_ref().zip(shards);
        if enough(&buffers.base) {
            if let Some(sink) = self.outputs.gguf.get(unit.tensor.file) {
                sink.write_at(&buffers.base, *written)?;
            }
            if let Some((container, shards)) = &mut shards {
                container.write(&mut shards.base, &buffers.base)?;
            }
            *written += buffers.base.len() as u64;
            buffers.base.clear();
        }
        if let Some((container, Shards { residual: Some((shard, ..)), .. })) = shards
            && enough(&buffers.residual)
        {
            container.write(shard, &buffers.residual)?;
            buffers.residual.clear();
        }
        Ok(())
    }

    /// Weights in a chunk of a tensor at most: calibrated ones are cut at rows.
    fn chunk_of(&self, tensor: &PlannedTensor) -> u64 {
        match tensor.moments {
            Some(_) => self.chunk.max(CALIBRATED_ROWS * tensor.bound.row_len()),
            None => self.chunk,
        }
    }

    fn open_shards(&self, container: &ContainerSink, unit: &Unit) -> Shards {
        let seed = self.plan.container.as_ref().map_or(0, |c| c.header.seed);
        let residual = container
            .residual_shard(unit.index, unit.shard)
            .map(|(shard, bits)| (shard, bits, Noise::new(seed, &unit.tensor.bound.name)));
        Shards { base: container.base_shard(unit.index, unit.shard), residual }
    }

    /// Makes the blocks of a chunk.
    fn convert(&self, chunk: &Chunk, buffers: &mut Buffers) -> Result<()> {
        let tensor = chunk.tensor;
        let bytes = tensor.ty.row_bytes(chunk.len).expect("chunks are cut at block boundaries");
        let offset = tensor.ty.row_bytes(chunk.start).expect("chunks are cut at block boundaries");
        buffers.blocks.resize(bytes as usize, 0);
        match tensor.copy {
            Some(index) => self.copy(chunk, index, offset, &mut buffers.blocks)?,
            None => self.quantise(chunk, buffers)?,
        }
        self.progress.add(bytes);
        Ok(())
    }

    /// The source already has the wanted type: its bytes are taken, and only looked at.
    fn copy(&self, chunk: &Chunk, index: usize, offset: u64, blocks: &mut [u8]) -> Result<()> {
        self.plan.model.source.read_raw(index, offset, blocks)?;
        let crate::model::source::Encoding::Element(ty) = self.plan.model.source.encoding(index) else {
            return Ok(());
        };
        if decode::scan(*ty, blocks).non_finite && !self.options.allow_nonfinite {
            let at = decode::first_bad(*ty, blocks, f32::MAX).unwrap_or(0);
            let mut value = [0.0];
            let size = ty.bytes();
            decode::decode_row(*ty, &blocks[at * size..(at + 1) * size], &mut value);
            return Err(self.non_finite(chunk, at as u64, value[0]));
        }
        Ok(())
    }

    fn quantise(&self, chunk: &Chunk, buffers: &mut Buffers) -> Result<()> {
        let tensor = chunk.tensor;
        let weights = &mut buffers.weights;
        weights.resize(chunk.len as usize, 0.0);
        tensor.bound.source.read(&self.plan.model.source, chunk.start, weights, &mut buffers.scratch)?;
        self.check(chunk, weights)?;
        if let Some(moments) = &tensor.moments {
            return self.calibrated(chunk, moments, weights, &mut buffers.blocks);
        }
        match &tensor.importance {
            None => {
                let row = tensor.bound.row_len().min(chunk.len) as usize;
                quant::quantize(tensor.ty, weights, row, None, &mut buffers.blocks);
            }
            Some(h) => quantise_weighted(chunk, weights, h, &mut buffers.blocks),
        }
        Ok(())
    }

    /// Quantises whole rows under the second moments of their inputs, each expert's under its own.
    fn calibrated(&self, chunk: &Chunk, moments: &Moments, weights: &[f32], blocks: &mut [u8]) -> Result<()> {
        let (tensor, row) = (chunk.tensor, chunk.tensor.bound.row_len());
        let rows_per_expert = tensor.bound.ne.get(1).copied().unwrap_or(1).max(1);
        let effort = &self.options.effort;
        let options = effort.of(tensor, self.plan);
        let noise = Noise::new(effort.seed, &format!("dither {}", tensor.bound.name));
        let bytes = |rows: u64| tensor.ty.row_bytes(rows * row).expect("rows are whole blocks") as usize;
        let (first, rows) = (chunk.start / row, chunk.len / row);
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
                    feedback::quantize_rows(tensor.ty, rows, &factor, &options, out);
                }
                None => quant::quantize(tensor.ty, weights, row as usize, None, out),
            }
            at += n;
        }
        Ok(())
    }

    /// `options` with the noise that suits a tensor, found on rows from its middle.
    fn sampled(
        &self,
        tensor: &PlannedTensor,
        factor: &Factor,
        expert: u64,
        options: &feedback::Options,
        noise: &Noise,
    ) -> Result<feedback::Options> {
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
        Ok(feedback::calibrated(tensor.ty, rows, factor, options))
    }

    /// Every weight is finite and fits the scales of the type, or is made so if the user allowed it.
    fn check(&self, chunk: &Chunk, weights: &mut [f32]) -> Result<()> {
        let limit = quant::max_abs(chunk.tensor.ty);
        let scan = decode::scan(SourceType::F32, bytemuck::cast_slice(weights));
        if !scan.non_finite && scan.max_abs <= limit {
            return Ok(());
        }
        if !self.options.allow_nonfinite {
            let at = weights.iter().position(|&w| !fits(w, limit)).unwrap_or(0);
            return Err(self.non_finite(chunk, at as u64, weights[at]));
        }
        for w in weights.iter_mut().filter(|w| !fits(**w, limit)) {
            *w = if w.is_nan() { 0.0 } else { w.clamp(-limit, limit) };
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
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

    /// The source tensor and byte where that is plain, else the output tensor.
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

/// False for NaN as well.
fn fits(w: f32, limit: f32) -> bool {
    w.abs() <= limit
}

/// Quantises row by row with the importance of the columns (and of the expert the row belongs to).
fn quantise_weighted(chunk: &Chunk, weights: &[f32], h: &[f32], blocks: &mut [u8]) {
    let tensor = chunk.tensor;
    let row = tensor.bound.row_len();
    let rows_per_slice = tensor.bound.ne.get(1).copied().unwrap_or(1).max(1);
    let slices = (h.len() as u64 / row).max(1);
    let mut at = 0u64;
    while at < chunk.len {
        let flat = chunk.start + at;
        let col = flat % row;
        let n = (row - col).min(chunk.len - at);
        let slice = (flat / row / rows_per_slice) % slices;
        let from = (slice * row + col) as usize;
        let bytes = |n: u64| tensor.ty.row_bytes(n).expect("chunks are cut at block boundaries") as usize;
        let out = &mut blocks[bytes(at)..bytes(at + n)];
        let piece = &weights[at as usize..(at + n) as usize];
        quant::quantize(tensor.ty, piece, n as usize, Some(&h[from..from + n as usize]), out);
        at += n;
    }
}

/// Takes the blocks of a chunk into the container's hashes, and makes the codes of what they lost.
fn keep(shards: &mut Shards, chunk: &Chunk, buffers: &mut Buffers) {
    shards.base.hash(&buffers.blocks);
    let Some((shard, bits, noise)) = &mut shards.residual else { return };
    let ty = chunk.tensor.ty;
    let plane = |n: u64| bits.plane_bytes(n).expect("blocks are whole sub-blocks") as usize;
    let base = |n: u64| ty.row_bytes(n).expect("pieces are cut at block boundaries") as usize;
    buffers.values.resize(KEEP_WEIGHTS, 0.0);
    buffers.steps.resize(KEEP_WEIGHTS / residual::SUB, 0.0);
    let first = buffers.residual.len();
    buffers.residual.resize(first + plane(chunk.len), 0);
    let codes = &mut buffers.residual[first..];
    for (i, weights) in buffers.weights.chunks_mut(KEEP_WEIGHTS).enumerate() {
        let (at, n) = ((i * KEEP_WEIGHTS) as u64, weights.len());
        let blocks = &buffers.blocks[base(at)..base(at + n as u64)];
        let (values, steps) = (&mut buffers.values[..n], &mut buffers.steps[..n / residual::SUB]);
        quant::dequantize(ty, blocks, values);
        weights.iter_mut().zip(values).for_each(|(w, v)| *w -= *v);
        residual::steps(ty, blocks, steps);
        let run =
            Run { noise, bits: *bits, start: chunk.start + at, row: chunk.tensor.bound.row_len(), steps };
        residual::encode(run, weights, &mut codes[plane(at)..plane(at + n as u64)]);
    }
    shard.hash(codes);
}
