//! In which order a pass reads the tensors of a model, so that remote tensors are fetched before they are needed.
//!
//! The order is a guess that costs time where it is wrong, and never changes a result: a tensor that was not fetched is fetched
//! when it is read.

use crate::model::bound::{BoundModel, BoundTensor};
use crate::model::source::Wanted;
use crate::quant::recipe::{PER_LAYER_TABLE, layer_of};

/// Parts of the names of the tensors of a layer, in the order of their use. Names that have none of these parts come first.
const USE: [&str; 10] = [
    "attn_q",
    "attn_kv",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate_inp",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "post_",
];

/// Beginnings of the names of what is read before the first layer: tables whose rows are looked up, and what follows them.
const FIRST: [&str; 3] = ["token_", "position_", "rope_"];
/// The matrix of which each layer uses its own rows, and the norm behind it.
const PROJECTION: [&str; 2] = ["per_layer_model_proj.weight", "per_layer_proj_norm.weight"];

/// The tensors of a model by the part of the pass that reads them, in the order of the file.
struct Parts<'a> {
    /// What is read before the first layer.
    tables: Vec<&'a BoundTensor>,
    per_layer: Option<&'a BoundTensor>,
    /// What all layers read.
    projection: Option<&'a BoundTensor>,
    norm: Option<&'a BoundTensor>,
    layers: Vec<Vec<&'a BoundTensor>>,
    /// What is read behind the last layer.
    rest: Vec<&'a BoundTensor>,
}

impl<'a> Parts<'a> {
    fn of(model: &'a BoundModel) -> Self {
        let (mut tables, mut rest): (Vec<&BoundTensor>, Vec<&BoundTensor>) = (Vec::new(), Vec::new());
        let mut layers: Vec<Vec<&BoundTensor>> = Vec::new();
        for tensor in model.tensors.iter().map(AsRef::as_ref) {
            match layer_of(&tensor.name).map(|layer| layer as usize) {
                Some(layer) if layer < model.tensors.len() => {
                    layers.resize_with(layers.len().max(layer + 1), Vec::new);
                    layers[layer].push(tensor);
                }
                _ if tensor.name == PER_LAYER_TABLE || PROJECTION.contains(&tensor.name.as_str()) => {}
                _ if FIRST.iter().any(|first| tensor.name.starts_with(first)) => tables.push(tensor),
                _ => rest.push(tensor),
            }
        }
        let named = |name: &str| model.tensors.iter().map(AsRef::as_ref).find(|tensor| tensor.name == name);
        let [projection, norm] = PROJECTION.map(named);
        Self { tables, per_layer: named(PER_LAYER_TABLE), projection, norm, layers, rest }
    }

    /// Returns what is read of a layer for a group of tokens, in the order of the reads.
    fn of_layer(&self, number: usize) -> Vec<Wanted> {
        let mut layer = self.layers[number].clone();
        layer.sort_by_key(|tensor| {
            USE.iter().position(|part| tensor.name.contains(part)).map_or(0, |i| i + 1)
        });
        let (stacks, others): (Vec<_>, Vec<_>) =
            layer.into_iter().partition(|tensor| tensor.name.ends_with("_exps.weight"));
        let mut wanted = Vec::new();
        others.into_iter().for_each(|tensor| whole(tensor, &mut wanted));
        experts(&stacks, &mut wanted);
        let (number, count) = (number as u64, self.layers.len() as u64);
        for tensor in self.projection.iter().flat_map(|projection| sources_of(projection)) {
            wanted.push(Wanted::Part { tensor, number, count });
        }
        self.norm.iter().for_each(|norm| whole(norm, &mut wanted));
        wanted
    }
}

/// Returns what passes read that compute one layer after another together: the tables of embeddings, each layer once for each pass and
/// each of its `groups` groups of tokens, and the output. What the observer reads when a layer or the model is finished (`reads_again` is
/// asked for each name) follows the layer or the output.
pub fn order(
    model: &BoundModel,
    passes: usize,
    groups: usize,
    reads_again: &dyn Fn(&str) -> bool,
) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let parts = Parts::of(model);
    for _ in 0..passes {
        (0..groups).for_each(|_| parts.tables.iter().for_each(|tensor| whole(tensor, &mut wanted)));
        parts.per_layer.iter().for_each(|table| whole(table, &mut wanted));
    }
    let again = |of: &[&BoundTensor], wanted: &mut Vec<Wanted>| {
        of.iter().filter(|t| reads_again(&t.name)).for_each(|tensor| whole(tensor, wanted));
    };
    for number in 0..parts.layers.len() {
        let of_layer = parts.of_layer(number);
        (0..passes * groups).for_each(|_| wanted.extend_from_slice(&of_layer));
        if number + 1 < parts.layers.len() {
            again(&parts.layers[number], &mut wanted);
        }
    }
    (0..passes * groups).for_each(|_| parts.rest.iter().for_each(|tensor| whole(tensor, &mut wanted)));
    again(&parts.rest, &mut wanted);
    again(parts.layers.last().map_or(&[], Vec::as_slice), &mut wanted);
    wanted
}

/// Returns what a pass reads that goes from the first layer to the last one and back: on the way back, each group of tokens reads a layer
/// once to compute it again and once for the products with the transposed matrices.
pub fn order_there_and_back(model: &BoundModel, groups: usize) -> Vec<Wanted> {
    let mut wanted = order(model, 1, groups, &|_| false);
    let parts = Parts::of(model);
    for number in (0..parts.layers.len()).rev() {
        let of_layer = parts.of_layer(number);
        (0..2 * groups).for_each(|_| wanted.extend_from_slice(&of_layer));
    }
    wanted
}

/// Returns what one step of a pass with `layers` layers reads: the tables before the first layer, a layer, or what comes behind the last
/// layer, once for each of `groups` groups of tokens.
pub fn order_of_step(model: &BoundModel, number: usize, layers: usize, groups: usize) -> Vec<Wanted> {
    let parts = Parts::of(model);
    let mut wanted = Vec::new();
    if number == 0 {
        (0..groups).for_each(|_| parts.tables.iter().for_each(|tensor| whole(tensor, &mut wanted)));
    }
    let of_step = match number < layers.min(parts.layers.len()) {
        true => parts.of_layer(number),
        false => {
            let mut of_step = Vec::new();
            parts.rest.iter().for_each(|tensor| whole(tensor, &mut of_step));
            of_step
        }
    };
    (0..groups).for_each(|_| wanted.extend_from_slice(&of_step));
    wanted
}

/// Adds the matrices of stacks of experts, one expert after another.
fn experts(stacks: &[&BoundTensor], wanted: &mut Vec<Wanted>) {
    let count = stacks.iter().map(|t| t.ne.last().copied().unwrap_or(1)).max().unwrap_or(0);
    let sources: Vec<Vec<usize>> = stacks.iter().map(|tensor| sources_of(tensor)).collect();
    for expert in 0..count {
        for of in &sources {
            let parts = of.len() as u64;
            if parts >= count && parts.is_multiple_of(count) {
                let each = (parts / count) as usize;
                let first = expert as usize * each;
                wanted.extend(of[first..first + each].iter().map(|&tensor| Wanted::Tensor(tensor)));
            } else {
                wanted.extend(of.iter().map(|&tensor| Wanted::Part { tensor, number: expert, count }));
            }
        }
    }
}

fn whole(tensor: &BoundTensor, wanted: &mut Vec<Wanted>) {
    wanted.extend(sources_of(tensor).into_iter().map(Wanted::Tensor));
}

fn sources_of(tensor: &BoundTensor) -> Vec<usize> {
    let mut found = Vec::new();
    tensor.source.for_each_source(&mut |index| found.push(index));
    found
}
