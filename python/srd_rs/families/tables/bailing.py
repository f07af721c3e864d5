"""The tables of the models of inclusionAI (Ling, Ring, GroveMoE), and of Sarvam, whose models have Ling's
architecture."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_EXPERTS,
    GATED_FFN,
    HEAD_NORMS,
    NEXTN,
    NORMS,
    SHARED_EXPERTS,
)
from srd_rs.families.tables.qwen import QWEN3_MOE

_ROUTED: Final = StackedExperts(
    "mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS, "layer >= dense"
)
_TOP: Final = ("model.word_embeddings > token_embd | v d", "model.norm > output_norm | d")
_QKV: Final = "attention.query_key_value > attn_{} | qkv d | bias? rows({}, {})"

BAILING_MOE: Final = FamilyTable(
    arch="bailingmoe",
    classes=("BailingMoeForCausalLM",),
    defaults={
        "vocab_size": 126464,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-6,
        "num_experts": 64,
        "num_experts_per_tok": 6,
        "num_shared_experts": 2,
        "first_k_dense_replace": 0,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    },
    sizes={
        "dense": "first_k_dense_replace",
        "x": "moe_intermediate_size",
        "shared": "first(num_shared_experts, 0)",
        "qkv": "(n_head + 2 * n_head_kv) * h",
    },
    top=_TOP,
    embedding="model.word_embeddings.weight",
    layer=(
        Rows(
            (
                *NORMS,
                _QKV.format("q", "0", "n_head * h") + " permute_q",
                _QKV.format("k", "n_head * h", "n_head_kv * h") + " permute_k",
                _QKV.format("v", "(n_head + n_head_kv) * h", "n_head_kv * h"),
                "attention.dense > attn_output | d q | bias?",
            )
        ),
        Rows(GATED_FFN, "layer < dense"),
        Rows(("mlp.gate > ffn_gate_inp | e d",), "layer >= dense"),
        Rows(SHARED_EXPERTS, "layer >= dense and shared > 0"),
    ),
    experts=_ROUTED,
    metadata=(
        "u32 ~rope.dimension_count = h",
        "u32 ~leading_dense_block_count = dense",
        "u32 ~vocab_size = n_vocab",
        "u32 ~expert_feed_forward_length = x",
        "f32 ~expert_weights_scale = 1.0",
        "u32 ~expert_shared_count = shared",
        "bool ~expert_weights_norm = norm_topk_prob",
    ),
    refusals=(
        Refusal(
            "norm_head",
            "the columns of the output matrix are to be divided by their lengths (norm_head)",
            "Divide each column of lm_head.weight by its length plus 1e-7, and set norm_head to false",
        ),
    ),
    rope_theta=600_000.0,
)

BAILING_MOE2: Final = FamilyTable(
    arch="bailingmoe2",
    classes=(
        "BailingMoeV2ForCausalLM",
        "SarvamMoEForCausalLM",
        "modeling_sarvam_moe.SarvamMoEForCausalLM",
    ),
    defaults={
        "vocab_size": 157184,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 20,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-6,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "first_k_dense_replace": 0,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "score_function": "sigmoid",
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    },
    class_defaults={
        "SarvamMoEForCausalLM": {"partial_rotary_factor": 1.0},
        "modeling_sarvam_moe.SarvamMoEForCausalLM": {"partial_rotary_factor": 1.0},
    },
    sizes={
        **BAILING_MOE.sizes,
        "sw": "first(moe_shared_expert_intermediate_size, x * shared)",
    },
    top=_TOP,
    embedding="model.word_embeddings.weight",
    layer=(
        Rows(
            (
                *NORMS,
                "attention.query_key_value > attn_qkv | qkv d | bias?",
                "attention.query_layernorm > attn_q_norm | h",
                "attention.key_layernorm > attn_k_norm | h",
                "attention.dense > attn_output | d q | bias?",
            )
        ),
        Rows(GATED_FFN, "layer < dense"),
        Rows(
            (
                "mlp.gate > ffn_gate_inp | e d",
                "mlp.gate.expert_bias! > exp_probs_b=.bias | e | ?",
                "mlp.shared_experts.gate_proj > ffn_gate_shexp | sw d",
                "mlp.shared_experts.up_proj > ffn_up_shexp | sw d",
                "mlp.shared_experts.down_proj > ffn_down_shexp | d sw",
            ),
            "layer >= dense",
        ),
        Rows(
            (NEXTN[0], *NEXTN[2:4], "final_layernorm > layer_output_norm | d"),
            "layer >= n_layer",
        ),
    ),
    experts=_ROUTED,
    mtp=Mtp("num_nextn_predict_layers"),
    metadata=(
        "u32 ~rope.dimension_count = int(h * rope_fraction)",
        *BAILING_MOE.metadata[1:4],
        "u32 ~expert_shared_feed_forward_length = sw",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        *BAILING_MOE.metadata[5:],
        "u32 ~nextn_predict_layers = 0 if num_nextn_predict_layers == 0 else None",
    ),
    rope_theta=600_000.0,
)

GROVEMOE: Final = FamilyTable(
    arch="grovemoe",
    classes=("GroveMoeForCausalLM", "modeling_grove_moe.GroveMoeForCausalLM"),
    defaults={**QWEN3_MOE.defaults, "head_dim": 128, "num_hidden_layers": 48},
    sizes={"x": "moe_intermediate_size", "w": "head_dim"},
    layer=(Rows((*NORMS, *ATTENTION, *HEAD_NORMS, "mlp.gate > ffn_gate_inp | e d")),),
    experts=(
        StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS),
        StackedExperts(
            "mlp.chunk_experts",
            "num_experts // 2",
            "1",
            (
                "down_proj ffn_down_chexps d w",
                "gate_proj ffn_gate_chexps w d",
                "up_proj ffn_up_chexps w d",
            ),
        ),
    ),
    metadata=(
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_chunk_feed_forward_length = w",
        "u32 ~experts_per_group = 2",
        "f32 ~expert_group_scale = 0.05",
    ),
    skip=((r"\.mlp\.expert_bias$", "that the model does not use"),),
    refusals=QWEN3_MOE.refusals,
    rope_theta=1_000_000.0,
)
