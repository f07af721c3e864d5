"""The tables of the models of DeepSeek, and of models with their attention: Kimi K2 and Kimi-VL, Youtu."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from srd_rs.families.names import OTHER_MODALITY
from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    GATED_EXPERTS,
    GATED_FFN,
    LATENT_NORMS,
    NEXTN,
    NORMS,
    ROUTER_BIAS,
    SHARED_EXPERTS,
    TIED_HEAD,
)

MLA: Final = (
    Rows(("self_attn.q_proj > attn_q | n_head*qk d",), "q_lora_rank == None"),
    Rows(
        (
            "self_attn.q_a_proj > attn_q_a | q_lora_rank d",
            "self_attn.q_a_layernorm > attn_q_a_norm | q_lora_rank",
            "self_attn.q_b_proj > attn_q_b | n_head*qk q_lora_rank",
        ),
        "q_lora_rank != None",
    ),
    Rows(
        (
            "self_attn.kv_a_proj_with_mqa > attn_kv_a_mqa | kva d",
            "self_attn.kv_a_layernorm > attn_kv_a_norm | kv",
            "self_attn.kv_b_proj > attn_k_b | kvb kv"
            " | reshape(n_head, nope + vd, kv) slice(1, 0, nope) axes(0, 2, 1)",
            "self_attn.kv_b_proj > attn_v_b | kvb kv | reshape(n_head, nope + vd, kv) slice(1, nope, vd)",
            "self_attn.o_proj > attn_output | d n_head*vd",
        )
    ),
)
"""Multi-head latent attention. GGUF keeps the two halves of ``kv_b_proj`` apart, so that keys and values need not be
made from the latent vectors."""

MLA_SIZES: Final[Mapping[str, str]] = {
    "kv": "first(kv_lora_rank, 512)",
    "rot": "qk_rope_head_dim",
    "nope": "qk_nope_head_dim",
    "vd": "v_head_dim",
    "qk": "nope + rot",
    "kva": "kv + rot",
    "kvb": "n_head * (nope + vd)",
}
MLA_METADATA: Final = (
    "u32 ~attention.key_length = kv + rot",
    "u32 ~attention.value_length = kv",
    "u32 ~attention.q_lora_rank = q_lora_rank",
    "u32 ~attention.kv_lora_rank = kv",
    "u32 ~attention.key_length_mla = qk",
    "u32 ~attention.value_length_mla = vd",
    "u32 ~rope.dimension_count = rot",
    "f32 ~rope.scaling.yarn_log_multiplier = None if rope['mscale_all_dim'] == None"
    " else 0.1 * rope['mscale_all_dim']",
)
MOE_SIZES: Final[Mapping[str, str]] = {
    "dense": "first(first_k_dense_replace, n_layer if n_routed_experts == None else 0)",
    "x": "first(moe_intermediate_size, intermediate_size)",
    "shared": "first(n_shared_experts, 0)",
}
MOE_METADATA: Final = (
    "u32 ~leading_dense_block_count = dense",
    "u32 ~vocab_size = n_vocab",
    "u32 ~expert_feed_forward_length = x",
    "u32 ~expert_shared_count = shared",
    "f32 ~expert_weights_scale = routed_scaling_factor",
    "bool ~expert_weights_norm = True if norm_topk_prob else None",
)
MOE: Final = (
    Rows(GATED_FFN, "layer < dense"),
    Rows(("mlp.gate > ffn_gate_inp | e d", ROUTER_BIAS), "layer >= dense"),
    Rows(SHARED_EXPERTS, "layer >= dense and shared > 0"),
)
INDEXER: Final = (
    "self_attn.indexer.k_norm > indexer.k_norm | index_head_dim | bias",
    "self_attn.indexer.weights_proj > indexer.proj | index_n_heads d",
    "self_attn.indexer.wk > indexer.attn_k | index_head_dim d",
    "self_attn.indexer.wq_b > indexer.attn_q_b | index_n_heads*index_head_dim q_lora_rank",
)
INDEXER_METADATA: Final = (
    "u32 ~attention.indexer.head_count = index_n_heads",
    "u32 ~attention.indexer.key_length = index_head_dim",
    "u32 ~attention.indexer.top_k = index_topk",
)
ROUTED: Final = StackedExperts(
    "mlp.experts", "n_routed_experts", "num_experts_per_tok", GATED_EXPERTS, "layer >= dense"
)
GATING: Final = (
    "u32 ~expert_gating_func = 2 if n_expert > 0 and class_name != 'DeepseekV2ForCausalLM' else None"
)
"""transformers scores experts by sigmoids in every class but the oldest, whatever scoring_func says."""
_SHARED: Final = Refusal(
    "shared == 0 and dense < n_layer",
    "there are no shared experts (n_shared_experts), which llama.cpp asks for here",
)
_EVERY_LAYER: Final = Refusal(
    "first(moe_layer_freq, 1) != 1 and n_routed_experts != None",
    "not every layer behind the dense ones has experts (moe_layer_freq)",
)

DEEPSEEK: Final = FamilyTable(
    arch="deepseek",
    classes=("DeepseekForCausalLM",),
    defaults={
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "moe_intermediate_size": 1407,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "first_k_dense_replace": 0,
        "scoring_func": "softmax",
        "tie_word_embeddings": False,
    },
    sizes=MOE_SIZES,
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.q_proj > attn_q | q d | permute_q",
                "self_attn.k_proj > attn_k | k d | permute_k",
                "self_attn.v_proj > attn_v | k d",
                "self_attn.o_proj > attn_output | d q",
            )
        ),
        *MOE,
    ),
    experts=ROUTED,
    metadata=(
        *MOE_METADATA[:4],
        "f32 ~expert_weights_scale = 1.0",
        "u32 ~rope.dimension_count = head_dim",
        "str ~rope.scaling.type = 'none'",
    ),
    refusals=(
        _EVERY_LAYER,
        _SHARED,
        Refusal("n_routed_experts == None", "the model has no experts (n_routed_experts)"),
        Refusal("rope['rope_type'] != 'default'", "RoPE is scaled (rope_scaling)"),
    ),
    square_output=True,
)

_V2: Final[Mapping[str, Any]] = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "moe_intermediate_size": 1407,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "tie_word_embeddings": False,
}
_V3: Final[Mapping[str, Any]] = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "max_position_embeddings": 4096,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
}
_YOUTU: Final[Mapping[str, Any]] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "moe_intermediate_size": None,
}

DEEPSEEK2: Final = FamilyTable(
    arch="deepseek2",
    classes=(
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "KimiVLForConditionalGeneration",
        "KimiK25ForConditionalGeneration",
        "YoutuForCausalLM",
        "YoutuVLForConditionalGeneration",
    ),
    defaults=_V2,
    class_defaults={
        "DeepseekV2ForCausalLM": {
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "routed_scaling_factor": 1.0,
            "first_k_dense_replace": 0,
        },
        "DeepseekV3ForCausalLM": _V3,
        "KimiVLForConditionalGeneration": _V3,
        "KimiK25ForConditionalGeneration": _V3,
        "YoutuForCausalLM": _YOUTU,
        "YoutuVLForConditionalGeneration": _YOUTU,
    },
    sizes={
        **MLA_SIZES,
        **MOE_SIZES,
        # Such a model has no groups, whatever n_group is.
        "greedy": "class_name == 'DeepseekV2ForCausalLM' and first(topk_method, 'greedy') == 'greedy'"
        " and first(n_group, 1) > 1",
    },
    layer=(Rows(NORMS), *MLA, *MOE),
    experts=ROUTED,
    n_head_kv="1",
    metadata=(
        *(line for line in MLA_METADATA if "q_lora_rank" not in line),
        # llama.cpp does without the key in models with the layers of published ones; elsewhere, 0 means plain queries.
        "u32 ~attention.q_lora_rank = first(q_lora_rank, None if n_layer in [26, 27]"
        " or (n_layer == 48 and n_vocab == 128256) else 0)",
        *MOE_METADATA,
        GATING,
        "u32 ~expert_group_count = 1 if greedy else None",
        "u32 ~expert_group_used_count = 1 if greedy else None",
    ),
    refusals=(
        _EVERY_LAYER,
        _SHARED,
        LATENT_NORMS,
        Refusal(
            "class_name == 'DeepseekV2ForCausalLM' and topk_method == 'group_limited_greedy' and first(n_group, 1) > 1"
            " and topk_group != n_group",
            "DeepSeek V2 chooses groups of experts by the best expert of each group (topk_method), but llama.cpp"
            " chooses them by the best two, so its answers are not those of the model",
            warns=True,
        ),
        Refusal(
            "rope['rope_type'] == 'linear'"
            " or rope['rope_type'] == 'yarn' and first(rope['mscale'], 0) != first(rope['mscale_all_dim'], -1)",
            "RoPE is scaled without mscale and mscale_all_dim of the same value, which llama.cpp takes for granted in"
            " this architecture, so its answers are not those of the model",
            warns=True,
        ),
    ),
    skip=TIED_HEAD,
)

DEEPSEEK32: Final = replace(
    DEEPSEEK2,
    arch="deepseek32",
    classes=("DeepseekV32ForCausalLM",),
    class_defaults={},
    defaults={
        **_V2,
        **_V3,
        "max_position_embeddings": 163840,
        "q_lora_rank": 1536,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
    },
    layer=(*DEEPSEEK2.layer, Rows(INDEXER), Rows(NEXTN, "layer >= n_layer")),
    metadata=(*DEEPSEEK2.metadata, *INDEXER_METADATA),
    mtp=Mtp("num_nextn_predict_layers"),
)

DEEPSEEK2_OCR: Final = FamilyTable(
    arch="deepseek2-ocr",
    classes=("DeepseekOCRForCausalLM", "UnlimitedOCRForCausalLM"),
    defaults={"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    sizes=MOE_SIZES,
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.q_proj > attn_q | q d",
                "self_attn.k_proj > attn_k | k d",
                "self_attn.v_proj > attn_v | k d",
                "self_attn.o_proj > attn_output | d q",
            )
        ),
        *MOE,
    ),
    experts=ROUTED,
    metadata=(
        *MOE_METADATA,
        "u32 ~rope.dimension_count = qk_rope_head_dim",
        "u32 ~attention.sliding_window = sliding_window_size if sliding_window_size"
        " else sliding_window if sliding_window else None",
    ),
    skip=(*TIED_HEAD, (r"(^|\.)(sam_model|qwen2_model)\.", OTHER_MODALITY)),
    rope_theta=None,
    refusals=(
        _EVERY_LAYER,
        Refusal("use_mla", "the text model has latent attention (use_mla)"),
    ),
)
