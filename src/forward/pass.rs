//! The forward pass: layer by layer over all tokens, a group of chunks at a time.
//!
//! A layer is computed for all tokens before the next layer begins, so that an observer can complete the statistics of a
//! layer before it gets those of the next. The weights of a layer are read once for each group.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use crate::forward::activation;
use crate::forward::arch::{NormKind, Order, Reach};
use crate::forward::attention::{self, Shape};
use crate::forward::buffers::Buffer;
use crate::forward::divergence::divergence;
use crate::forward::mixer::Mixer;
use crate::forward::model::{Layer, Model};
use crate::forward::norm::Norm;
use crate::forward::order;
use crate::forward::rope::{Rope, Table};
use crate::forward::spill::{Found, SpillBuffer};
use crate::forward::weights::{Linear, Replaced, Rounded, Weights};
use crate::forward::{Observer, Pairs, Quantizer};
use crate::model::bound::BoundModel;
use crate::progress::Progress;
use crate::quant::recipe::split_layer;
use crate::work;

/// Number of logits of a model that are in memory at a time while divergences are computed.
const LOGITS: usize = 1 << 24;
/// Number of values in a parallel piece of work.
const PIECE: usize = 1 << 14;
/// The share of the median of the squares of a norm's weights below which a square counts as small.
const SMALL_WEIGHTS: f32 = 0.1;

/// Options of [`run`].
pub struct RunOptions<'a> {
    /// True if the logits of every token are wanted. They take memory beyond `max_memory`.
    pub logits: bool,
    /// Number of threads.
    pub threads: usize,
    /// Bytes of weights and activations that the pass keeps in memory. Activations between layers that do not fit are kept
    /// in a file without a name in `spill_folder`. A single chunk that does not fit is computed nevertheless.
    pub max_memory: u64,
    /// The folder for temporary files.
    pub spill_folder: &'a Path,
    /// Receives the number of steps, each a layer of a group of chunks, and may cancel the run.
    pub progress: &'a Progress,
}

/// The logits of every token of every chunk, `[tokens, columns]`.
#[derive(Debug)]
pub struct Logits {
    /// One row for each token.
    pub values: Vec<f32>,
    /// Number of values in a row: the size of the vocabulary, or the hidden size in a model without an output matrix (an
    /// encoder, whose last states are returned).
    pub columns: usize,
}

/// Runs a model on chunks of tokens and shows the inputs of every matrix to `observer`. Chunks do not attend to each other.
///
/// The result has the same bits for any number of threads and on every CPU, and the values of a chunk do not depend on
/// other chunks.
///
/// # Errors
/// Returns [`Error::Usage`] if there are no chunks, if a chunk is empty or if a token is out of range; [`Error::Model`] if
/// the forward pass does not know the architecture, or if the shapes of the tensors do not fit the metadata; the errors of
/// reading and of the observer; and [`Error::Interrupted`] after [`Progress::cancel`].
pub fn run(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    observer: &mut dyn Observer,
    options: &RunOptions,
) -> Result<Option<Logits>> {
    run_rounded(source, tokens, observer, options, &|_| None)
}

/// Does the same as [`run`] for the model with some matrices rounded: `rounded` says how the tensor of a name is rounded
/// before it is used. A matrix whose rows are no whole blocks of the type stays as it is.
///
/// # Errors
/// As [`run`].
pub fn run_rounded(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    observer: &mut dyn Observer,
    options: &RunOptions,
    rounded: Rounded,
) -> Result<Option<Logits>> {
    let weights = Weights::new(source, options.progress, options.max_memory / 8).rounded_by(rounded);
    run_on(source, tokens, Seen::By(observer), options, weights)
}

/// A step of a pass, which [`run_step`] computes: the embedding and the first layer, each further layer, or what comes behind the last
/// layer.
pub struct Step {
    /// Number of the step, from 0; less than [`steps`].
    pub number: usize,
    /// Number of tokens of the longest chunk of the whole pass, which decides how positions are rotated.
    pub longest: usize,
    /// What the step before has returned for the same chunks. The first step needs nothing.
    pub states: Vec<Vec<f32>>,
}

/// Returns the number of steps of a pass: one for each layer, and one for what comes behind the last layer.
///
/// # Errors
/// As [`check`].
pub fn steps(source: &BoundModel) -> Result<usize> {
    let progress = Progress::default();
    let weights = Weights::new(source, &progress, 0);
    Ok(Model::read(source, &weights, 1)?.layers.len() + 1)
}

/// Computes one step of [`run`] for some chunks, so that several machines can compute a pass together. Returns the states with which the
/// next step begins. All steps together show the observer what [`run`] shows. [`Observer::layers_done`], [`Observer::resume`] and
/// [`Observer::finished`] are not called.
///
/// # Errors
/// As [`run`], and [`Error::Usage`] for states that are not those of this step.
pub fn run_step(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    step: Step,
    observer: &mut dyn Observer,
    options: &RunOptions,
) -> Result<Vec<Vec<f32>>> {
    let weights = Weights::new(source, options.progress, options.max_memory / 8);
    let part = Step { longest: longest(tokens)?.max(step.longest), ..step };
    on_pass(source, tokens, Seen::By(observer), options, weights, part.longest, |pass| {
        pass.run_step(source, tokens, options, part)
    })
}

/// Runs two streams of the same tokens: that of the model, and that of the model with the matrices that `quantizer` has made
/// so far. Each matrix is quantized when its inputs in both streams are known, before the second stream goes on. The second
/// stream looks up embeddings that are rounded to the type `embedding`.
///
/// The pass takes about twice the time and memory of [`run`]. Where the tokens do not fit into `max_memory` at once, each layer
/// begins again after each of its inputs, which takes twice the time once more.
///
/// # Errors
/// As [`run`], and [`Error::Model`] if [`has_two_streams`] says no.
pub fn run_two_streams(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    quantizer: &mut dyn Quantizer,
    options: &RunOptions,
    embedding: GgmlType,
) -> Result<()> {
    let weights = two_streams(source, options, embedding)?;
    run_on(source, tokens, Seen::WithSecondStream(quantizer), options, weights).map(drop)
}

/// Runs a model, and beside it the same model with the matrices of `replaced` and with embeddings that are rounded to the type
/// `embedding`. Returns for each token the divergence `KL(model || changed model)` of the next token, in nats.
///
/// # Errors
/// As [`run_two_streams`], the errors of `replaced`, and [`Error::Model`] where the model has no logits.
pub fn run_replaced(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    replaced: Replaced,
    options: &RunOptions,
    embedding: GgmlType,
) -> Result<Vec<f64>> {
    let weights = two_streams(source, options, embedding)?.replaced_by(replaced);
    let mut divergences = Vec::new();
    run_on(source, tokens, Seen::Divergences(&mut divergences), options, weights)?;
    Ok(divergences)
}

/// Returns the weights of two streams, the second one with embeddings of a type.
fn two_streams<'a>(
    source: &'a BoundModel,
    options: &RunOptions<'a>,
    embedding: GgmlType,
) -> Result<Weights<'a>> {
    if !has_two_streams(source)? {
        let what = "has a layer in which the two streams of tokens cannot be kept apart";
        return Err(Error::model(Place::file(source.path()), what, "Use --effort srd"));
    }
    let rounded = |name: &str| (name == "token_embd.weight").then_some(embedding.into());
    Ok(Weights::new(source, options.progress, options.max_memory / 8).with_two_streams(&rounded))
}

/// Returns whether [`run_two_streams`] can run a model: a token has one state.
///
/// # Errors
/// As [`check`].
pub fn has_two_streams(source: &BoundModel) -> Result<bool> {
    let progress = Progress::default();
    let weights = Weights::new(source, &progress, 0);
    Ok(Model::read(source, &weights, 1)?.states == 1)
}

fn run_on(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    seen: Seen,
    options: &RunOptions,
    weights: Weights,
) -> Result<Option<Logits>> {
    on_pass(source, tokens, seen, options, weights, longest(tokens)?, |pass| {
        pass.run(source, tokens, options)
    })
}

/// Makes a pass, and calls `then` with it in a pool of threads.
fn on_pass<T: Send>(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    seen: Seen,
    options: &RunOptions,
    weights: Weights,
    longest: usize,
    then: impl FnOnce(Pass) -> Result<T> + Send,
) -> Result<T> {
    work::pool("srd-forward", options.threads)?.install(|| {
        let model = Model::read(source, &weights, longest)?;
        check_tokens(tokens, model.n_vocab)?;
        // Before a table of a head's size is made, every head's size is compared with its tensors.
        model.layers.iter().try_for_each(|layer| layer.mixer.check(&weights, &model, layer))?;
        let is_used = |i: usize| model.layers.iter().any(|layer| layer.rope == Some(i));
        let table = |(i, rope): (usize, &Rope)| rope.table(if is_used(i) { longest } else { 0 });
        let tables = model.ropes.iter().enumerate().map(table).collect();
        let pass = Pass {
            model: &model,
            weights: &weights,
            seen: seen.shortened(),
            tables,
            kv: BTreeMap::new(),
            found: None,
            sweep: Sweep::default(),
            missing: None,
        };
        then(pass)
    })
}

/// Checks that [`run`] can run a model, without running it.
///
/// # Errors
/// Returns [`Error::Model`] if the forward pass does not know the architecture or a tensor, or if metadata or tensors do not
/// fit.
pub fn check(source: &BoundModel) -> Result<()> {
    let progress = Progress::default();
    let weights = Weights::new(source, &progress, 0);
    let model = Model::read(source, &weights, 1)?;
    model.layers.iter().try_for_each(|layer| layer.mixer.check(&weights, &model, layer))
}

fn longest(tokens: &[Vec<u32>]) -> Result<usize> {
    let fix = "Pass a text of at least a few hundred tokens";
    if let Some(empty) = tokens.iter().position(Vec::is_empty) {
        return Err(Error::usage(format!("chunk {empty} has no tokens"), fix));
    }
    tokens.iter().map(Vec::len).max().ok_or_else(|| Error::usage("there are no chunks of tokens", fix))
}

fn check_tokens(tokens: &[Vec<u32>], n_vocab: usize) -> Result<()> {
    for (i, chunk) in tokens.iter().enumerate() {
        if let Some(token) = chunk.iter().find(|&&t| t as usize >= n_vocab) {
            let what =
                format!("token {token} of chunk {i} is out of range: the model knows {n_vocab} tokens");
            return Err(Error::usage(what, "Use the model's own tokenizer"));
        }
    }
    Ok(())
}

/// Chunks that are computed together.
pub(super) struct Group {
    /// Number of the first token among all tokens.
    pub(super) first: usize,
    pub tokens: Vec<u32>,
    /// Position of each token in its chunk.
    pub positions: Vec<u32>,
    /// Number of tokens of each chunk.
    pub lengths: Vec<usize>,
}

impl Group {
    /// Returns the group with every chunk twice, first in one stream and then in the other.
    fn doubled(self) -> Self {
        fn twice<T: Copy>(values: &[T]) -> Vec<T> {
            [values, values].concat()
        }
        Self {
            first: 2 * self.first,
            tokens: twice(&self.tokens),
            positions: twice(&self.positions),
            lengths: twice(&self.lengths),
        }
    }
}

/// Cuts the chunks into groups of at most `limit` tokens, but of at least one chunk.
fn groups(tokens: &[Vec<u32>], limit: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut first = 0;
    for chunk in tokens {
        if groups.last().is_none_or(|g| g.tokens.len() + chunk.len() > limit) {
            groups.push(Group { first, tokens: Vec::new(), positions: Vec::new(), lengths: Vec::new() });
        }
        let group = groups.last_mut().expect("one has just been pushed if there was none");
        group.tokens.extend(chunk);
        group.positions.extend(0..chunk.len() as u32);
        group.lengths.push(chunk.len());
        first += chunk.len();
    }
    groups
}

/// A run of the forward pass.
pub(super) struct Pass<'a> {
    pub model: &'a Model,
    pub weights: &'a Weights<'a>,
    seen: Seen<'a>,
    /// The table of layers without a window, then that of layers with one.
    pub(super) tables: Vec<Table>,
    /// Keys and values that later layers use, by layer.
    kv: BTreeMap<usize, [SpillBuffer; 2]>,
    /// What was looked up of remote tables.
    pub(super) found: Option<Found>,
    sweep: Sweep,
    /// What the residual stream of the first stream has more than that of the second one, while a part of a layer is computed
    /// whose output is added to it.
    missing: Option<Missing>,
}

/// What the residual stream lacks while a part of a layer is computed.
struct Missing {
    /// What the first stream has more, a row for each token.
    values: Buffer,
    /// The weights of the norm that stands between the part of the layer and the residual stream; empty if there is none.
    norm: Vec<f32>,
}

/// How the output of a part of a layer gets to the residual stream.
enum Way {
    /// It is added as it is.
    Plain,
    /// It is added after the RMSNorm of a name.
    Normed(String),
    /// In another way.
    Other,
}

/// Who sees the inputs of the matrices.
enum Seen<'a> {
    By(&'a mut dyn Observer),
    /// All rows of activations are those of two streams, one half after the other.
    WithSecondStream(&'a mut dyn Quantizer),
    /// Two streams of which only the divergences are wanted.
    Divergences(&'a mut Vec<f64>),
}

impl<'a> Seen<'a> {
    fn observer(&mut self) -> Option<&mut dyn Observer> {
        match self {
            Seen::By(observer) => Some(&mut **observer),
            Seen::WithSecondStream(quantizer) => Some(&mut **quantizer),
            Seen::Divergences(_) => None,
        }
    }

    fn shortened<'b>(self) -> Seen<'b>
    where
        'a: 'b,
    {
        match self {
            Seen::By(observer) => Seen::By(observer),
            Seen::WithSecondStream(quantizer) => Seen::WithSecondStream(quantizer),
            Seen::Divergences(to) => Seen::Divergences(to),
        }
    }

    fn reads(&self, tensor: &str) -> bool {
        match self {
            Seen::By(observer) => observer.reads(tensor),
            Seen::WithSecondStream(quantizer) => quantizer.reads(tensor),
            Seen::Divergences(_) => false,
        }
    }

    fn finished(&mut self, layer: Option<usize>) -> Result<()> {
        match self {
            Seen::By(observer) => observer.finished(layer),
            Seen::WithSecondStream(quantizer) => quantizer.finished(layer),
            Seen::Divergences(_) => Ok(()),
        }
    }
}

/// How far a layer is that all groups of chunks go through again and again, each time up to the first input whose matrices are
/// not quantized: what comes behind needs the quantized matrices.
#[derive(Default)]
struct Sweep {
    /// Number of the group, and whether it is the last one and the only one.
    group: usize,
    is_last: bool,
    is_only: bool,
    /// True if a group waits for quantized matrices.
    is_waiting: bool,
    /// Inputs whose matrices are quantized, by the name of the first matrix.
    quantized: HashSet<String>,
    /// Inputs that were shown to the observer, with the expert and the group.
    shown: HashSet<(String, Option<usize>, usize)>,
}

impl Pass<'_> {
    fn run(
        mut self,
        source: &BoundModel,
        tokens: &[Vec<u32>],
        options: &RunOptions,
    ) -> Result<Option<Logits>> {
        let model = self.model;
        let groups = self.groups(source, tokens, options);
        let steps = &options.progress;
        steps.start("", ((model.layers.len() + 1) * groups.len()) as u64);
        let order = order::order(source, groups.len(), &|name| self.seen.reads(name));
        let _fetching = source.source.read_ahead(order, options.max_memory / 8, Some(options.spill_folder));
        let mut x = self.buffers(tokens, options, &groups)?;
        let done = self.resume(&mut x, options.progress)?;
        if done == 0 {
            self.begin(&groups, &mut x)?;
        }
        steps.add((done * groups.len()) as u64);
        for layer in &model.layers[done..] {
            self.layer_of_all(layer, &groups, &mut x, steps)?;
            let keys = self.kv.range(..=layer.index).flat_map(|(_, kv)| kv);
            let states: Option<Vec<_>> =
                std::iter::once(&x).chain(keys).map(SpillBuffer::in_memory).collect();
            if let (Some(states), Some(observer)) = (states, self.seen.observer()) {
                observer.layers_done(layer.index + 1, &states)?;
            }
            if layer.index + 1 < model.layers.len() {
                self.seen.finished(Some(layer.index))?;
            }
        }
        let mut logits = options.logits.then(|| Logits { values: Vec::new(), columns: 0 });
        self.head_of_all(&groups, &x, logits.as_mut(), steps)?;
        self.seen.finished(None)?;
        Ok(logits)
    }

    /// Computes one step for all groups.
    fn run_step(
        mut self,
        source: &BoundModel,
        tokens: &[Vec<u32>],
        options: &RunOptions,
        step: Step,
    ) -> Result<Vec<Vec<f32>>> {
        let (model, progress) = (self.model, options.progress);
        let groups = self.groups(source, tokens, options);
        progress.start("", groups.len() as u64);
        let mut x = self.buffers(tokens, options, &groups)?;
        match step.number {
            0 => self.begin(&groups, &mut x)?,
            done => self.restore(done, step.states, &mut x)?,
        }
        let Some(layer) = model.layers.get(step.number) else {
            self.head_of_all(&groups, &x, None, progress)?;
            return Ok(Vec::new());
        };
        self.layer_of_all(layer, &groups, &mut x, progress)?;
        let keys = std::mem::take(&mut self.kv).into_iter();
        let keys = keys.filter(|(of, _)| *of <= layer.index).flat_map(|(_, keys)| keys);
        std::iter::once(x).chain(keys).map(SpillBuffer::into_values).collect()
    }

    /// Cuts the chunks into groups that fit into memory.
    fn groups(&self, source: &BoundModel, tokens: &[Vec<u32>], options: &RunOptions) -> Vec<Group> {
        let per_token = self.model.values_per_token(source) * size_of::<f32>() * self.streams();
        let groups = groups(tokens, (options.max_memory / 2) as usize / per_token);
        match self.streams() {
            2 => groups.into_iter().map(Group::doubled).collect(),
            _ => groups,
        }
    }

    /// Computes a layer for all groups.
    fn layer_of_all(
        &mut self,
        layer: &Layer,
        groups: &[Group],
        x: &mut SpillBuffer,
        steps: &Progress,
    ) -> Result<()> {
        let width = self.model.width * self.model.states;
        self.sweep(groups, |pass, group| {
            let mut rows = pass.rows_of(group, x)?;
            pass.layer(layer, group, &mut rows)?;
            x.save(group.first * width, &rows)?;
            steps.add(1);
            Ok(())
        })?;
        self.drop_keys(layer.index);
        Ok(())
    }

    /// Computes what comes behind the last layer for all groups.
    fn head_of_all(
        &mut self,
        groups: &[Group],
        x: &SpillBuffer,
        mut logits: Option<&mut Logits>,
        steps: &Progress,
    ) -> Result<()> {
        self.sweep(groups, |pass, group| {
            pass.lm_head(pass.rows_of(group, x)?, logits.as_deref_mut())?;
            steps.add(1);
            Ok(())
        })
    }

    /// Loads the states of a group.
    fn rows_of(&self, group: &Group, x: &SpillBuffer) -> Result<Buffer> {
        let width = self.model.width * self.model.states;
        let mut rows = self.weights.buffers.take(group.tokens.len() * width);
        x.load(group.first * width, &mut rows)?;
        Ok(rows)
    }

    /// Computes a part of the model for all groups, until no group waits for quantized matrices.
    fn sweep(
        &mut self,
        groups: &[Group],
        mut compute: impl FnMut(&mut Self, &Group) -> Result<()>,
    ) -> Result<()> {
        self.sweep = Sweep::default();
        loop {
            let mut waited = false;
            for (i, group) in groups.iter().enumerate() {
                self.enter_group(i, groups);
                let result = compute(self, group);
                if !std::mem::take(&mut self.sweep.is_waiting) {
                    result?;
                    continue;
                }
                waited = true;
            }
            if !waited {
                self.weights.drop_second();
                return Ok(());
            }
        }
    }

    /// Notes that the inputs of a group follow.
    fn enter_group(&mut self, number: usize, groups: &[Group]) {
        let is_last = number + 1 == groups.len();
        (self.sweep.group, self.sweep.is_last) = (number, is_last);
        self.sweep.is_only = groups.len() == 1;
        if let Some(observer) = self.seen.observer() {
            observer.group(is_last);
        }
    }

    /// Returns the number of streams of tokens.
    pub(super) fn streams(&self) -> usize {
        match self.seen {
            Seen::By(_) => 1,
            Seen::WithSecondStream(_) | Seen::Divergences(_) => 2,
        }
    }

    /// Goes on from what the observer has kept of an interrupted pass: sets `x` and the keys, and returns the number of layers that are
    /// complete. A pass over the network reads its weights in a fixed order from the start, so it begins with the first layer.
    fn resume(&mut self, x: &mut SpillBuffer, progress: &Progress) -> Result<usize> {
        if self.weights.is_remote() {
            return Ok(0);
        }
        let Some(observer) = self.seen.observer() else { return Ok(0) };
        let Some((done, states)) = observer.resume(progress)? else { return Ok(0) };
        self.restore(done, states, x)?;
        Ok(done)
    }

    /// Sets `x` and the keys to the states behind the first `done` layers.
    fn restore(&mut self, done: usize, states: Vec<Vec<f32>>, x: &mut SpillBuffer) -> Result<()> {
        (0..done.min(self.model.layers.len())).for_each(|layer| self.drop_keys(layer));
        let keys = self.kv.range_mut(..done).flat_map(|(_, kv)| kv);
        let mut buffers: Vec<_> = std::iter::once(x).chain(keys).collect();
        let fits = |(buffer, values): (&&mut SpillBuffer, &Vec<f32>)| {
            buffer.in_memory().is_none_or(|own| own.len() == values.len())
        };
        let fit = buffers.len() == states.len() && buffers.iter().zip(&states).all(fits);
        if done > self.model.layers.len() || !fit {
            let what = "what is kept of the interrupted pass is that of another model";
            return Err(Error::usage(what, "Use --no-cache, or remove what is kept in the cache folder"));
        }
        buffers.iter_mut().zip(&states).try_for_each(|(buffer, values)| buffer.save(0, values))
    }

    /// Makes the buffers that live from layer to layer. Returns that of the inputs of the layers.
    fn buffers(
        &mut self,
        tokens: &[Vec<u32>],
        options: &RunOptions,
        groups: &[Group],
    ) -> Result<SpillBuffer> {
        let (model, n) = (self.model, self.streams() * tokens.iter().map(Vec::len).sum::<usize>());
        let shared: Vec<&Layer> = model.layers.iter().filter(|l| l.kv_shared).collect();
        let of_keys: usize = shared.iter().map(|l| l.n_head_kv * (l.head_dim + l.head_dim_v)).sum();
        let width = model.width * model.states;
        let bytes = n * (width + of_keys) * size_of::<f32>();
        let spill = (bytes as u64 > options.max_memory / 4).then_some(options.spill_folder);
        for layer in shared {
            let buffer = |head_dim| SpillBuffer::new(n * layer.n_head_kv * head_dim, spill);
            self.kv.insert(layer.index, [buffer(layer.head_dim)?, buffer(layer.head_dim_v)?]);
        }
        if model.per_layer > 0 && self.weights.is_remote() {
            self.found = Some(self.look_up(n, groups, options)?);
        }
        SpillBuffer::new(n * width, spill)
    }

    /// Computes the inputs of the first layer.
    fn begin(&mut self, groups: &[Group], x: &mut SpillBuffer) -> Result<()> {
        let (model, width) = (self.model, self.model.width * self.model.states);
        let per_layer = self.weights.linear("per_layer_model_proj")?.filter(|_| model.per_layer > 0);
        for (i, group) in groups.iter().enumerate() {
            self.enter_group(i, groups);
            let mut rows = self.embedded(group)?;
            if let Some(projection) = &per_layer {
                self.weights.check_inputs(&projection.matrix, model.width)?;
                self.observe(&[projection], None, model.width, &rows)?;
            }
            if model.states > 1 {
                rows = self.begin_states(&rows)?;
            }
            x.save(group.first * width, &rows)?;
        }
        Ok(())
    }

    /// Drops the keys and values that no layer after `done` uses.
    fn drop_keys(&mut self, done: usize) {
        let layers = &self.model.layers;
        self.kv.retain(|of, _| layers[done + 1..].iter().any(|l| l.index == *of || l.kv_of == Some(*of)));
    }

    /// Shows the observer `x`, rows of `n` values, the inputs of `linears`. The inputs of an expert are those of the first
    /// stream alone.
    pub(super) fn observe(
        &mut self,
        linears: &[&Linear],
        expert: Option<usize>,
        n: usize,
        x: &[f32],
    ) -> Result<()> {
        let names: Vec<&str> = linears.iter().map(|l| l.name.as_str()).collect();
        let quantizer = match &mut self.seen {
            Seen::By(observer) => return observer.inputs(&names, expert, n, x),
            Seen::WithSecondStream(quantizer) => quantizer,
            Seen::Divergences(_) => return Ok(()),
        };
        let sweep = &mut self.sweep;
        if expert.is_some() || !quantizer.quantizes(&names) {
            let is_new = sweep.shown.insert((names[0].to_string(), expert, sweep.group));
            // The rows of experts are those of the first stream already.
            let own = if expert.is_some() { x } else { &x[..x.len() / 2] };
            return if is_new { quantizer.inputs(&names, expert, n, own) } else { Ok(()) };
        }
        if sweep.quantized.contains(names[0]) {
            return Ok(());
        }
        let (first, second) = x.split_at(x.len() / 2);
        let missing = self.missing.as_ref().filter(|_| is_added(names[0]));
        match missing {
            Some(Missing { values, norm }) if !norm.is_empty() => {
                // To first order an error of the outputs of a token counts by one over their root mean square.
                let outputs = self.weights.apply(linears[0], first, n)?;
                let scales: Vec<f32> = outputs
                    .par_chunks(norm.len())
                    .map(|outputs| 1.0 / root_mean_square(outputs, self.model.eps))
                    .collect();
                let (mut x, mut y) = (self.weights.buffers.copy(first), self.weights.buffers.copy(second));
                scale_rows(&mut x, &scales);
                scale_rows(&mut y, &scales);
                let (mut values, inverse) = (self.weights.buffers.copy(values), inverse_of(norm));
                values.par_chunks_mut(norm.len()).for_each(|row| {
                    row.iter_mut().zip(&inverse).for_each(|(v, factor)| *v *= factor);
                });
                quantizer.pairs(&names, &Pairs { n, x: &x, y: &y, missing: Some(&values) })?;
            }
            _ => {
                let missing = missing.map(|missing| &*missing.values);
                quantizer.pairs(&names, &Pairs { n, x: first, y: second, missing })?;
            }
        }
        if sweep.is_last {
            let made = quantizer.quantized(&names)?;
            for (name, blocks) in names.iter().zip(made) {
                blocks.into_iter().for_each(|blocks| self.weights.set_second(name, blocks));
            }
            sweep.quantized.insert(names[0].to_string());
        }
        sweep.is_waiting = !sweep.is_only;
        if sweep.is_waiting { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Notes what the residual stream `x`, and where it is given `added`, which is still to be added to it, have more in the
    /// first stream, unless the output of the next part gets there in another way than the two that are known.
    fn note_missing(&mut self, x: &[f32], added: Option<&[f32]>, way: &Way) -> Result<()> {
        self.missing = None;
        if !matches!(self.seen, Seen::WithSecondStream(_)) {
            return Ok(());
        }
        let width = self.model.width;
        let norm = match way {
            Way::Plain => Vec::new(),
            Way::Normed(name) => self.weights.required_vector(name, width)?,
            Way::Other => return Ok(()),
        };
        let mut values = self.weights.buffers.take(x.len() / 2);
        let (first, second) = x.split_at(x.len() / 2);
        let factor = 1.0 / self.model.residual_scale;
        let rows = values.iter_mut().zip(first).zip(second);
        rows.for_each(|((to, x), y)| *to = factor * (x - y));
        if let Some(added) = added {
            let (first, second) = added.split_at(added.len() / 2);
            values.iter_mut().zip(first).zip(second).for_each(|((to, x), y)| *to += x - y);
        }
        self.missing = Some(Missing { values, norm });
        Ok(())
    }

    /// Applies the norm `STEM.weight`, `STEM.bias` to rows of the hidden size. Does nothing if the model has no such norm.
    pub(super) fn normalize(&self, stem: &str, x: &mut [f32]) -> Result<()> {
        self.norm_of_rows(stem, x, self.model.width)
    }

    /// Applies a norm to rows of `n` values. Does nothing if the model has no such norm.
    pub(super) fn norm_of_rows(&self, stem: &str, x: &mut [f32], n: usize) -> Result<()> {
        let weight = match self.weights.vector(&format!("{stem}.weight"), n)? {
            Some(weight) => weight,
            // One norm of Falcon-H1 is named without `.weight`.
            None => match self.weights.vector(stem, n)? {
                Some(weight) => weight,
                None => return Ok(()),
            },
        };
        self.apply_norm(stem, weight, x, n)
    }

    fn apply_norm(&self, stem: &str, weight: Vec<f32>, x: &mut [f32], n: usize) -> Result<()> {
        let bias = self.weights.vector(&format!("{stem}.bias"), weight.len())?.unwrap_or_default();
        Norm { weight, bias, ..Norm::without_weights(self.model.family.norm, self.model.eps) }.apply(x, n);
        Ok(())
    }

    /// Applies a norm that the family names without `blk.N.`. An empty name stands for no norm.
    fn layer_norm(&self, layer: &Layer, name: &str, x: &mut [f32]) -> Result<()> {
        let family = self.model.family;
        if family.norms_without_weights && matches!(name, "attn_norm" | "ffn_norm" | "output_norm") {
            Norm::without_weights(family.norm, self.model.eps).apply(x, self.model.width);
        } else if !name.is_empty() {
            self.normalize(&format!("blk.{}.{name}", layer.index), x)?;
        }
        Ok(())
    }

    /// Computes a layer in place of its input `x`, the residual stream.
    fn layer(&mut self, layer: &Layer, group: &Group, x: &mut [f32]) -> Result<()> {
        let (model, family) = (self.model, self.model.family);
        if model.states > 1 {
            return self.layer_of_states(layer, group, x);
        }
        let after = family.order == Order::PostNorm;
        let mut input = self.weights.buffers.copy(x);
        let named = |name: &str| self.weights.has(&format!("blk.{}.{name}.weight", layer.index));
        // A second norm of this name belongs to attention alone, or comes behind the norm of the sum.
        let second = named("attn_norm_2");
        let before = if second && !after { "attn_norm_2" } else { family.attention_norm };
        let own_norm = named(family.ffn_norm) && family.ffn_norm != before;
        self.layer_norm(layer, before, &mut input)?;
        let way = |post: &str, is_one: bool| match post {
            _ if after => Way::Other,
            _ if family.norms_without_weights || post.is_empty() || !named(post) => Way::Plain,
            _ if is_one && family.norm == NormKind::Rms => {
                Way::Normed(format!("blk.{}.{post}.weight", layer.index))
            }
            _ => Way::Other,
        };
        let attention_way = match layer.mixer {
            Mixer::AttentionAndMamba2 => Way::Other,
            _ => way(family.attention_post_norm, true),
        };
        let ffn_way = way(family.ffn_post_norm, !named("ffn_gate_inp"));
        self.note_missing(x, None, &attention_way)?;
        let mut attended = self.mix(layer, group, &input)?;
        let parallel = model.parallel;
        if let Some(attended) = &mut attended {
            if !after {
                self.layer_norm(layer, family.attention_post_norm, attended)?;
            }
            if !parallel {
                add(x, attended, model.residual_scale);
            }
            if after {
                self.layer_norm(layer, family.attention_post_norm, x)?;
            }
            if after && second {
                add(x, &input, 1.0);
                self.layer_norm(layer, "attn_norm_2", x)?;
            }
        }
        if self.has_feed_forward(layer) {
            if !parallel || own_norm {
                input.copy_from_slice(x);
                self.layer_norm(layer, family.ffn_norm, &mut input)?;
            }
            let added = attended.as_deref().filter(|_| parallel);
            self.note_missing(x, added, &ffn_way)?;
            let mut y = self.feed_forward(layer, x, &input)?;
            self.missing = None;
            if let Some(attended) = attended.filter(|_| parallel) {
                add(x, &attended, model.residual_scale);
            }
            if !after {
                self.layer_norm(layer, family.ffn_post_norm, &mut y)?;
            }
            add(x, &y, model.residual_scale);
            if after {
                self.layer_norm(layer, family.ffn_post_norm, x)?;
            }
        }
        if model.per_layer > 0 {
            self.add_per_layer(layer, group, x)?;
        }
        if let Some(factor) =
            self.weights.vector(&format!("blk.{}.layer_output_scale.weight", layer.index), 1)?
        {
            scale(x, factor[0]);
        }
        Ok(())
    }

    /// Computes the attention of a layer for its normalized input.
    pub(super) fn attention(&mut self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Buffer> {
        let width = self.model.width;
        let of = Projections::find(self.weights, self.model, layer)?;
        self.observe(&of.observed(), None, width, input)?;
        let mut q = self.weights.apply(&of.q, input, width)?;
        let mut gate = None;
        if self.model.family.gated_queries {
            let parts = self.split_heads(&q, layer.head_dim);
            (q, gate) = (parts.0, Some(parts.1));
        }
        if let Some(matrix) = &of.gate {
            gate = Some(self.weights.apply(matrix, input, width)?);
        }
        self.finish_heads(layer, group, "attn_q_norm", &mut q)?;
        if !self.model.temperature_unrotated || layer.rope.is_none() {
            self.scale_by_temperature(group, &mut q);
        }
        let (k, v) = self.keys_and_values(layer, group, &of, input)?;
        let mut sums = self.weights.buffers.take(group.tokens.len() * layer.n_head * layer.head_dim_v);
        let sinks = self.weights.vector(&format!("blk.{}.attn_sinks.weight", layer.index), layer.n_head)?;
        attention::attend(
            &self.shape(layer),
            &sinks.unwrap_or_default(),
            &q,
            &k,
            &v,
            &group.lengths,
            &mut sums,
        );
        drop((q, k, v));
        let n = layer.n_head * layer.head_dim_v;
        if let Some(gate) = gate {
            activation::gated_by_sigmoid(&mut sums, &gate);
        }
        self.norm_of_rows(&format!("blk.{}.attn_sub_norm", layer.index), &mut sums, n)?;
        self.observe(&[&of.output], None, n, &sums)?;
        self.weights.apply(&of.output, &sums, n)
    }

    /// Returns whether a layer has a feed-forward network. A network whose tensors are missing is reported later, unless
    /// layers may lack it.
    fn has_feed_forward(&self, layer: &Layer) -> bool {
        let has = |name: &str| self.weights.has(&format!("blk.{}.{name}.weight", layer.index));
        !self.model.family.layers_may_lack_parts || has("ffn_up") || has("ffn_gate_inp")
    }

    /// Splits rows of pairs of parts of `n` values into the first and the second parts.
    fn split_heads(&self, x: &[f32], n: usize) -> (Buffer, Buffer) {
        let (mut first, mut second) =
            (self.weights.buffers.take(x.len() / 2), self.weights.buffers.take(x.len() / 2));
        let parts = first.par_chunks_mut(n).zip(second.par_chunks_mut(n));
        parts.zip(x.par_chunks(2 * n)).for_each(|((first, second), x)| {
            first.copy_from_slice(&x[..n]);
            second.copy_from_slice(&x[n..]);
        });
        (first, second)
    }

    /// Returns the shape of a layer's attention.
    pub(super) fn shape(&self, layer: &Layer) -> Shape {
        Shape {
            n_head: layer.n_head,
            n_head_kv: layer.n_head_kv,
            head_dim: layer.head_dim,
            head_dim_v: layer.head_dim_v,
            scale: layer.scale,
            cap: self.model.score_cap,
            window: layer.window,
            reach: self.model.family.sliding.map_or(Reach::Back, |s| s.reach),
            causal: layer.causal,
            max_alibi_bias: self.model.max_alibi_bias,
        }
    }

    /// Clamps, normalizes and rotates the heads of queries or keys.
    fn finish_heads(&self, layer: &Layer, group: &Group, norm: &str, x: &mut [f32]) -> Result<()> {
        self.clamp(x);
        let (stem, width) = (format!("blk.{}.{norm}", layer.index), x.len() / group.tokens.len());
        let norm = self.weights.head_norm(&format!("{stem}.weight"), layer.head_dim, width)?;
        let last = self.model.family.norm_after_rope;
        if let Some(rope) = layer.rope.filter(|_| last) {
            self.tables[rope].rotate(x, width, layer.head_dim, &group.positions);
        }
        if let Some((weight, n)) = norm {
            self.apply_norm(&stem, weight, x, n)?;
        }
        if let Some(rope) = layer.rope.filter(|_| !last) {
            self.tables[rope].rotate(x, width, layer.head_dim, &group.positions);
            if self.model.heads_normalized {
                let norm = Norm::without_weights(self.model.family.norm, self.model.eps);
                norm.apply(x, layer.head_dim);
            }
        }
        Ok(())
    }

    fn clamp(&self, x: &mut [f32]) {
        if let Some(limit) = self.model.clamp {
            x.par_chunks_mut(PIECE).for_each(|x| x.iter_mut().for_each(|x| *x = x.clamp(-limit, limit)));
        }
    }

    /// Scales queries beyond the trained context with the logarithm of their position, as Llama 4 does.
    pub(super) fn scale_by_temperature(&self, group: &Group, q: &mut [f32]) {
        let Some((factor, period)) = self.model.temperature else { return };
        let next = u32::from(self.model.temperature_unrotated);
        let width = q.len() / group.tokens.len();
        q.par_chunks_mut(width).zip(&group.positions).for_each(|(q, &position)| {
            let by = libm::logf(((position + next) as f32 / period).floor() + 1.0) * factor + 1.0;
            q.iter_mut().for_each(|q| *q *= by);
        });
    }

    /// Returns the keys and the values of a layer: computed from its input, or those of an earlier layer.
    fn keys_and_values(
        &mut self,
        layer: &Layer,
        group: &Group,
        of: &Projections,
        input: &[f32],
    ) -> Result<(Buffer, Buffer)> {
        let tokens = group.tokens.len();
        let sizes = [layer.n_head_kv * layer.head_dim, layer.n_head_kv * layer.head_dim_v];
        if let Some(earlier) = layer.kv_of {
            let [mut k, mut v] = sizes.map(|n| self.weights.buffers.take(tokens * n));
            let [keys, values] = &self.kv[&earlier];
            keys.load(group.first * sizes[0], &mut k)?;
            values.load(group.first * sizes[1], &mut v)?;
            return Ok((k, v));
        }
        let key = of.k.as_ref().expect("layers with keys of their own have a matrix for them");
        let mut k = self.weights.apply(key, input, self.model.width)?;
        let mut v = match &of.v {
            Some(value) => self.weights.apply(value, input, self.model.width)?,
            None => self.weights.buffers.copy(&k),
        };
        self.finish_heads(layer, group, "attn_k_norm", &mut k)?;
        self.clamp(&mut v);
        if self.model.family.value_norm {
            Norm::without_weights(self.model.family.norm, self.model.eps).apply(&mut v, layer.head_dim_v);
        }
        if let Some([keys, values]) = self.kv.get_mut(&layer.index) {
            keys.save(group.first * sizes[0], &k)?;
            values.save(group.first * sizes[1], &v)?;
        }
        Ok((k, v))
    }

    /// Applies the last norm and the output matrix, and appends the logits if they are wanted.
    fn lm_head(&mut self, mut x: Buffer, logits: Option<&mut Logits>) -> Result<()> {
        let (model, weights) = (self.model, self.weights);
        if model.states > 1 {
            x = self.join_states(&x)?;
        }
        if !model.family.lm_head {
            if matches!(self.seen, Seen::Divergences(_)) {
                let what = "has no output matrix, so there are no logits to compare";
                return Err(Error::model(Place::file(self.weights.path()), what, "Use --effort srd"));
            }
            self.normalize(model.family.output_norm, &mut x)?;
            if let Some(logits) = logits {
                logits.columns = model.width;
                logits.values.extend_from_slice(&x);
            }
            return Ok(());
        }
        if model.family.norms_without_weights {
            Norm::without_weights(model.family.norm, model.eps).apply(&mut x, model.width);
        } else {
            self.normalize(model.family.output_norm, &mut x)?;
        }
        let output = match weights.linear("output")? {
            Some(output) => output,
            None => weights.required_linear("token_embd")?,
        };
        weights.check_inputs(&output.matrix, model.width)?;
        self.observe(&[&output], None, model.width, &x)?;
        if let Seen::Divergences(to) = &mut self.seen {
            let (first, second) = x.split_at(x.len() / 2);
            let rows = (LOGITS / output.rows()).max(1) * model.width;
            for (first, second) in first.chunks(rows).zip(second.chunks(rows)) {
                let mut y = weights.apply(&output, &[first, second].concat(), model.width)?;
                finish_logits(model, &mut y);
                let (first, second) = y.split_at(y.len() / 2);
                let pairs = first.par_chunks(output.rows()).zip(second.par_chunks(output.rows()));
                to.par_extend(pairs.map(|(p, q)| divergence(p, q)));
            }
        }
        let Some(logits) = logits else { return Ok(()) };
        let start = logits.values.len();
        logits.columns = output.rows();
        logits.values.resize(start + x.len() / model.width * output.rows(), 0.0);
        let y = &mut logits.values[start..];
        weights.apply_to(&output, &x, model.width, y)?;
        finish_logits(model, y);
        Ok(())
    }
}

/// Turns products with the output matrix into logits.
fn finish_logits(model: &Model, y: &mut [f32]) {
    scale(y, model.logit_scale);
    if let Some(cap) = model.logit_cap {
        activation::soft_cap(y, cap);
    }
}

/// Multiplies each row by its factor.
fn scale_rows(rows: &mut [f32], factors: &[f32]) {
    let n = rows.len() / factors.len();
    rows.par_chunks_mut(n).zip(factors).for_each(|(row, factor)| row.iter_mut().for_each(|v| *v *= factor));
}

fn root_mean_square(row: &[f32], eps: f32) -> f32 {
    (row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32 + eps).sqrt()
}

/// Returns factors that undo the weights of a norm: less than one over the weight where this is far below the median, because a
/// change of the output counts little there and would have to be large.
fn inverse_of(norm: &[f32]) -> Vec<f32> {
    let mut squares: Vec<f32> = norm.iter().map(|w| w * w).collect();
    squares.sort_by(f32::total_cmp);
    let small = (SMALL_WEIGHTS * squares[squares.len() / 2]).max(f32::MIN_POSITIVE);
    norm.iter().map(|w| w / (w * w + small)).collect()
}

/// Returns whether the output of a matrix is added to the residual stream, unless a norm comes before.
fn is_added(name: &str) -> bool {
    let (layer, inner) = split_layer(name);
    let names = ["attn_output.weight", "ffn_down.weight", "ssm_out.weight", "shortconv.out_proj.weight"];
    layer.is_some() && names.contains(&inner)
}

/// The matrices of a layer's attention. Those of queries, keys and values may be parts of one tensor.
pub(super) struct Projections {
    q: Linear,
    /// `None` in a layer that uses the keys of an earlier layer.
    k: Option<Linear>,
    /// `None` if the values are the keys.
    v: Option<Linear>,
    /// Makes what gates the sums of the values; `None` in most models.
    gate: Option<Linear>,
    output: Linear,
}

impl Projections {
    /// Finds the matrices and checks their shapes.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if a matrix is missing or has another shape than the heads of the layer.
    pub(super) fn find(weights: &Weights, model: &Model, layer: &Layer) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}", layer.index);
        let parts = if model.family.gated_queries { 2 } else { 1 };
        let (n_q, n_k) = (parts * layer.n_head * layer.head_dim, layer.n_head_kv * layer.head_dim);
        let n_v = layer.n_head_kv * layer.head_dim_v;
        let own = layer.kv_of.is_none();
        let output = weights.required_linear(&stem("attn_output"))?;
        weights.check_shape(&output, model.width, layer.n_head * layer.head_dim_v)?;
        let gate = weights.linear(&stem("attn_gate"))?;
        gate.iter().try_for_each(|g| weights.check_shape(g, layer.n_head * layer.head_dim_v, model.width))?;
        let found = match weights.linear(&stem("attn_qkv"))? {
            Some(fused) => {
                weights.check_outputs(&fused, n_q + n_k + n_v)?;
                let k = fused.slice(n_q..n_q + n_k);
                let v = fused.slice(n_q + n_k..n_q + n_k + n_v);
                Self { q: fused.slice(0..n_q), k: Some(k).filter(|_| own), v: Some(v), gate, output }
            }
            None => Self {
                q: weights.required_linear(&stem("attn_q"))?,
                k: if own { Some(weights.required_linear(&stem("attn_k"))?) } else { None },
                v: weights.linear(&stem("attn_v"))?.filter(|_| own),
                gate,
                output,
            },
        };
        weights.check_shape(&found.q, n_q, model.width)?;
        found.k.iter().try_for_each(|k| weights.check_shape(k, n_k, model.width))?;
        found.v.iter().try_for_each(|v| weights.check_shape(v, n_v, model.width))?;
        if own && found.v.is_none() && n_v != n_k {
            let what = format!("is missing, and keys of {n_k} values cannot serve as {n_v} values");
            return Err(weights.fail(&format!("{}.weight", stem("attn_v")), what));
        }
        Ok(found)
    }

    /// Returns the matrices that share the layer's input, each tensor once.
    fn observed(&self) -> Vec<&Linear> {
        let all = [Some(&self.q), self.k.as_ref(), self.v.as_ref(), self.gate.as_ref()];
        let mut all: Vec<&Linear> = all.into_iter().flatten().collect();
        all.dedup_by(|a, b| a.name == b.name);
        all
    }
}

/// Computes `x += factor y`.
pub(super) fn add(x: &mut [f32], y: &[f32], factor: f32) {
    assert_eq!(x.len(), y.len(), "the summands have different shapes");
    x.par_chunks_mut(PIECE)
        .zip(y.par_chunks(PIECE))
        .for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y));
}

/// Computes `x *= factor`.
pub(super) fn scale(x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        x.par_chunks_mut(PIECE).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
    }
}
