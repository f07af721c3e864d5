//! In which order a pass reads the tensors of a model, so that remote tensors are fetched before they are needed.
//!
//! The order is a guess that costs time where it is wrong, and never changes a result: a tensor that was not fetched is fetched
//! when it is read.

use crate::model::bound::{BoundModel, BoundTensor};
use crate::model::source::Wanted;
use crate::quant::recipe::layer_of;

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

/// Tables whose rows are looked up before the first layer.
const TABLES: [&str; 3] = ["token_embd.weight", "position_embd.weight", "token_types.weight"];
/// The table whose rows are looked up once for all groups of tokens.
const PER_LAYER: &str = "per_layer_token_embd.weight";

/// Returns what a pass reads: the tables of embeddings, each layer once for each of `groups` groups of tokens, and the output.
pub fn order(model: &BoundModel, groups: usize) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let (mut tables, mut rest): (Vec<&BoundTensor>, Vec<&BoundTensor>) = (Vec::new(), Vec::new());
    let mut layers: Vec<Vec<&BoundTensor>> = Vec::new();
    for tensor in model.tensors.iter().map(AsRef::as_ref) {
        match layer_of(&tensor.name).map(|layer| layer as usize) {
            Some(layer) if layer < model.tensors.len() => {
                layers.resize_with(layers.len().max(layer + 1), Vec::new);
                layers[layer].push(tensor);
            }
            _ if TABLES.contains(&tensor.name.as_str()) => tables.push(tensor),
            _ if tensor.name == PER_LAYER => {}
            _ => rest.push(tensor),
        }
    }
    (0..groups).for_each(|_| tables.iter().for_each(|tensor| whole(tensor, &mut wanted)));
    if let Some(table) = model.tensors.iter().find(|tensor| tensor.name == PER_LAYER) {
        whole(table, &mut wanted);
    }
    for mut layer in layers {
        layer.sort_by_key(|tensor| {
            USE.iter().position(|part| tensor.name.contains(part)).map_or(0, |i| i + 1)
        });
        let (stacks, others): (Vec<_>, Vec<_>) =
            layer.into_iter().partition(|tensor| tensor.name.ends_with("_exps.weight"));
        let mut of_layer = Vec::new();
        others.into_iter().for_each(|tensor| whole(tensor, &mut of_layer));
        experts(&stacks, &mut of_layer);
        (0..groups).for_each(|_| wanted.extend_from_slice(&of_layer));
    }
    (0..groups).for_each(|_| rest.iter().for_each(|tensor| whole(tensor, &mut wanted)));
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
