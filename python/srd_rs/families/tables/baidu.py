"""The tables of the models of Baidu."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.names import MTP
from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_EXPERTS,
    GATED_FFN,
    NORMS,
    SHARED_EXPERTS,
    flagged,
)
from srd_rs.vocab import rules

_FUSED_QKV: Final = "layer_has('self_attn.qkv_proj.weight')"
_FUSED_FFN: Final = "layer_has('mlp.up_gate_proj.weight')"

ERNIE: Final = FamilyTable(
    arch="ernie4_5",
    classes=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    defaults={
        "use_bias": False,
        "vocab_size": 103424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    sizes={"qkv": "(n_head + 2 * n_head_kv) * h", "q": "n_head * h"},
    layer=(
        Rows(NORMS),
        Rows(flagged(ATTENTION[:3], "bias?"), f"not {_FUSED_QKV}"),
        Rows(
            (
                "self_attn.qkv_proj > attn_q | qkv d | rows(0, n_head * h)",
                "self_attn.qkv_proj > attn_k | qkv d | rows(n_head * h, n_head_kv * h)",
                "self_attn.qkv_proj > attn_v | qkv d | rows((n_head + n_head_kv) * h, n_head_kv * h)",
            ),
            _FUSED_QKV,
        ),
        Rows(flagged(ATTENTION[3:], "bias?")),
        Rows(GATED_FFN, f"not {_FUSED_FFN}"),
        Rows(
            (
                "mlp.up_gate_proj > ffn_gate | 2*f d | rows(0, f)",
                "mlp.up_gate_proj > ffn_up | 2*f d | rows(f, f)",
                "mlp.down_proj > ffn_down | d f",
            ),
            _FUSED_FFN,
        ),
    ),
    renames=((r"^ernie\.", "model."),),
    rope_theta=500_000.0,
    vocabulary=rules.STATED_SPACE,
)

PADDLEOCR: Final = replace(
    ERNIE,
    arch="paddleocr",
    classes=("PaddleOCRVLForConditionalGeneration",),
    defaults={**ERNIE.defaults, "tie_word_embeddings": False},
)

ERNIE_MOE: Final = FamilyTable(
    arch="ernie4_5-moe",
    classes=("Ernie4_5_MoeForCausalLM",),
    defaults={
        "use_bias": False,
        "vocab_size": 103424,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "moe_k": 6,
        "moe_num_experts": 64,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_interval": 1,
        "tie_word_embeddings": True,
    },
    sizes={
        "x": "moe_intermediate_size",
        "shared": "first(moe_num_shared_experts, 0)",
        "mixture": "layer >= moe_layer_start_index",
    },
    layer=(
        Rows((*NORMS, *flagged(ATTENTION, "bias?"))),
        Rows(GATED_FFN, "not mixture"),
        Rows(
            (
                "mlp.gate > ffn_gate_inp | e d",
                "mlp.moe_statics.e_score_correction_bias! > exp_probs_b=.bias | 1 e | ?",
            ),
            "mixture",
        ),
        Rows(SHARED_EXPERTS, "mixture and shared > 0"),
    ),
    experts=StackedExperts("mlp.experts", "moe_num_experts", "moe_k", GATED_EXPERTS, "mixture"),
    metadata=(
        "u32 ~interleave_moe_layer_step = moe_layer_interval",
        "u32 ~leading_dense_block_count = moe_layer_start_index",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_count = moe_num_shared_experts",
        "u32 ~expert_shared_feed_forward_length = x * shared if shared > 0 else None",
    ),
    skip=((r"^(ernie|model)\.mtp_", MTP),),
    renames=ERNIE.renames,
    refusals=(
        Refusal("moe_layer_interval != 1", "not every layer has experts (moe_layer_interval)"),
        Refusal(
            "first(moe_layer_end_index, n_layer - 1) != n_layer - 1 and moe_layer_end_index != -1",
            "the last layers have no experts (moe_layer_end_index)",
        ),
    ),
    rope_theta=500_000.0,
    vocabulary=ERNIE.vocabulary,
)
