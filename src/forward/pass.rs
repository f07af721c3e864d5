//! The walk: layer by layer over all tokens, a group of chunks at a time.
//!
//! A layer is finished for all tokens before the next begins, so that an observer can be done with its statistics
//! before it gets those of the next. Weights are read once for each group.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::forward::Observer;
use crate::forward::activation;
use crate::forward::arch::Order;
use crate::forward::attention::{self, Shape};
use crate::forward::buffers::Buffer;
use crate::forward::model::{Layer, Model};
use crate::forward::norm::NormOf;
use crate::forward::rope::Table;
use crate::forward::store::Store;
use crate::forward::weights::{Linear, Weights};
use crate::model::bound::BoundModel;
use crate::progress::Progress;
use crate::work;

/// Values of a parallel piece.
const PIECE: usize = 1 << 14;

pub struct RunOptions<'a> {
    /// Compute the logits of every token, too; they come on top of `max_memory`.
    pub logits: bool,
    pub threads: usize,
    /// Bytes of weights and activations alive at any time. States that do not fit go to a file without a name in
    /// `spill_folder`; a chunk that does not fit is run all the same.
    pub max_memory: u64,
    pub spill_folder: &'a Path,
    /// Counts steps, each a layer of a group of chunks.
    pub progress: &'a Progress,
}

/// Of every token of every chunk, one after another.
#[derive(Debug)]
pub struct Logits {
    pub values: Vec<f32>,
    /// Of a token: the vocabulary, or the hidden size in a model without an output matrix (an encoder).
    pub columns: usize,
}

/// Runs `source` on `tokens`, chunks that do not see each other, and shows `observer` every matrix's inputs.
///
/// The result has the same bits for any number of threads and on every CPU, and what a chunk gives depends on no other.
///
/// # Errors
/// [`Error::Usage`] for no chunks, an empty one or a token out of range; [`Error::Model`] for an architecture the pass
/// does not know; whatever reading or the observer fails with; [`Error::Interrupted`] after [`Progress::cancel`].
pub fn run(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    observer: &mut dyn Observer,
    options: &RunOptions,
) -> Result<Option<Logits>> {
    work::pool("srd-forward", options.threads)?.install(|| {
        let weights = Weights::new(source, options.progress, options.max_memory / 8);
        let longest = longest(tokens)?;
        let model = Model::read(source, &weights, longest)?;
        check_tokens(tokens, model.n_vocab)?;
        let tables = model.ropes.iter().map(|r| r.table(longest)).collect();
        let pass = Pass { model: &model, weights: &weights, observer, tables, kv: BTreeMap::new() };
        pass.walk(source, tokens, options)
    })
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
            let what = format!("token {token} of chunk {i} is out of range: the model knows {n_vocab}");
            return Err(Error::usage(what, "Tokenise with the model's own tokenizer"));
        }
    }
    Ok(())
}

/// Chunks that go through a layer together.
pub(super) struct Group {
    /// Row of the first token among all.
    first: usize,
    pub tokens: Vec<u32>,
    /// Of each token in its chunk.
    pub positions: Vec<u32>,
    /// Of each chunk.
    pub lengths: Vec<usize>,
}

/// As many chunks as fit into `limit` tokens, but at least one.
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

/// A run.
pub(super) struct Pass<'a> {
    pub model: &'a Model,
    pub weights: &'a Weights<'a>,
    observer: &'a mut dyn Observer,
    /// Of full layers, then of sliding ones.
    tables: Vec<Table>,
    /// Keys and values that later layers use, by layer.
    kv: BTreeMap<usize, [Store; 2]>,
}

impl Pass<'_> {
    fn walk(
        mut self,
        source: &BoundModel,
        tokens: &[Vec<u32>],
        options: &RunOptions,
    ) -> Result<Option<Logits>> {
        let model = self.model;
        let per_token = model.values_per_token(source) * size_of::<f32>();
        let limit = (options.max_memory / 2) as usize / per_token;
        let groups = groups(tokens, limit);
        let steps = &options.progress;
        steps.start("", ((model.layers.len() + 1) * groups.len()) as u64);
        let mut x = self.begin(tokens, options, &groups)?;
        for layer in &model.layers {
            for group in &groups {
                let mut rows = self.weights.buffers.take(group.tokens.len() * model.width);
                x.load(group.first * model.width, &mut rows)?;
                self.layer(layer, group, &mut rows)?;
                x.save(group.first * model.width, &rows)?;
                steps.add(1);
            }
            self.forget_keys(layer.index);
        }
        let mut logits = options.logits.then(|| Logits { values: Vec::new(), columns: 0 });
        for group in &groups {
            let mut rows = self.weights.buffers.take(group.tokens.len() * model.width);
            x.load(group.first * model.width, &mut rows)?;
            self.head(rows, logits.as_mut())?;
            steps.add(1);
        }
        Ok(logits)
    }

    /// Places for all that lives from layer to layer, and the first layer's inputs.
    fn begin(&mut self, tokens: &[Vec<u32>], options: &RunOptions, groups: &[Group]) -> Result<Store> {
        let (model, n) = (self.model, tokens.iter().map(Vec::len).sum::<usize>());
        let shared: Vec<&Layer> = model.layers.iter().filter(|l| l.kv_shared).collect();
        let of_keys: usize = shared.iter().map(|l| l.n_head_kv * (l.head + l.head_v)).sum();
        let bytes = n * (model.width + of_keys) * size_of::<f32>();
        let spill = (bytes as u64 > options.max_memory / 4).then_some(options.spill_folder);
        for layer in shared {
            let store = |head| Store::new(n * layer.n_head_kv * head, spill);
            self.kv.insert(layer.index, [store(layer.head)?, store(layer.head_v)?]);
        }
        let mut x = Store::new(n * model.width, spill)?;
        let per_layer = self.weights.linear("per_layer_model_proj")?.filter(|_| model.per_layer > 0);
        for group in groups {
            let rows = self.embed(group)?;
            if let Some(projection) = &per_layer {
                self.observe(&[projection], None, model.width, &rows)?;
            }
            x.save(group.first * model.width, &rows)?;
        }
        Ok(x)
    }

    /// Drops the keys that no later layer uses.
    fn forget_keys(&mut self, done: usize) {
        let layers = &self.model.layers;
        self.kv.retain(|of, _| layers[done + 1..].iter().any(|l| l.index == *of || l.kv_of == Some(*of)));
    }

    /// Shows the observer `x`, the inputs (`n` values each) of `linears`.
    pub(super) fn observe(
        &mut self,
        linears: &[&Linear],
        expert: Option<usize>,
        n: usize,
        x: &[f32],
    ) -> Result<()> {
        let names: Vec<&str> = linears.iter().map(|l| l.name.as_str()).collect();
        self.observer.inputs(&names, expert, n, x)
    }

    /// Applies the norm `STEM.weight`, `STEM.bias` to rows as wide as it is. False if the model has none.
    pub(super) fn normalise(&self, stem: &str, x: &mut [f32]) -> Result<bool> {
        let name = format!("{stem}.weight");
        let Some(weight) = self.weights.vector(&name)? else { return Ok(false) };
        let n = self.weights.matrix(&name)?.cols;
        let bias = self.weights.vector_of(&format!("{stem}.bias"), weight.len())?.unwrap_or_default();
        NormOf { weight, bias, ..NormOf::bare(self.model.family.norm, self.model.eps) }.apply(x, n);
        Ok(true)
    }

    /// A norm of the layer's input, output or feed-forward: the family's name for it, none where that is empty.
    fn layer_norm(&self, layer: &Layer, name: &str, x: &mut [f32]) -> Result<()> {
        if self.model.family.bare_norms && matches!(name, "attn_norm" | "ffn_norm" | "output_norm") {
            NormOf::bare(self.model.family.norm, self.model.eps).apply(x, self.model.width);
        } else if !name.is_empty() {
            self.normalise(&format!("blk.{}.{name}", layer.index), x)?;
        }
        Ok(())
    }

    fn layer(&mut self, layer: &Layer, group: &Group, x: &mut [f32]) -> Result<()> {
        let (model, family) = (self.model, self.model.family);
        let after = family.order == Order::PostNorm;
        let mut input = self.weights.buffers.copy(x);
        self.layer_norm(layer, family.attention_norm, &mut input)?;
        let mut attended = self.attention(layer, group, &input)?;
        if !after {
            self.layer_norm(layer, family.attention_post_norm, &mut attended)?;
        }
        let parallel = model.parallel;
        if !parallel {
            add(x, &attended, model.residual_scale);
        }
        if after {
            self.layer_norm(layer, family.attention_post_norm, x)?;
        }
        if !parallel || self.weights.has(&format!("blk.{}.{}.weight", layer.index, family.ffn_norm)) {
            input.copy_from_slice(x);
            self.layer_norm(layer, family.ffn_norm, &mut input)?;
        }
        let mut y = self.feed_forward(layer, x, &input)?;
        if parallel {
            add(x, &attended, model.residual_scale);
        }
        if !after {
            self.layer_norm(layer, family.ffn_post_norm, &mut y)?;
        }
        add(x, &y, model.residual_scale);
        if after {
            self.layer_norm(layer, family.ffn_post_norm, x)?;
        }
        if model.per_layer > 0 {
            self.add_per_layer(layer, group, x)?;
        }
        if let Some(factor) =
            self.weights.vector_of(&format!("blk.{}.layer_output_scale.weight", layer.index), 1)?
        {
            scale(x, factor[0]);
        }
        Ok(())
    }

    fn attention(&mut self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Buffer> {
        let width = self.model.width;
        let of = Projections::find(self.weights, layer)?;
        self.observe(&of.observed(), None, width, input)?;
        let mut q = self.weights.apply(&of.q, input, width)?;
        self.finish_heads(layer, group, "attn_q_norm", layer.head, &mut q)?;
        self.heat(group, &mut q);
        let (k, v) = self.keys_and_values(layer, group, &of, input)?;
        let mut sums = self.weights.buffers.take(group.tokens.len() * layer.n_head * layer.head_v);
        attention::attend(&self.shape(layer), &q, &k, &v, &group.lengths, &mut sums);
        drop((q, k, v));
        let output = self.weights.needed_linear(&format!("blk.{}.attn_output", layer.index))?;
        let n = layer.n_head * layer.head_v;
        self.observe(&[&output], None, n, &sums)?;
        self.weights.apply(&output, &sums, n)
    }

    fn shape(&self, layer: &Layer) -> Shape {
        Shape {
            n_head: layer.n_head,
            n_head_kv: layer.n_head_kv,
            head: layer.head,
            head_v: layer.head_v,
            scale: layer.scale,
            cap: self.model.score_cap,
            window: layer.window,
            causal: layer.causal,
        }
    }

    /// Norm and rotation of queries or keys.
    fn finish_heads(
        &self,
        layer: &Layer,
        group: &Group,
        norm: &str,
        head: usize,
        x: &mut [f32],
    ) -> Result<()> {
        self.clamp(x);
        self.normalise(&format!("blk.{}.{norm}", layer.index), x)?;
        if let Some(rope) = layer.rope {
            let width = x.len() / group.tokens.len();
            self.tables[rope].rotate(x, width, head, &group.positions);
        }
        Ok(())
    }

    fn clamp(&self, x: &mut [f32]) {
        if let Some(limit) = self.model.clamp {
            x.par_chunks_mut(PIECE).for_each(|x| x.iter_mut().for_each(|x| *x = x.clamp(-limit, limit)));
        }
    }

    /// Queries far beyond the trained context grow with the logarithm of their position (Llama 4's rule).
    fn heat(&self, group: &Group, q: &mut [f32]) {
        let Some((factor, period)) = self.model.temperature else { return };
        let width = q.len() / group.tokens.len();
        q.par_chunks_mut(width).zip(&group.positions).for_each(|(q, &position)| {
            let by = libm::logf((position as f32 / period).floor() + 1.0) * factor + 1.0;
            q.iter_mut().for_each(|q| *q *= by);
        });
    }

    fn keys_and_values(
        &mut self,
        layer: &Layer,
        group: &Group,
        of: &Projections,
        input: &[f32],
    ) -> Result<(Buffer, Buffer)> {
        let tokens = group.tokens.len();
        let sizes = [layer.n_head_kv * layer.head, layer.n_head_kv * layer.head_v];
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
        self.finish_heads(layer, group, "attn_k_norm", layer.head, &mut k)?;
        self.clamp(&mut v);
        if self.model.family.value_norm {
            NormOf::bare(self.model.family.norm, self.model.eps).apply(&mut v, layer.head_v);
        }
        if let Some([keys, values]) = self.kv.get_mut(&layer.index) {
            keys.save(group.first * sizes[0], &k)?;
            values.save(group.first * sizes[1], &v)?;
        }
        Ok((k, v))
    }

    /// The last norm and, if they are wanted, the logits.
    fn head(&mut self, mut x: Buffer, logits: Option<&mut Logits>) -> Result<()> {
        let (model, weights) = (self.model, self.weights);
        if !model.family.head {
            if let Some(logits) = logits {
                logits.columns = model.width;
                logits.values.extend_from_slice(&x);
            }
            return Ok(());
        }
        if model.family.bare_norms {
            NormOf::bare(model.family.norm, model.eps).apply(&mut x, model.width);
        } else {
            self.normalise("output_norm", &mut x)?;
        }
        let output = match weights.linear("output")? {
            Some(output) => output,
            None => weights.needed_linear("token_embd")?,
        };
        self.observe(&[&output], None, model.width, &x)?;
        let Some(logits) = logits else { return Ok(()) };
        let start = logits.values.len();
        logits.columns = output.rows();
        logits.values.resize(start + x.len() / model.width * output.rows(), 0.0);
        let y = &mut logits.values[start..];
        weights.apply_to(&output, &x, model.width, y)?;
        scale(y, model.logit_scale);
        if let Some(cap) = model.logit_cap {
            activation::soft_cap(y, cap);
        }
        Ok(())
    }
}

/// The matrices that make queries, keys and values, which may be parts of one tensor.
struct Projections {
    q: Linear,
    /// None in a layer that uses the keys of an earlier one.
    k: Option<Linear>,
    /// None where the values are the keys.
    v: Option<Linear>,
}

impl Projections {
    fn find(weights: &Weights, layer: &Layer) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}", layer.index);
        let (n_q, n_k) = (layer.n_head * layer.head, layer.n_head_kv * layer.head);
        let n_v = layer.n_head_kv * layer.head_v;
        let own = layer.kv_of.is_none();
        let found = match weights.linear(&stem("attn_qkv"))? {
            Some(fused) => {
                weights.check_outputs(&fused, n_q + n_k + n_v)?;
                let k = fused.slice(n_q..n_q + n_k);
                let v = fused.slice(n_q + n_k..n_q + n_k + n_v);
                Self { q: fused.slice(0..n_q), k: Some(k).filter(|_| own), v: Some(v) }
            }
            None => Self {
                q: weights.needed_linear(&stem("attn_q"))?,
                k: if own { Some(weights.needed_linear(&stem("attn_k"))?) } else { None },
                v: weights.linear(&stem("attn_v"))?.filter(|_| own),
            },
        };
        weights.check_outputs(&found.q, n_q)?;
        found.k.iter().try_for_each(|k| weights.check_outputs(k, n_k))?;
        found.v.iter().try_for_each(|v| weights.check_outputs(v, n_v))?;
        Ok(found)
    }

    /// Each tensor once.
    fn observed(&self) -> Vec<&Linear> {
        let mut all: Vec<&Linear> =
            [Some(&self.q), self.k.as_ref(), self.v.as_ref()].into_iter().flatten().collect();
        all.dedup_by(|a, b| a.name == b.name);
        all
    }
}

/// `x += factor y`
pub(super) fn add(x: &mut [f32], y: &[f32], factor: f32) {
    x.par_chunks_mut(PIECE)
        .zip(y.par_chunks(PIECE))
        .for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y));
}

/// `x *= factor`
pub(super) fn scale(x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        x.par_chunks_mut(PIECE).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
    }
}
