"""The tables of the models of PowerInfer (SmallThinker)."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, NORMS

_SLIDING: Final = (
    "sliding_window_layout != None and count(sliding_window_layout, 0) < len(sliding_window_layout)"
)

SMALLTHINKER: Final = FamilyTable(
    arch="smallthinker",
    classes=("SmallThinkerForCausalLM",),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 1536,
        "moe_ffn_hidden_size": 768,
        "num_hidden_layers": 32,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "moe_num_primary_experts": 32,
        "moe_num_active_primary_experts": 4,
        "tie_word_embeddings": True,
    },
    n_ff="moe_ffn_hidden_size",
    layer=(Rows((*NORMS, *ATTENTION, "block_sparse_moe.primary_router > ffn_gate_inp | e d")),),
    experts=StackedExperts(
        "block_sparse_moe.experts",
        "moe_num_primary_experts",
        "moe_num_active_primary_experts",
        ("down ffn_down_exps d f", "gate ffn_gate_exps f d", "up ffn_up_exps f d"),
    ),
    metadata=(
        "u32 ~expert_feed_forward_length = n_ff",
        "u32 ~expert_gating_func = 1 if moe_primary_router_apply_softmax else 2",
        f"u32 ~attention.sliding_window = sliding_window_size if {_SLIDING} else None",
    ),
    refusals=(
        Refusal(
            f"(sliding_window_layout[layer] != 0) != (layer % 4 != 0) if {_SLIDING} else 0",
            "the layers without a sliding window are not every fourth (sliding_window_layout)",
            per_layer=True,
        ),
        Refusal(
            f"rope_layout != None and (rope_layout[layer] != 0) != (layer % 4 != 0 if {_SLIDING} else 1)",
            "the layers without RoPE are not those without a sliding window (rope_layout)",
            per_layer=True,
        ),
        Refusal(
            "moe_layer_layout != None and moe_layer_layout[layer] == 0",
            "some layers are dense (moe_layer_layout)",
            per_layer=True,
        ),
        Refusal("moe_enable_secondary_experts", "there are secondary experts"),
        Refusal("moe_enable_early_router == 0", "the router does not run before attention"),
    ),
    rope_theta=1_500_000.0,
)
