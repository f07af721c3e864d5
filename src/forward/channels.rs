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
/// [`Error::Model`] for a model of which [`has_gradient`] does not know all parts, or that has no such channels, and as
/// [`check`](crate::forward::check).
pub fn with_scaled_channels(mut model: BoundModel) -> Result<BoundModel> {
    if !has_gradient(&model)? {
        let what = "has parts that are not known, so its channels cannot be scaled";
        return Err(Error::model(Place::file(model.path()), what, "Leave out --scale-channels"));
    }
    let mut found = Found::new(&model);
    {
        let progress = Progress::default();
        let weights = Weights::new(&model, &progress, 0);
        let read = Model::read(&model, &weights, 1)?;
        read.layers.iter().for_each(|layer| found.add_layer(&read, layer));
    }
    if found.channels.is_empty() {
        let what = "has no channels that can be scaled: its layers share norms, and nothing is gated";
        return Err(Error::model(Place::file(model.path()), what, "Leave out --scale-channels"));
    }
    for tensor in &mut model.tensors {
        let Some([columns, rows]) = found.channels.remove(&tensor.name) else { continue };
        let source = Arc::new(BoundTransform::scaled(Arc::clone(&tensor.source), columns, rows));
        let BoundTensor { name, ne, stored, kept, .. } = tensor.as_ref();
        let (name, ne, stored, kept) = (name.clone(), ne.clone(), *stored, *kept);
        *tensor = Arc::new(BoundTensor { name, ne, stored, kept, source, blocks: None });
    }
    Ok(model)
}

/// What was found in a model.
struct Found {
    tensors: HashMap<String, Arc<BoundTensor>>,
    /// The channels that the columns of a tensor take, and those that its rows make.
    channels: HashMap<String, [Option<Arc<Channels>>; 2]>,
}

impl Found {
    fn new(model: &BoundModel) -> Self {
        let tensors = model.tensors.iter().map(|t| (t.name.clone(), Arc::clone(t)));
        Self { tensors: tensors.collect(), channels: HashMap::new() }
    }

    fn add_layer(&mut self, model: &Model, layer: &Layer) {
        let (family, blk) = (model.family, format!("blk.{}.", layer.index));
        // Parallel parts may share a norm.
        if !model.parallel && !family.norms_without_weights {
            let width = (model.width, 1);
            self.add(&blk, family.attention_norm, &["attn_qkv", "attn_q", "attn_k", "attn_v"], width);
            self.add(&blk, family.ffn_norm, &["ffn_gate", "ffn_up"], width);
        }
        if self.tensors.contains_key(&format!("{blk}ffn_gate.weight")) {
            let down = self.tensors.get(&format!("{blk}ffn_down.weight"));
            let hidden = down.map_or(0, |down| down.row_len() as usize);
            self.add(&blk, "ffn_up", &["ffn_down"], (hidden, 1));
        }
        let is_own = layer.kv_of.is_none() && !layer.kv_shared && !family.value_norm;
        if is_own && layer.n_head_kv > 0 && layer.n_head.is_multiple_of(layer.n_head_kv) {
            let heads = (layer.head_dim_v, layer.n_head / layer.n_head_kv);
            self.add(&blk, "attn_v", &["attn_output"], heads);
        }
    }

    /// Notes the channels between `maker`, whose rows and bias make the channels, and the `takers` that the layer has, whose columns take
    /// the channels. Does nothing where a tensor is missing or has another shape, or keeps the blocks and scales that the checkpoint has.
    fn add(&mut self, blk: &str, maker: &str, takers: &[&str], heads: (usize, usize)) {
        let tensor = |part: &str| self.tensors.get(&format!("{blk}{part}.weight"));
        let takers: Vec<&Arc<BoundTensor>> = takers.iter().filter_map(|part| tensor(part)).collect();
        let Some(made_by) = tensor(maker) else { return };
        let Some(columns) = takers.first().map(|t| t.row_len()) else { return };
        let channels = columns / heads.1 as u64;
        let is_plain = |t: &BoundTensor| {
            let stem = t.name.trim_end_matches("weight");
            let has_scale = |end: &&str| self.tensors.contains_key(&format!("{stem}{end}"));
            t.blocks.is_none() && !["scale", "input_scale"].iter().any(has_scale)
        };
        let is_taker = |t: &&Arc<BoundTensor>| t.ne.len() == 2 && t.row_len() == columns && is_plain(t);
        let makes = made_by.ne.len() <= 2 && made_by.ne.last() == Some(&channels) && is_plain(made_by);
        if channels == 0 || !makes || !takers.iter().all(is_taker) {
            return;
        }
        let found = Arc::new(Channels::new(takers.iter().map(|t| Arc::clone(&t.source)).collect(), heads));
        let bias = format!("{blk}{maker}.bias");
        let makers = [made_by.name.clone(), bias].into_iter().filter(|name| self.tensors.contains_key(name));
        let noted = takers.iter().map(|t| (t.name.clone(), 0)).chain(makers.map(|name| (name, 1)));
        for (name, at) in noted.collect::<Vec<_>>() {
            self.channels.entry(name).or_default()[at] = Some(Arc::clone(&found));
        }
    }
}
