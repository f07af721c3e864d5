//! Finds the channels of a model that can be scaled without changing what the model computes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Place, Result};
use crate::forward::gradient::has_gradient;
use crate::forward::model::{Layer, Model};
use crate::forward::weights::Weights;
use crate::model::bound::{BoundModel, BoundTensor};
use crate::model::transform::BoundTransform;
use crate::model::transform::channels::Channels;
use crate::progress::Progress;

/// Returns the model with its channels scaled, so that the columns of each matrix are alike in size. The model computes the same.
///
/// There are channels between a norm and the matrices behind it, between the values of attention and the output matrix of attention,
/// and between `ffn_up` and `ffn_down`, where a gate multiplies the former. Parts that several layers share are left as they are.
///
/// # Errors
/// [`Error::Model`] for a model of which [`has_gradient`] does not know all parts, or that has no such channels, and as [`check`](crate::forward::check).
pub fn with_scaled_channels(mut model: BoundModel) -> Result<BoundModel> {
    if !has_gradient(&model)? {
        let what = "has parts that are not known, so its channels cannot be scaled";
        return Err(Error::model(Place::file(model.path()), what, "Leave out --scale-channels"));
    }
    let progress = Progress::default();
    let mut scaled = Scaled::default();
    {
        let weights = Weights::new(&model, &progress, 0);
        let read = Model::read(&model, &weights, 1)?;
        let tensors: HashMap<&str, &BoundTensor> =
            model.tensors.iter().map(|t| (t.name.as_str(), t.as_ref())).collect();
        for layer in &read.layers {
            scaled.add_layer(&read, layer, &tensors);
        }
    }
    if scaled.0.is_empty() {
        let what = "has no channels that can be scaled: its layers share norms, and nothing is gated";
        return Err(Error::model(Place::file(model.path()), what, "Leave out --scale-channels"));
    }
    for tensor in &mut model.tensors {
        let [columns, rows] = scaled.0.remove(&tensor.name).unwrap_or_default();
        if columns.is_none() && rows.is_none() {
            continue;
        }
        let source = Arc::new(BoundTransform::scaled(Arc::clone(&tensor.source), columns, rows));
        let BoundTensor { name, ne, stored, kept, .. } = tensor.as_ref();
        let (name, ne, stored, kept) = (name.clone(), ne.clone(), *stored, *kept);
        *tensor = Arc::new(BoundTensor { name, ne, stored, kept, source, blocks: None });
    }
    Ok(model)
}

/// The channels that the columns, and those that the rows, of each tensor are scaled by.
#[derive(Default)]
struct Scaled(HashMap<String, [Option<Arc<Channels>>; 2]>);

impl Scaled {
    fn add_layer(&mut self, model: &Model, layer: &Layer, tensors: &HashMap<&str, &BoundTensor>) {
        let family = model.family;
        let name = |part: &str| format!("blk.{}.{part}.weight", layer.index);
        let has = |part: &str| tensors.contains_key(name(part).as_str());
        let add = |scaled: &mut Self, makers: &[&str], takers: &[&str], heads: (usize, usize)| {
            let names: Vec<String> = takers.iter().filter(|part| has(part)).map(|part| name(part)).collect();
            let makers: Vec<String> = makers.iter().map(|part| name(part)).collect();
            scaled.add(&makers, &names, heads, tensors);
        };
        // Parallel parts share a norm in some models, and two norms can be one tensor.
        if !model.parallel && !family.norms_without_weights {
            let width = (model.width, 1);
            add(self, &[family.attention_norm], &["attn_qkv", "attn_q", "attn_k", "attn_v"], width);
            add(self, &[family.ffn_norm], &["ffn_gate", "ffn_up"], width);
        }
        if has("ffn_gate") {
            let channels = tensors.get(name("ffn_down").as_str()).map_or(0, |down| down.row_len() as usize);
            add(self, &["ffn_up"], &["ffn_down"], (channels, 1));
        }
        let is_own = layer.kv_of.is_none() && !layer.kv_shared && !family.value_norm;
        if is_own && has("attn_v") && layer.n_head_kv > 0 && layer.n_head.is_multiple_of(layer.n_head_kv) {
            let heads = (layer.head_dim_v, layer.n_head / layer.n_head_kv);
            add(self, &["attn_v"], &["attn_output"], heads);
        }
    }

    /// Scales the channels that the rows of `makers`, and their biases, make, and that the columns of `takers` take. Does nothing where
    /// a tensor is missing or has another shape, or keeps the blocks and scales that the checkpoint has.
    fn add(
        &mut self,
        makers: &[String],
        takers: &[String],
        heads: (usize, usize),
        tensors: &HashMap<&str, &BoundTensor>,
    ) {
        let found = |names: &[String]| -> Option<Vec<&BoundTensor>> {
            names.iter().map(|name| tensors.get(name.as_str()).copied()).collect()
        };
        let (Some(made_by), Some(taken_by)) = (found(makers), found(takers)) else { return };
        let Some(columns) = taken_by.first().map(|t| t.row_len()) else { return };
        let channels = columns / heads.1 as u64;
        let has_scale = |name: &str| {
            let stem = name.trim_end_matches("weight");
            ["scale", "input_scale"].iter().any(|end| tensors.contains_key(format!("{stem}{end}").as_str()))
        };
        let is_plain = |t: &&BoundTensor| t.blocks.is_none() && !has_scale(&t.name);
        let is_matrix = |t: &&BoundTensor| t.ne.len() == 2 && t.row_len() == columns && is_plain(t);
        let makes = |t: &&BoundTensor| t.ne.last() == Some(&channels) && t.ne.len() <= 2 && is_plain(t);
        if !taken_by.iter().all(is_matrix) || !made_by.iter().all(makes) || channels == 0 {
            return;
        }
        let sources = taken_by.iter().map(|t| Arc::clone(&t.source)).collect();
        let found = Arc::new(Channels::new(sources, heads));
        for name in takers {
            self.0.entry(name.clone()).or_default()[0] = Some(Arc::clone(&found));
        }
        for name in makers {
            let bias = format!("{}bias", name.trim_end_matches("weight"));
            for name in [name.clone(), bias].into_iter().filter(|name| tensors.contains_key(name.as_str())) {
                self.0.entry(name).or_default()[1] = Some(Arc::clone(&found));
            }
        }
    }
}
