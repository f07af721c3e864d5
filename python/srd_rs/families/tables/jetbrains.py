"""The tables of the models of JetBrains."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, GATED_EXPERTS, HEAD_NORMS, NORMS

_WINDOW: Final = "sliding_window != None and first(use_sliding_window, 1) == 1"

MELLUM: Final = FamilyTable(
    arch="mellum",
    classes=("MellumForCausalLM",),
    defaults={
        "vocab_size": 98304,
        "hidden_size": 2304,
        "intermediate_size": 7168,
        "moe_intermediate_size": 896,
        "num_hidden_layers": 28,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "sliding_window": 1024,
        "rope_parameters": {
            "full_attention": {"rope_theta": 500000.0},
            "sliding_attention": {"rope_theta": 10000.0},
        },
        "tie_word_embeddings": False,
    },
    sizes={"x": "moe_intermediate_size"},
    layer=(Rows((*NORMS, *ATTENTION, *HEAD_NORMS, "mlp.gate > ffn_gate_inp | e d")),),
    experts=StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS),
    metadata=(
        "u32 ~expert_feed_forward_length = x",
        f"u32 ~attention.sliding_window = sliding_window if {_WINDOW} else None",
        f"bools ~attention.sliding_window_pattern = [part == 'sliding_attention' for part in layer_types]"
        f" if {_WINDOW} and layer_types != None else None",
    ),
    refusals=(
        Refusal(
            "mlp_layer_types != None and count(mlp_layer_types, 'dense') > 0",
            "some layers are dense (mlp_layer_types)",
        ),
        Refusal(
            f"{_WINDOW} and layer_types == None",
            "the layers with a sliding window are not named (layer_types)",
            "Add layer_types to config.json",
        ),
    ),
    output_needed=True,
)
