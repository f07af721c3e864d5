"""The tables of the models of iFLYTEK (Spark)."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import GATED_FFN, NORMS

SPARK2_5: Final = FamilyTable(
    arch="spark2_5",
    classes=("Spark2_5ForCausalLM",),
    defaults={"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    sizes={"qkv": "(n_head + 2 * n_head_kv) * h"},
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.q_k_v_proj > attn_qkv | qkv d",
                "self_attn.g_proj > attn_gate | n_head d",
                "self_attn.o_proj > attn_output | d q",
                *GATED_FFN,
            )
        ),
    ),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = [part == 'sliding_attention' for part in layer_types]",
        "u32 ~rope.dimension_count = int(h * rope_fraction)",
        "u32 ~rope.dimension_count_swa = int(h * first(rope_sliding['partial_rotary_factor'], 1.0))",
    ),
    refusals=(
        Refusal(
            "first(gate_attn_act_mode, 'sigmoid') != 'sigmoid' or not headwise_attn_output_gate",
            "attention has no sigmoid gate for each head (gate_attn_act_mode, headwise_attn_output_gate)",
        ),
        Refusal("hidden_act != 'gelu'", "the activation is not GELU (hidden_act)"),
        Refusal("rope_sliding == None", "sliding layers have no RoPE parameters of their own"),
        Refusal(
            "layer_types == None or len(layer_types) != n_layer",
            "layer_types does not name the kind of each layer",
            "Correct layer_types in config.json",
        ),
    ),
)
