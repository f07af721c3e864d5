//! The walk over the weights: rows are read, decoded, checked, quantised and written a chunk at a time,
//! by as many workers as asked. Every byte depends on its chunk alone, so the number of workers and
//! their order change nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::convert::plan::{Plan, PlannedTensor};
use crate::convert::report::{Clock, Report, peak_rss_bytes};
use crate::convert::sink::{self, Sink};
use crate::convert::transform::Scratch;
use crate::dtype::SourceType;
use crate::error::{Error, Place, Result};
use crate::formats::decode;
use crate::quant;

/// Weights in a chunk: its f32 form and the bytes read and written for it stay in a core's L2 cache.
const CHUNK_WEIGHTS: u64 = 32 * 1024;
/// Bytes a worker holds per weight of a chunk: source (4 at most), f32, output (4 at most).
const BYTES_PER_WEIGHT: u64 = 12;
/// Blocks of every type divide this, so a row longer than a chunk is cut at its multiples.
const CUT: u64 = 256;

#[derive(Debug, Clone)]
pub struct RunOptions {
    pub threads: usize,
    /// Bytes of weights alive at any time, over all workers.
    pub max_memory: u64,
    /// Replace NaN by 0 and what does not fit by the largest value that does, instead of failing.
    pub allow_nonfinite: bool,
    pub overwrite: bool,
}

/// Shared between the workers and whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    done_bytes: AtomicU64,
    tensor: AtomicUsize,
    stop: AtomicBool,
}

impl Progress {
    /// Bytes of the output's tensor data written so far.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// Index in the plan of the tensor being worked on.
    pub fn tensor(&self) -> usize {
        self.tensor.load(Ordering::Relaxed)
    }

    /// Asks the workers to stop; the run then ends with [`Error::Interrupted`].
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Runs `plan`: when it returns `Ok`, every output file is complete under its name; otherwise none is.
///
/// # Errors
/// Whatever went wrong first in the order of the plan; [`Error::Interrupted`] after [`Progress::cancel`].
pub fn run(plan: &Plan, options: &RunOptions, progress: &Progress) -> Result<Report> {
    let clock = Clock::start();
    let threads = options.threads.max(1);
    for file in &plan.files {
        sink::check_target(&file.path, options.overwrite)?;
    }
    let sinks = plan
        .files
        .iter()
        .map(|f| {
            let sink = Sink::create(&f.path, f.bytes, options.overwrite)?;
            sink.write_at(&f.header, 0)?;
            Ok(sink)
        })
        .collect::<Result<Vec<_>>>()?;

    let chunks = Chunks::cut(plan, chunk_weights(options.max_memory, threads));
    let job = Job { plan, sinks: &sinks, chunks: &chunks, options, progress, replaced: AtomicU64::new(0) };
    job.run(threads)?;

    let replaced = job.replaced.load(Ordering::Relaxed);
    commit_all(sinks, plan)?;
    Ok(Report {
        seconds: clock.seconds(),
        cpu_seconds: clock.cpu_seconds(),
        peak_rss_bytes: peak_rss_bytes(),
        source_bytes: plan.source_bytes(),
        replaced,
        threads,
    })
}

/// Names all files; if one cannot be named, those already named are taken away again.
fn commit_all(sinks: Vec<Sink>, plan: &Plan) -> Result<()> {
    for (i, sink) in sinks.into_iter().enumerate() {
        if let Err(error) = sink.commit() {
            for file in &plan.files[..i] {
                let _ = std::fs::remove_file(&file.path);
            }
            return Err(error);
        }
    }
    Ok(())
}

fn chunk_weights(max_memory: u64, threads: usize) -> u64 {
    let share = max_memory / threads as u64 / BYTES_PER_WEIGHT;
    (share.min(CHUNK_WEIGHTS) / CUT * CUT).max(CUT)
}

/// The plan's tensors cut into chunks: whole rows, or pieces of a row that is longer than a chunk.
struct Chunks {
    /// Per tensor: number of its first chunk and weights in each of its chunks.
    tensors: Vec<(usize, u64)>,
    count: usize,
}

/// A run of weights of one tensor.
struct Chunk<'a> {
    tensor: &'a PlannedTensor,
    index: usize,
    start: u64,
    len: u64,
}

impl Chunks {
    fn cut(plan: &Plan, weights: u64) -> Self {
        let mut count = 0;
        let tensors = plan
            .tensors
            .iter()
            .map(|tensor| {
                let row = tensor.row_len();
                let size = if row > weights { weights } else { weights / row * row };
                let first = count;
                // A row is no whole number of pieces in general: pieces do not cross rows.
                let per_row = row.div_ceil(size.min(row));
                let n = tensor.n_weights();
                count += if row > weights { (n / row * per_row) as usize } else { n.div_ceil(size) as usize };
                (first, size)
            })
            .collect();
        Self { tensors, count }
    }

    fn get<'a>(&self, plan: &'a Plan, number: usize) -> Chunk<'a> {
        let index = self.tensors.partition_point(|&(first, _)| first <= number) - 1;
        let (first, size) = self.tensors[index];
        let tensor = &plan.tensors[index];
        let row = tensor.row_len();
        let k = (number - first) as u64;
        let (start, end) = if row > size {
            let per_row = row.div_ceil(size);
            let (r, piece) = (k / per_row, k % per_row);
            (r * row + piece * size, r * row + ((piece + 1) * size).min(row))
        } else {
            (k * size, ((k + 1) * size).min(tensor.n_weights()))
        };
        Chunk { tensor, index, start, len: end - start }
    }
}

/// Buffers of one worker.
#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    weights: Vec<f32>,
    blocks: Vec<u8>,
}

struct Job<'a> {
    plan: &'a Plan,
    sinks: &'a [Sink],
    chunks: &'a Chunks,
    options: &'a RunOptions,
    progress: &'a Progress,
    replaced: AtomicU64,
}

impl Job<'_> {
    fn run(&self, threads: usize) -> Result<()> {
        let next = AtomicUsize::new(0);
        // The failure of the earliest chunk, so that the message does not depend on timing.
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("srd-{i}"))
            .build()
            .map_err(|e| Error::usage(format!("cannot start {threads} threads: {e}"), "Lower --threads"))?;
        // Chunks are handed out in the order of the plan, so the files are read and written from front to back.
        pool.broadcast(|_| {
            let mut buffers = Buffers::default();
            while !self.progress.stopped() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.chunks.count {
                    break;
                }
                let chunk = self.chunks.get(self.plan, number);
                if let Err(error) = self.process(&chunk, &mut buffers) {
                    self.progress.cancel();
                    let mut slot = failed.lock().unwrap_or_else(|p| p.into_inner());
                    if slot.as_ref().is_none_or(|(n, _)| number < *n) {
                        *slot = Some((number, error));
                    }
                }
            }
        });
        match failed.into_inner().unwrap_or_else(|p| p.into_inner()) {
            Some((_, error)) => Err(error),
            None if self.progress.stopped() => Err(Error::Interrupted),
            None => Ok(()),
        }
    }

    fn process(&self, chunk: &Chunk, buffers: &mut Buffers) -> Result<()> {
        let tensor = chunk.tensor;
        self.progress.tensor.store(chunk.index, Ordering::Relaxed);
        let bytes = tensor.ty.row_bytes(chunk.len).expect("chunks are cut at block boundaries");
        let offset = tensor.ty.row_bytes(chunk.start).expect("chunks are cut at block boundaries");
        buffers.blocks.resize(bytes as usize, 0);
        match tensor.copy {
            Some(index) => self.copy(chunk, index, offset, &mut buffers.blocks)?,
            None => self.quantise(chunk, buffers)?,
        }
        self.sinks[tensor.file].write_at(&buffers.blocks, tensor.offset + offset)?;
        self.progress.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The source already has the wanted type: its bytes are taken, and only looked at.
    fn copy(&self, chunk: &Chunk, index: usize, offset: u64, blocks: &mut [u8]) -> Result<()> {
        self.plan.source.read_raw(index, offset, blocks)?;
        let crate::convert::source::Encoding::Element(ty) = self.plan.source.encoding(index) else {
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
        tensor.source.read(&self.plan.source, chunk.start, weights, &mut buffers.scratch)?;
        self.check(chunk, weights)?;
        match &tensor.importance {
            None => {
                let row = tensor.row_len().min(chunk.len) as usize;
                quant::quantize(tensor.ty, weights, row, None, &mut buffers.blocks);
            }
            Some(h) => quantise_weighted(chunk, weights, h, &mut buffers.blocks),
        }
        Ok(())
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
        let row = tensor.row_len();
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
        let source = &self.plan.source;
        match chunk.tensor.source.as_source() {
            Some(i) => {
                let (file, offset) = source.position(i);
                let place = Place::file(file).tensor(source.name(i));
                let width = source.bytes(i) / chunk.tensor.n_weights().max(1);
                if width > 0 { place.at(offset + index * width) } else { place }
            }
            None => Place::file(source.path()).tensor(&chunk.tensor.name),
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
    let row = tensor.row_len();
    let rows_per_slice = tensor.ne.get(1).copied().unwrap_or(1).max(1);
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
