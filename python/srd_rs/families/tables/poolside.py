"""The tables of the models of Poolside."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, GATED_EXPERTS, GATED_FFN, HEAD_NORMS, NORMS
from srd_rs.vocab import rules

_KIND: Final = "(gating_types[layer] if gating_types != None else 'per_head' if gating == 1 else gating)"
_SLIDES: Final = "[layer_types[i] == 'sliding_attention' for i in layers]"

LAGUNA: Final = FamilyTable(
    arch="laguna",
    classes=("LagunaForCausalLM",),
    defaults={
        "vocab_size": 100352,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_hidden_layers": 40,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "sliding_window": 512,
        "gating": True,
        "moe_routed_scaling_factor": 1.0,
        "rope_parameters": {
            "full_attention": {"rope_theta": 500000.0, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
        "tie_word_embeddings": False,
    },
    n_head="num_attention_heads_per_layer[layer] if num_attention_heads_per_layer != None"
    " else num_attention_heads",
    sizes={
        "x": "moe_intermediate_size",
        "shared": "shared_expert_intermediate_size",
        "dense": "count(mlp_layer_types, 'dense') if mlp_layer_types != None else 1",
        "by_element": f"{_KIND} in ['per-element', 'per_element']",
    },
    layer=(
        Rows((*NORMS, *ATTENTION, *HEAD_NORMS)),
        Rows(("self_attn.g_proj > attn_gate | n_head d",), "not by_element"),
        Rows(("self_attn.g_proj > attn_gate | q d",), "by_element"),
        Rows(GATED_FFN, "layer < dense"),
        Rows(
            (
                "mlp.gate > ffn_gate_inp | e d",
                "mlp.experts.e_score_correction_bias! > exp_probs_b=.bias | e | ?",
                "mlp.shared_expert.gate_proj > ffn_gate_shexp | shared d",
                "mlp.shared_expert.up_proj > ffn_up_shexp | shared d",
                "mlp.shared_expert.down_proj > ffn_down_shexp | d shared",
            ),
            "layer >= dense",
        ),
    ),
    experts=StackedExperts(
        "mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS, "layer >= dense"
    ),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.sliding_window = sliding_window if sliding_window > 0 else None",
        f"bools ~attention.sliding_window_pattern = None if layer_types == None or sliding_window == 0"
        f" else None if {_SLIDES} == [i % 4 != 0 for i in layers] else {_SLIDES}",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_feed_forward_length = shared",
        "bool ~expert_weights_norm = 1 == 1",
        "f32 ~expert_weights_scale = float(moe_routed_scaling_factor)",
        "u32 ~expert_gating_func = 2",
        "u32 ~leading_dense_block_count = dense",
        "u32 ~rope.dimension_count = int(h * rope_fraction)",
        "u32 ~rope.dimension_count_swa = None if rope_sliding == None"
        " else int(h * first(rope_sliding['partial_rotary_factor'], 1.0))",
    ),
    refusals=(
        Refusal(
            "mlp_layer_types != None and (mlp_layer_types[layer] == 'dense') != (layer < dense)",
            "layers without experts come behind layers with experts (mlp_layer_types)",
            per_layer=True,
        ),
        Refusal(
            f"not ({_KIND} in ['per-element', 'per_element', 'per-head', 'per_head'])",
            "the gate of attention is of an unknown kind (gating, gating_types)",
            "Correct gating in config.json: per-head or per-element",
            per_layer=True,
        ),
        Refusal("first(moe_router_logit_softcapping, 0) != 0", "the scores of experts are capped"),
    ),
    vocabulary=rules.LAGUNA,
)
