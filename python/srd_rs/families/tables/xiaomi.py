"""The tables of the models of Xiaomi."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import GATED_EXPERTS, GATED_FFN, NEXTN, ROUTER_BIAS

_SLIDES: Final = "(layer >= n_layer or hybrid_layer_pattern[layer] == 1)"
_FUSED: Final = "layer_has('self_attn.qkv_proj.weight')"

MIMO2: Final = FamilyTable(
    arch="mimo2",
    classes=("MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
    defaults={
        "vocab_size": 152576,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 192,
        "v_head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "partial_rotary_factor": 0.334,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
    },
    spellings={"rms_norm_eps": ("layernorm_epsilon",)},
    n_head_kv=f"first(swa_num_key_value_heads, num_key_value_heads) if {_SLIDES} else num_key_value_heads",
    sizes={
        "x": "moe_intermediate_size",
        "vw": "n_head_kv * v_head_dim",
        "qkv": "(n_head + n_head_kv) * h + vw",
        "mixture": "layer < n_layer and moe_layer_freq[layer] == 1",
    },
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                "self_attn.attention_sink_bias! > attn_sinks | n_head | ?",
                "self_attn.o_proj > attn_output | d n_head*v_head_dim",
            )
        ),
        Rows(("self_attn.qkv_proj > attn_qkv | qkv d",), _FUSED),
        Rows(
            (
                "self_attn.q_proj > attn_q | q d",
                "self_attn.k_proj > attn_k | k d",
                "self_attn.v_proj > attn_v | vw d",
            ),
            f"not {_FUSED}",
        ),
        Rows(("post_attention_layernorm > ffn_norm | d",), "layer < n_layer"),
        Rows(
            (
                NEXTN[0],
                *NEXTN[2:4],
                "pre_mlp_layernorm > ffn_norm | d",
                "final_layernorm > layer_output_norm | d",
            ),
            "layer >= n_layer",
        ),
        Rows(GATED_FFN, "not mixture"),
        Rows(("mlp.gate > ffn_gate_inp | e d", ROUTER_BIAS), "mixture"),
    ),
    experts=StackedExperts(
        "mlp.experts", "n_routed_experts", "num_experts_per_tok", GATED_EXPERTS, "mixture"
    ),
    mtp=Mtp("num_nextn_predict_layers", "model.mtp.layers"),
    metadata=(
        "u32 ~attention.sliding_window = first(sliding_window_size, sliding_window)",
        f"i32s ~attention.sliding_window_pattern = 1 if {_SLIDES} else 0",
        "u32 ~attention.value_length = v_head_dim",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~rope.dimension_count = int(h * rope_fraction)",
        "f32 ~attention.value_scale = attention_value_scale",
    ),
    refusals=(
        Refusal(
            "first(swa_head_dim, h) != h or first(swa_v_head_dim, v_head_dim) != v_head_dim"
            " or first(swa_num_attention_heads, num_attention_heads) != num_attention_heads",
            "sliding layers have heads of another number or size (swa_head_dim, swa_num_attention_heads)",
        ),
        Refusal("n_shared_experts", "there are shared experts (n_shared_experts)"),
    ),
    rope_theta=5_000_000.0,
    output_needed=True,
)
