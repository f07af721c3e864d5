//! What the name of a tensor says: the layer, the kind of matrix, and whether the matrix is ever quantized.

/// llama-quantize's file order: the tensors outside the layers sorted by name, then layer by layer,
/// each sorted by name (bytewise). Returns indices into `names`.
pub fn layered_order(names: &[&str]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&i| (layer_of(names[i]), names[i]));
    order
}

/// Returns the layer of a tensor whose name begins with `blk.<decimal number>.`, and `None` for any other name.
pub fn layer_of(name: &str) -> Option<u32> {
    split_layer(name).0
}

/// Splits `blk.7.ffn_up.weight` into the layer 7 and `ffn_up.weight`. Any other name has no layer and stays whole.
pub fn split_layer(name: &str) -> (Option<u32>, &str) {
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let parts = parts.filter(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()));
    match parts.and_then(|(number, rest)| Some((number.parse().ok()?, rest))) {
        Some((layer, rest)) => (Some(layer), rest),
        None => (None, name),
    }
}

/// The kinds of matrices that the mixes tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    Output,
    TokenEmbedding,
    /// Attention values, alone or fused with queries and keys.
    AttnV,
    AttnK,
    AttnQ,
    AttnOutput,
    FfnGate,
    FfnUp,
    FfnDown,
    Other,
}

/// `(part of the name, kind)`: the first that is found decides.
const CATEGORIES: &[(&str, Category)] = &[
    ("attn_qkv.weight", Category::AttnV),
    ("attn_kv_b.weight", Category::AttnV),
    ("attn_v.weight", Category::AttnV),
    ("attn_k.weight", Category::AttnK),
    ("attn_q.weight", Category::AttnQ),
    ("attn_output.weight", Category::AttnOutput),
    ("ffn_up", Category::FfnUp),
    ("ffn_gate", Category::FfnGate),
    ("ffn_down", Category::FfnDown),
];

/// The table of the embeddings of tokens. It may be the output matrix as well.
pub const EMBEDDING: &str = "token_embd.weight";
/// The output matrix, where a model has one of its own.
pub const OUTPUT: &str = "output.weight";
/// The table of Gemma 4 of which each layer looks up columns of its own.
pub const PER_LAYER_TABLE: &str = "per_layer_token_embd.weight";

pub(super) fn category(name: &str) -> Category {
    match name {
        OUTPUT => Category::Output,
        EMBEDDING | PER_LAYER_TABLE => Category::TokenEmbedding,
        _ => CATEGORIES.iter().find(|(part, _)| name.contains(part)).map_or(Category::Other, |c| c.1),
    }
}

/// Parts of names of matrices that are never quantized: norms, routers, position tables and other
/// small or sensitive ones.
const KEPT: &[&str] = &[
    "_norm.weight",
    // Routing of experts.
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // Gemma 3n's and Gemma 4's small projections.
    "altup",
    "laurel",
    "per_layer_model_proj",
    // State space models: short convolutions.
    "ssm_conv1d",
    "shortconv.conv.weight",
    // Sparse attention indexers.
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // RWKV.
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // T5's relative positions.
    "attn_rel_b.weight",
    // Vision and audio towers.
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The same, for names given in full.
const KEPT_NAMES: &[&str] = &["position_embd.weight", "token_types.weight"];

/// Parts of names of matrices that are never quantized in one architecture: small ones that choose what the others see.
const KEPT_IN: &[(&str, &[&str])] = &[(
    "glm5-next",
    &[
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ],
)];

/// Parts of names of matrices that every mix gives Q8_0 in one architecture.
const Q8_0_IN: &[(&str, &[&str])] = &[("glm5-next", &["attn_q_a", "attn_q_b", "nextn.eh_proj"])];

fn listed(lists: &[(&str, &[&str])], arch: &str, name: &str) -> bool {
    lists.iter().any(|(of, parts)| *of == arch && parts.iter().any(|part| name.contains(part)))
}

/// Returns whether every mix gives Q8_0 to a matrix of a model of architecture `arch`.
pub(super) fn is_always_q8_0(arch: &str, name: &str) -> bool {
    listed(Q8_0_IN, arch, name)
}

/// Returns whether a tensor of a model of architecture `arch` is a matrix that recipes may quantize.
pub fn may_quantize(arch: &str, name: &str, ne: &[u64]) -> bool {
    let is_matrix = ne.iter().skip(1).any(|&n| n > 1);
    is_matrix
        && name.ends_with("weight")
        && !KEPT_NAMES.contains(&name)
        && !KEPT.iter().any(|part| name.contains(part))
        && !listed(KEPT_IN, arch, name)
}
