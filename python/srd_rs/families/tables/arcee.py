"""The tables of the Arcee models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_EXPERTS,
    GATED_FFN,
    HEAD_NORMS,
    LLAMA_BIASED_QKV,
    LLAMA_METADATA,
    NORMS,
    SHARED_EXPERTS,
)
from srd_rs.families.tables.skeletons import NO_BIASES
from srd_rs.vocab.rules import LLAMA

ARCEE: Final = FamilyTable(
    arch="arcee",
    classes=("ArceeForCausalLM",),
    vocabulary=LLAMA,
    defaults={
        **NO_BIASES,
        "vocab_size": 32000,
        "hidden_size": 2560,
        "intermediate_size": 18432,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                *NORMS[:1],
                *LLAMA_BIASED_QKV,
                *NORMS[1:],
                "mlp.up_proj > ffn_up | f d",
                "mlp.down_proj > ffn_down | d f",
            )
        ),
    ),
    metadata=LLAMA_METADATA,
    head_dim="head_dim",
    llama3_rope=True,
    pooling=True,
)

_EVERY_FOURTH: Final = "[(i + 1) % 4 != 0 for i in layers]"
_SLIDES: Final = (
    "[layer_types[i] == 'sliding_attention' for i in layers] if layer_types != None"
    " else [(i + 1) % first(global_attn_every_n_layers, 4) != 0 for i in layers]"
)

AFMOE: Final = FamilyTable(
    arch="afmoe",
    classes=("AfmoeForCausalLM",),
    defaults={
        "vocab_size": 200192,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 32,
        "num_dense_layers": 1,
        "num_attention_heads": 16,
        "head_dim": 128,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-5,
        "num_experts": 64,
        "num_experts_per_tok": 6,
        "num_shared_experts": 2,
        "route_scale": 1.0,
        "sliding_window": 1024,
        "tie_word_embeddings": False,
    },
    sizes={
        "slides": _SLIDES,
        "usual": _EVERY_FOURTH,
        "dense": "first(num_dense_layers, 0)",
        "x": "moe_intermediate_size",
        "shared": "first(num_shared_experts, 0)",
    },
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                *ATTENTION,
                *HEAD_NORMS,
                "self_attn.gate_proj > attn_gate | q d",
                "post_attention_layernorm > post_attention_norm | d",
                "pre_mlp_layernorm > ffn_norm | d",
                "post_mlp_layernorm > post_ffw_norm | d",
            )
        ),
        Rows(GATED_FFN, "layer < dense"),
        Rows(
            (
                "mlp.router.gate > ffn_gate_inp | e d",
                "mlp.expert_bias! > exp_probs_b=.bias | e | ?",
            ),
            "layer >= dense",
        ),
        Rows(SHARED_EXPERTS, "layer >= dense and shared > 0"),
    ),
    experts=StackedExperts(
        "mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS, "layer >= dense"
    ),
    metadata=(
        *LLAMA_METADATA,
        "u32 ~expert_shared_count = num_shared_experts",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~leading_dense_block_count = num_dense_layers",
        "bool ~expert_weights_norm = route_norm",
        "f32 ~expert_weights_scale = route_scale",
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = None if slides == usual else slides",
    ),
    refusals=(
        Refusal("mup_enabled == 0", "embeddings are not scaled by the root of their width (mup_enabled)"),
        Refusal(
            "len(layers) > 3 and slides != usual or sliding_window == 0",
            "the layers without a sliding window are not every fourth (layer_types, global_attn_every_n_layers)",
        ),
    ),
)
