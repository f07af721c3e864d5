"""The tables of the models of Cohere."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_EXPERTS,
    GATED_FFN,
    NO_WINDOW,
    OTHER_PATTERN,
    TIED_HEAD,
    sliding,
)

_COMMAND: Final = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
}
# One norm, behind which attention and feed-forward stand side by side.
_COMMAND_LAYER: Final = Rows(("input_layernorm > attn_norm | d", *ATTENTION, *GATED_FFN))
_CONTEXT: Final = "u32 ~context_length = first(model_max_length, max_position_embeddings)"
"""max_position_embeddings is far below what the models were trained on."""

_UNSCALED: Final = "str ~rope.scaling.type = 'none' if rope['rope_type'] in ['default', 'dynamic'] else None"

_UNTIED: Final = Refusal(
    "tie_word_embeddings == 0 or has('lm_head.weight')",
    "the output matrix is not the embedding (tie_word_embeddings)",
)
"""Command models are tied where config.json says nothing. An output matrix that is a copy is left out before."""

COMMAND_R: Final = FamilyTable(
    arch="command-r",
    classes=("CohereForCausalLM",),
    defaults=_COMMAND,
    layer=(
        _COMMAND_LAYER,
        Rows(
            ("self_attn.q_norm > attn_q_norm | n_head h", "self_attn.k_norm > attn_k_norm | n_head_kv h"),
            when="use_qk_norm",
        ),
    ),
    metadata=(_CONTEXT, "f32 ~logit_scale = logit_scale", _UNSCALED),
    skip=TIED_HEAD,
    refusals=(
        _UNTIED,
        Refusal(
            "(use_qk_norm == 1) != (n_layer >= 64)",
            "llama.cpp loads norms of queries and keys (use_qk_norm) in a Command with 64 or more layers alone,"
            " so it does not load this file",
            warns=True,
        ),
    ),
    rope_theta=500_000.0,
    square_output=True,
)

COHERE2: Final = FamilyTable(
    arch="cohere2",
    classes=("Cohere2ForCausalLM",),
    defaults={**_COMMAND, "sliding_window": 4096},
    sizes=sliding(4),
    layer=(_COMMAND_LAYER,),
    head_dim="head_dim",
    metadata=(
        "f32 ~logit_scale = logit_scale",
        "u32 ~attention.sliding_window = sliding_window",
        OTHER_PATTERN,
        "u32 ~vocab_size = n_vocab",
        "u32 ~rope.dimension_count = n_embd // n_head",
        _UNSCALED,
    ),
    skip=TIED_HEAD,
    refusals=(NO_WINDOW, _UNTIED),
    square_output=True,
)

COHERE2_MOE: Final = FamilyTable(
    arch="cohere2moe",
    classes=("Cohere2MoeForCausalLM",),
    defaults={
        "vocab_size": 256000,
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "num_experts_per_tok": 2,
        "num_experts": 8,
        "num_shared_experts": 0,
        "expert_selection_fn": "softmax",
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
    },
    sizes={
        "x": "intermediate_size",
        "s": "x * num_shared_experts",
        "n_dense": "first(first_k_dense_replace, 0) if mlp_layer_types == None else count(mlp_layer_types, 'dense')",
        "shared": "num_shared_experts > 0",
    },
    n_ff="first(prefix_dense_intermediate_size, intermediate_size)",
    layer=(
        Rows(("input_layernorm > attn_norm | d", *ATTENTION)),
        Rows(GATED_FFN, "layer < n_dense"),
        Rows(("mlp.gate > ffn_gate_inp | e d",), "layer >= n_dense"),
        Rows(
            (
                "mlp.shared_experts.gate_proj > ffn_gate_shexp | s d",
                "mlp.shared_experts.up_proj > ffn_up_shexp | s d",
                "mlp.shared_experts.down_proj > ffn_down_shexp | d s",
            ),
            "shared and layer >= n_dense",
        ),
        Rows(
            (
                "eh_proj > nextn.eh_proj | d 2*d",
                "enorm > nextn.enorm | d",
                "hnorm > nextn.hnorm | d",
                "embed_tokens > nextn.embed_tokens | v d | ?",
                "shared_head.head > nextn.shared_head_head | v d | ?",
                "shared_head.norm > nextn.shared_head_norm | d | ?",
            ),
            "layer >= n_layer",
        ),
    ),
    mtp=Mtp("num_nextn_predict_layers"),
    experts=StackedExperts(
        "mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS, "layer >= n_dense"
    ),
    metadata=(
        "f32 ~logit_scale = logit_scale",
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = [kind == 'sliding_attention' for kind in layer_types]"
        " if layer_types != None"
        " else [(i + 1) % first(prefix_dense_sliding_window_pattern, 1) != 0 if i < n_dense"
        " else (i - n_dense + 1) % sliding_window_pattern != 0 for i in layers]",
        "u32 ~vocab_size = n_vocab",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~leading_dense_block_count = n_dense",
        "bool ~expert_weights_norm = norm_topk_prob",
        "u32 ~expert_shared_count = num_shared_experts if shared else None",
        "u32 ~expert_shared_feed_forward_length = s if shared else None",
        "u32 ~rope.dimension_count = head_dim",
        "str ~rope.scaling.type = 'none'",
    ),
    refusals=(
        Refusal(
            "shared and first(shared_expert_combination_strategy, 'average') != 'average'",
            "shared experts are not averaged with the others",
        ),
        Refusal(
            "mlp_layer_types != None and layer >= n_dense and mlp_layer_types[layer] == 'dense'",
            "a dense layer stands behind a layer with experts",
            per_layer=True,
        ),
    ),
)
