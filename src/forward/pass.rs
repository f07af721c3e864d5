//! The forward pass: layer by layer over all tokens, a group of chunks at a time.
//!
//! A layer is computed for all tokens before the next layer begins, so that an observer can complete the statistics of a
//! layer before it gets those of the next. The weights of a layer are read once for each group.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use crate::forward::buffers::Buffer;
use crate::forward::divergence::{cosine_distance, divergence};
use crate::forward::groups::{Group, check_tokens, groups, longest};
use crate::forward::model::{Layer, Model};
use crate::forward::order;
use crate::forward::rope::{Rope, Table};
use crate::forward::spill::{Found, SpillBuffer};
use crate::forward::streams::{Missing, Seen, Sweep};
use crate::forward::token_weights::TokenWeights;
use crate::forward::weights::{Replaced, Rounded, Weights};
use crate::forward::{NoObserver, Observer, Quantizer};
use crate::model::bound::BoundModel;
use crate::progress::Progress;
use crate::work;

/// Options of [`run`].
#[derive(Clone, Copy)]
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
    /// The weights of the tokens, whose square roots the inputs of plain matrices are multiplied by before an observer gets them.
    /// `None`: all tokens count alike, as they always do in two streams.
    pub token_weights: Option<&'a TokenWeights>,
}

/// The logits of every token of every chunk, `[tokens, columns]`.
#[derive(Debug, Default)]
pub struct Logits {
    /// One row for each token.
    pub values: Vec<f32>,
    /// Number of values in a row: the size of the vocabulary, or the hidden size in a model without an output matrix (an
    /// encoder, whose last states are returned).
    pub columns: usize,
    /// Whether the rows are states, of a model without an output matrix.
    pub are_states: bool,
}

impl Logits {
    /// Returns the mean over the tokens of how far the model is from another one: `KL(model || other)` in nats, or where the rows are states
    /// the mean of 1 - cos.
    pub fn mean_divergence(&self, other: &Self) -> f64 {
        let rows = self.values.par_chunks(self.columns).zip(other.values.par_chunks(other.columns));
        let distance = if self.are_states { cosine_distance } else { divergence };
        let rows: Vec<f64> = rows.map(|(p, q)| distance(p, q)).collect();
        rows.iter().sum::<f64>() / rows.len().max(1) as f64
    }
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

/// Runs the model once for each of `variants`, with its matrices rounded as in [`run_rounded`], and calls `then` with the number and the
/// logits of each variant, in the order of the variants. All variants compute a layer before one of them computes the next layer, so
/// weights that come over the network are fetched once. The logits are those of [`run_rounded`].
///
/// # Errors
/// As [`run`], and the errors of `then`.
pub fn run_variants(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    variants: &[Rounded],
    options: &RunOptions,
    then: &mut (dyn FnMut(usize, Logits) -> Result<()> + Send),
) -> Result<()> {
    let longest = longest(tokens)?;
    let plain = Weights::new(source, options.progress, options.max_memory / 8);
    // One variant computes at a time, so all of them use the same buffers.
    let weights: Vec<Weights> = variants.iter().map(|rounded| plain.rounded_copy(*rounded)).collect();
    on_model(source, tokens, options, &plain, longest, |model, tables| {
        let mut observers: Vec<NoObserver> = variants.iter().map(|_| NoObserver).collect();
        let passes = weights.iter().zip(&mut observers);
        let passes = passes.map(|(weights, observer)| Pass::new(model, weights, Seen::By(observer), tables));
        run_together(passes.collect(), source, tokens, options, then)
    })
}

/// Runs passes over the same tokens, layer by layer through all of them.
fn run_together(
    mut passes: Vec<Pass>,
    source: &BoundModel,
    tokens: &[Vec<u32>],
    options: &RunOptions,
    then: &mut (dyn FnMut(usize, Logits) -> Result<()> + Send),
) -> Result<()> {
    let (count, steps) = (passes.len(), options.progress);
    let Some(first) = passes.first() else { return Ok(()) };
    let (layers, groups) = (&first.model.layers, first.groups(source, tokens, options));
    steps.start("", (count * (layers.len() + 1) * groups.len()) as u64);
    let order = order::order(source, count, groups.len(), &|_| false);
    let _fetching = source.source.read_ahead(order, options.max_memory / 8, Some(options.spill_folder));
    // The states of all passes together take as much memory as those of one pass may take.
    let share = RunOptions { max_memory: options.max_memory / count as u64, ..*options };
    let mut states = Vec::new();
    for pass in &mut passes {
        states.push(pass.buffers(tokens, &share, &groups)?);
    }
    for (pass, x) in passes.iter_mut().zip(&mut states) {
        pass.begin(&groups, x)?;
    }
    for layer in layers {
        for (pass, x) in passes.iter_mut().zip(&mut states) {
            pass.layer_of_all(layer, &groups, x, steps)?;
        }
    }
    for (number, (mut pass, x)) in passes.into_iter().zip(states).enumerate() {
        let mut logits = Logits::default();
        pass.head_of_all(&groups, &x, Some(&mut logits), steps)?;
        then(number, logits)?;
    }
    Ok(())
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
/// [`Observer::finished`] are not called. Of weights that come over the network, the step fetches its own ones, and the table of
/// embeddings for each layer as a whole.
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
    let weights = with_streams(source, options, &[embedding])?;
    run_on(source, tokens, Seen::WithSecondStream(quantizer), options, weights).map(drop)
}

/// Runs a model, and beside it one or more changed models, which have the matrices of `replaced`, and of which `embeddings` names the
/// types to which they round the embeddings that they look up. Returns for each changed model, and for each token, the divergence
/// `KL(model || changed model)` of the next token, in nats, or for a model without logits 1 - cos of the last states.
///
/// # Errors
/// As [`run_two_streams`], and the errors of `replaced`.
pub fn run_replaced(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    replaced: Replaced,
    options: &RunOptions,
    embeddings: &[GgmlType],
) -> Result<Vec<Vec<f64>>> {
    let weights = with_streams(source, options, embeddings)?.replaced_by(replaced);
    let mut divergences = vec![Vec::new(); embeddings.len()];
    run_on(source, tokens, Seen::Divergences(&mut divergences), options, weights)?;
    Ok(divergences)
}

/// Returns the weights of several streams: that of the model, and one for each of `embeddings`, the types to which it rounds the
/// embeddings that it looks up.
fn with_streams<'a>(
    source: &'a BoundModel,
    options: &RunOptions<'a>,
    embeddings: &[GgmlType],
) -> Result<Weights<'a>> {
    if !has_two_streams(source)? {
        let what = "has a layer in which the two streams of tokens cannot be kept apart";
        return Err(Error::model(Place::file(source.path()), what, "Use --effort srd"));
    }
    Ok(Weights::new(source, options.progress, options.max_memory / 8).with_streams(embeddings))
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
pub(super) fn on_pass<T: Send>(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    seen: Seen,
    options: &RunOptions,
    weights: Weights,
    longest: usize,
    then: impl FnOnce(Pass) -> Result<T> + Send,
) -> Result<T> {
    on_model(source, tokens, options, &weights, longest, |model, tables| {
        let token_weights = options.token_weights;
        then(Pass { token_weights, ..Pass::new(model, &weights, seen.shortened(), tables) })
    })
}

/// Reads what the metadata say of a model, and calls `then` with the model and with the tables of its rotations in a pool of threads.
fn on_model<T: Send>(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    options: &RunOptions,
    weights: &Weights,
    longest: usize,
    then: impl FnOnce(&Model, &[Table]) -> Result<T> + Send,
) -> Result<T> {
    work::pool("srd-forward", options.threads)?.install(|| {
        let model = Model::read(source, weights, longest)?;
        check_tokens(tokens, model.n_vocab)?;
        // Before a table of a head's size is made, every head's size is compared with its tensors.
        model.layers.iter().try_for_each(|layer| layer.mixer.check(weights, &model, layer))?;
        let is_used = |i: usize| model.layers.iter().any(|layer| layer.rope == Some(i));
        let table = |(i, rope): (usize, &Rope)| rope.table(if is_used(i) { longest } else { 0 });
        let tables: Vec<Table> = model.ropes.iter().enumerate().map(table).collect();
        then(&model, &tables)
    })
}

/// Returns the number of tokens of all chunks.
pub fn tokens_of(chunks: &[Vec<u32>]) -> usize {
    chunks.iter().map(Vec::len).sum()
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

/// A run of the forward pass.
pub(super) struct Pass<'a> {
    pub model: &'a Model,
    pub weights: &'a Weights<'a>,
    pub(super) seen: Seen<'a>,
    pub(super) token_weights: Option<&'a TokenWeights>,
    /// The table of layers without a window, then that of layers with one.
    pub(super) tables: &'a [Table],
    /// Keys and values that later layers use, by layer.
    pub(super) kv: BTreeMap<usize, [SpillBuffer; 2]>,
    /// What was looked up of remote tables.
    pub(super) found: Option<Found>,
    pub(super) sweep: Sweep,
    /// What the residual stream of the first stream has more than that of the second one, while a part of a layer is computed
    /// whose output is added to it.
    pub(super) missing: Option<Missing>,
}

impl<'a> Pass<'a> {
    fn new(model: &'a Model, weights: &'a Weights<'a>, seen: Seen<'a>, tables: &'a [Table]) -> Self {
        Self {
            model,
            weights,
            seen,
            token_weights: None,
            tables,
            kv: BTreeMap::new(),
            found: None,
            sweep: Sweep::default(),
            missing: None,
        }
    }
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
        let order = order::order(source, 1, groups.len(), &|name| self.seen.reads(name));
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
        let mut logits = options.logits.then(Logits::default);
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
        let order = order::order_of_step(source, step.number, model.layers.len(), groups.len());
        let _fetching = source.source.read_ahead(order, options.max_memory / 8, Some(options.spill_folder));
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
        groups.into_iter().map(|group| group.repeated(self.streams())).collect()
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
    pub(super) fn rows_of(&self, group: &Group, x: &SpillBuffer) -> Result<Buffer> {
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
                self.weights.drop_others();
                return Ok(());
            }
        }
    }

    /// Notes that the inputs of a group follow.
    fn enter_group(&mut self, number: usize, groups: &[Group]) {
        let is_last = number + 1 == groups.len();
        (self.sweep.group, self.sweep.is_last) = (number, is_last);
        self.sweep.first = groups[number].first;
        self.sweep.is_only = groups.len() == 1;
        if let Some(observer) = self.seen.observer() {
            observer.group(is_last);
        }
    }

    /// Returns the number of streams of tokens.
    pub(super) fn streams(&self) -> usize {
        1 + self.weights.embeddings().len()
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
    pub(super) fn buffers(
        &mut self,
        tokens: &[Vec<u32>],
        options: &RunOptions,
        groups: &[Group],
    ) -> Result<SpillBuffer> {
        let (model, n) = (self.model, self.streams() * tokens_of(tokens));
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
    pub(super) fn begin(&mut self, groups: &[Group], x: &mut SpillBuffer) -> Result<()> {
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
}
