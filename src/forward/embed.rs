//! The inputs of the first layer, and the embeddings that Gemma 4 has for each layer.

use crate::error::{Error, Place, Result};
use crate::forward::activation;
use crate::forward::arch::Activation;
use crate::forward::buffers::Buffer;
use crate::forward::groups::Group;
use crate::forward::model::{Layer, Model};
use crate::forward::norm::Norm;
use crate::forward::pass::{Pass, RunOptions};
use crate::forward::spill::{Found, SpillBuffer};
use crate::forward::streams::Way;
use crate::forward::vectors::{add, scale};
use crate::forward::weights::{Linear, Weights};
use crate::quant::recipe::PER_LAYER_TABLE;

/// Number of rows of the table of embeddings for each layer that are in memory.
const LOOKED_UP: usize = 256;

/// The matrices with which a layer adds the embeddings that the tokens have for it.
pub(super) struct PerLayer {
    pub gate: Linear,
    pub projection: Linear,
}

impl PerLayer {
    /// The name of the norm behind the projection.
    pub const NORM: &str = "post_norm";

    /// Finds the matrices and checks their shapes.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if a matrix is missing or has another shape.
    pub fn find(weights: &Weights, model: &Model, layer: &Layer) -> Result<Self> {
        let gate = weights.required_linear(&format!("blk.{}.inp_gate", layer.index))?;
        let projection = weights.required_linear(&format!("blk.{}.proj", layer.index))?;
        weights.check_shape(&gate, model.per_layer, model.width)?;
        weights.check_shape(&projection, model.width, model.per_layer)?;
        Ok(Self { gate, projection })
    }
}

impl Pass<'_> {
    /// Returns the scaled embeddings of the tokens, plus the embeddings of their positions and types if the model has
    /// them.
    pub(super) fn embed(&self, group: &Group) -> Result<Buffer> {
        let (model, weights) = (self.model, self.weights);
        let width = model.width;
        let table = weights.matrix("token_embd.weight")?;
        let mut x = weights.buffers.take(group.tokens.len() * width);
        let own = group.tokens.len() / self.streams();
        let (first, others) = x.split_at_mut(own * width);
        weights.gather(&table, &group.tokens[..own], 0..width, first)?;
        for (&ty, x) in weights.embeddings().iter().zip(others.chunks_exact_mut(own * width)) {
            weights.gather_rounded(&table, &group.tokens[..own], 0..width, x, ty)?;
        }
        scale(&mut x, model.embedding_scale);
        if let Some(types) = weights.find("token_types.weight")? {
            // All tokens are of type 0.
            weights.check_inputs(&types, width)?;
            let mut first = vec![0.0; width];
            weights.gather(&types, &[0], 0..width, &mut first)?;
            x.chunks_exact_mut(width).for_each(|x| x.iter_mut().zip(&first).for_each(|(x, t)| *x += t));
        }
        if let Some(table) = weights.find("position_embd.weight")? {
            weights.check_inputs(&table, width)?;
            self.check_positions(group, table.rows)?;
            let mut added = weights.buffers.take(x.len());
            weights.gather(&table, &group.positions, 0..width, &mut added)?;
            x.iter_mut().zip(&*added).for_each(|(x, a)| *x += a);
        }
        if model.family.output_norm != "token_embd_norm" {
            self.normalize("token_embd_norm", &mut x)?;
        }
        Ok(x)
    }

    fn check_positions(&self, group: &Group, rows: usize) -> Result<()> {
        match group.lengths.iter().find(|&&n| n > rows) {
            None => Ok(()),
            Some(n) => Err(Error::usage(
                format!("a chunk has {n} tokens, but the model knows only {rows} positions"),
                "Use shorter chunks",
            )),
        }
    }

    /// Returns what [`Pass::embed`] returns, which may have been looked up before.
    pub(super) fn embedded(&self, group: &Group) -> Result<Buffer> {
        let Some(found) = &self.found else { return self.embed(group) };
        let width = self.model.width;
        let mut x = self.weights.buffers.take(group.tokens.len() * width);
        found.embedded.load(group.first * width, &mut x)?;
        Ok(x)
    }

    /// Looks up the embeddings of `n` tokens, and their embeddings for each layer. A local table is read again for each layer;
    /// one that comes over the network is read once, in the order of its rows.
    pub(super) fn look_up(&self, n: usize, groups: &[Group], options: &RunOptions) -> Result<Found> {
        let (weights, width, of_layer) = (self.weights, self.model.width, self.model.per_layer);
        let table = weights.matrix(PER_LAYER_TABLE)?;
        let layers = table.cols / of_layer;
        let spill = |values: usize| {
            let bytes = (values * size_of::<f32>()) as u64;
            (bytes > options.max_memory / 8).then_some(options.spill_folder)
        };
        let mut embedded = SpillBuffer::new(n * width, spill(n * width))?;
        for group in groups {
            embedded.save(group.first * width, &self.embed(group)?)?;
        }
        let values = n * layers * of_layer;
        let mut per_layer = SpillBuffer::new(values, spill(values))?;
        let mut tokens: Vec<(u32, usize)> = Vec::with_capacity(n);
        for group in groups {
            self.check_tokens(group, table.rows)?;
            tokens.extend(group.tokens.iter().zip(group.first..).map(|(&token, at)| (token, at)));
        }
        tokens.sort_unstable();
        for tokens in tokens.chunks(LOOKED_UP) {
            let ids: Vec<u32> = tokens.iter().map(|(token, _)| *token).collect();
            let mut rows = weights.buffers.take(ids.len() * table.cols);
            weights.gather(&table, &ids, 0..table.cols, &mut rows)?;
            for (row, (_, at)) in rows.chunks_exact(table.cols).zip(tokens) {
                for (layer, values) in row.chunks_exact(of_layer).enumerate() {
                    per_layer.save((layer * n + at) * of_layer, values)?;
                }
            }
        }
        Ok(Found { n, embedded, per_layer })
    }

    /// Returns the embeddings of the tokens for one layer, `[tokens, per_layer]`.
    pub(super) fn per_layer_input(&self, layer: &Layer, group: &Group) -> Result<Buffer> {
        let (weights, n) = (self.weights, self.model.per_layer);
        let columns = layer.index * n..(layer.index + 1) * n;
        let projection = weights.required_linear("per_layer_model_proj")?;
        let table = weights.matrix(PER_LAYER_TABLE)?;
        if projection.rows() < columns.end || table.cols < columns.end {
            let what = format!("has no {n} values for layer {}", layer.index);
            let place = Place::named_tensor("per_layer_model_proj.weight");
            return Err(Error::model(place, what, "Check that the model loads in llama.cpp"));
        }
        self.check_tokens(group, table.rows)?;
        let embedded = self.embedded(group)?;
        let mut y = weights.apply(&projection.slice(columns.clone()), &embedded, self.model.width)?;
        scale(&mut y, 1.0 / (self.model.width as f32).sqrt());
        let weight = weights.vector("per_layer_proj_norm.weight", n)?.unwrap_or_default();
        let norm = Norm { weight, ..Norm::without_weights(self.model.family.norm, self.model.eps) };
        norm.apply(&mut y, n);
        let mut of_tokens = weights.buffers.take(y.len());
        match &self.found {
            Some(found) => found.per_layer.load((layer.index * found.n + group.first) * n, &mut of_tokens)?,
            None => weights.gather(&table, &group.tokens, columns, &mut of_tokens)?,
        }
        let (root, half) = ((n as f32).sqrt(), std::f32::consts::FRAC_1_SQRT_2);
        y.iter_mut().zip(&*of_tokens).for_each(|(y, t)| *y = (*y + t * root) * half);
        Ok(y)
    }

    /// Adds the embeddings of the tokens for one layer, gated by `x`.
    pub(super) fn add_per_layer(&mut self, layer: &Layer, group: &Group, x: &mut [f32]) -> Result<()> {
        add(x, &self.per_layer(layer, group, x)?, 1.0);
        Ok(())
    }

    /// Returns the embeddings of the tokens for one layer, gated by `x` and projected to the width of the model.
    pub(super) fn per_layer(&mut self, layer: &Layer, group: &Group, x: &[f32]) -> Result<Buffer> {
        let (width, n) = (self.model.width, self.model.per_layer);
        let input = self.per_layer_input(layer, group)?;
        let PerLayer { gate, projection } = PerLayer::find(self.weights, self.model, layer)?;
        self.observe(&[&gate], None, width, x)?;
        let mut y = self.weights.apply(&gate, x, width)?;
        activation::gated(Activation::Gelu, &mut y, &input);
        let norm = format!("blk.{}.{}.weight", layer.index, PerLayer::NORM);
        self.note_missing(x, None, &Way::Normed(norm))?;
        self.observe(&[&projection], None, n, &y)?;
        self.missing = None;
        let mut y = self.weights.apply(&projection, &y, n)?;
        self.find_layer_norm(layer, PerLayer::NORM)?.iter().for_each(|norm| norm.apply(&mut y, width));
        Ok(y)
    }

    pub(super) fn check_tokens(&self, group: &Group, rows: usize) -> Result<()> {
        match group.tokens.iter().find(|&&t| t as usize >= rows) {
            None => Ok(()),
            Some(t) => Err(Error::usage(
                format!("token {t} is out of range: the model knows {rows} tokens"),
                "Use the model's own tokenizer",
            )),
        }
    }
}
