"""The tables of the OLMo models."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    BIASED_QKV,
    GATED_EXPERTS,
    GATED_FFN,
    LLAMA_BIASED_QKV,
    NORMS,
    NOT_NORMALIZED,
)
from srd_rs.families.tables.skeletons import NO_BIASES

OLMO: Final = FamilyTable(
    arch="olmo",
    classes=("OlmoForCausalLM",),
    defaults={
        **NO_BIASES,
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    top=("model.embed_tokens > token_embd | v d",),
    # The norms have no weights, and their epsilon is fixed in the code of both models.
    layer=(Rows((*LLAMA_BIASED_QKV, *GATED_FFN)),),
    metadata=("f32 ~attention.layer_norm_epsilon = 1e-5", "f32 ~attention.clamp_kqv = clip_qkv"),
    square_output=True,
)

OLMOE: Final = FamilyTable(
    arch="olmoe",
    classes=("OlmoeForCausalLM",),
    defaults={
        **OLMO.defaults,
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 8,
        "num_experts": 64,
    },
    sizes={"x": "n_ff"},
    layer=(
        Rows(
            (
                *NORMS,
                *BIASED_QKV,
                "self_attn.q_norm > attn_q_norm | q",
                "self_attn.k_norm > attn_k_norm | k",
                "mlp.gate > ffn_gate_inp | e d",
            )
        ),
    ),
    experts=StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS),
    refusals=(
        NOT_NORMALIZED,
        Refusal(
            "n_head_kv != n_head",
            "heads share keys and values (num_key_value_heads), and llama.cpp does not load an OLMoE with such heads",
            warns=True,
        ),
    ),
    output_needed=True,
    square_output=True,
)

OLMO2: Final = FamilyTable(
    arch="olmo2",
    classes=("Olmo2ForCausalLM",),
    defaults={
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                *ATTENTION,
                "self_attn.q_norm > attn_q_norm | q",
                "self_attn.k_norm > attn_k_norm | k",
                "post_attention_layernorm > post_attention_norm | d",
                "post_feedforward_layernorm > post_ffw_norm | d",
                *GATED_FFN,
            )
        ),
    ),
    output_needed=True,
    square_output=True,
)

OLMO3: Final = replace(
    OLMO2,
    classes=("Olmo3ForCausalLM",),
    defaults={**OLMO2.defaults, "sliding_window": 4096},
    sizes={
        "window": "None if layer_types != None and count(layer_types, 'sliding_attention') == 0 else sliding_window"
    },
    metadata=(
        "u32 ~attention.sliding_window = window",
        "bools ~attention.sliding_window_pattern = None if window == None"
        " else layer_types[layer] == 'sliding_attention' if layer_types != None else (layer + 1) % 4 != 0",
        "f32 ~rope.freq_base_swa = rope['rope_theta'] if rope_sliding == None and window != None else None",
    ),
    rope_theta=500_000.0,
    rope_theta_sliding=500_000.0,
    refusals=(
        Refusal(
            "window != None and rope_sliding['rope_theta'] != rope['rope_theta']",
            "the layers with a sliding window have another base of RoPE than the others (in transformers 5 it is 500000"
            " where rope_theta alone is stated), and llama.cpp has one base for all layers",
            "Write rope_parameters with one rope_theta for both types of layers if the model was trained so",
        ),
    ),
)

SPELLINGS: Final = {"OLMoForCausalLM": "OlmoForCausalLM"}
