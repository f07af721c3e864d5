"""The tables of the models of rednote-hilab (dots)."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_FFN,
    HEAD_NORMS,
    NORMS,
    NOT_LEADING,
    ROUTER_BIAS,
    SHARED_EXPERTS,
    flagged,
    leading_dense,
)
from srd_rs.families.tables.deepseek import ROUTED

DOTS1: Final = FamilyTable(
    arch="dots1",
    classes=("Dots1ForCausalLM",),
    defaults={
        "vocab_size": 152064,
        "hidden_size": 4608,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "n_routed_experts": 128,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": False,
        "tie_word_embeddings": False,
    },
    sizes={
        "dense": leading_dense(0),
        "x": "moe_intermediate_size",
        "shared": "first(n_shared_experts, 0)",
    },
    layer=(
        Rows((*NORMS, *flagged(ATTENTION, "bias?"), *HEAD_NORMS)),
        Rows(GATED_FFN, "layer < dense"),
        Rows(("mlp.gate > ffn_gate_inp | e d", ROUTER_BIAS), "layer >= dense"),
        Rows(SHARED_EXPERTS, "layer >= dense and shared > 0"),
    ),
    experts=ROUTED,
    metadata=(
        "u32 ~expert_gating_func = 2",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~leading_dense_block_count = dense",
        "u32 ~expert_shared_count = shared",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        "bool ~expert_weights_norm = norm_topk_prob",
    ),
    refusals=(NOT_LEADING,),
)
