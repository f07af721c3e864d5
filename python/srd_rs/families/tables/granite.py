"""The tables of the hybrid Granite models and of Bamba. A model whose layers all have attention is one of the plain
architectures."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import (
    GATED_FFN,
    LLAMA_ATTENTION,
    LLAMA_METADATA,
    NORMS,
    flagged,
)
from srd_rs.families.tables.mamba import MAMBA_2, TIME_STEPS, inside
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER, NO_BIASES
from srd_rs.vocab.rules import LLAMA

_SCALES: Final = (
    "f32 ~attention.scale = attention_multiplier",
    "f32 ~embedding_scale = embedding_multiplier",
    "f32 ~residual_scale = residual_multiplier",
    "f32 ~logit_scale = logits_scaling",
)
_EYES: Final = {
    "targets": "join([m[1] + (n_layer if m[1] < 0 else 0) for m in first(deepstack_layer_map, [])],"
    " [m + (n_layer if m < 0 else 0) for m in first(spatial_target_layers, [])])",
    "before": "count([m < layer for m in targets], 1 == 1)",
}
"""The layers that Granite Vision gives what its projectors see, and the number of those before a layer."""
GRANITE: Final = FamilyTable(
    arch="granite",
    classes=("GraniteForCausalLM",),
    vocabulary=LLAMA,
    sizes=_EYES,
    defaults={
        **LLAMA_DEFAULTS,
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    layer=LLAMA_LAYER,
    metadata=(
        *LLAMA_METADATA,
        *_SCALES,
        # The first projector gives the embeddings, as in other models.
        "i32s ~deepstack_mapping = (before if layer in targets and before > 0 else -1) if len(targets) > 0 else None",
    ),
    head_dim="None",
    llama3_rope=True,
    longrope=True,
)

_FUSED: Final = "shared_mlp.input_linear"
HYBRID_SIZES: Final = {
    "i": "mamba_expand * first(mamba_head_dim, d)",
    "st": "mamba_d_state",
    "ck": "mamba_d_conv",
    "nh": "mamba_n_heads",
    "g": "mamba_n_groups",
    "s": "shared_intermediate_size",
    "attention": "layer_types[layer] == 'attention' if layer_types else layer in attn_layer_indices"
    " if attn_layer_indices else layer % attn_layer_period == attn_layer_offset",
    "all_attention": "count(layer_types, 'attention') == n_layer if layer_types"
    " else len(attn_layer_indices) == n_layer if attn_layer_indices else attn_layer_period == 1",
    "bamba": "class_name == 'BambaForCausalLM'",
    "rope_used": "bamba or position_embedding_type == 'rope' or all_attention and n_expert > 0",
}
_DEFAULTS: Final = {
    **NO_BIASES,
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "mamba_expand": 2,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
}

_HYBRID: Final = FamilyTable(
    arch="granitehybrid",
    classes=(),
    defaults=_DEFAULTS,
    class_defaults={
        "GraniteMoeHybridForCausalLM": {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 1024,
            "embedding_multiplier": 1.0,
            "logits_scaling": 1.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 1.0,
        },
        "BambaForCausalLM": {
            "vocab_size": 128000,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
    },
    sizes=HYBRID_SIZES,
    layer=(
        Rows(NORMS),
        Rows(LLAMA_ATTENTION, when="attention"),
        Rows(inside("mamba", MAMBA_2), when="not attention"),
        Rows(flagged(GATED_FFN, "bias?"), when="bamba"),
        Rows(
            (
                "block_sparse_moe.router.layer > ffn_gate_inp | e d",
                "block_sparse_moe.input_linear > ffn_gate_exps | e 2*f d | slice(1, 0, f)",
                "block_sparse_moe.input_linear > ffn_up_exps | e 2*f d | slice(1, f, f)",
                "block_sparse_moe.output_linear > ffn_down_exps | e d f",
                f"{_FUSED} > ffn_gate_shexp | 2*s d | rows(0, s)",
                f"{_FUSED} > ffn_up_shexp | 2*s d | rows(s, s)",
                "shared_mlp.output_linear > ffn_down_shexp | d s",
            ),
            when="not bamba and n_expert > 0",
        ),
        Rows(
            (
                f"{_FUSED} > ffn_gate | 2*s d | rows(0, s)",
                f"{_FUSED} > ffn_up | 2*s d | rows(s, s)",
                "shared_mlp.output_linear > ffn_down | d s",
            ),
            when="not bamba and n_expert == 0",
        ),
    ),
    n_expert="num_experts",
    n_expert_used="num_experts_per_tok",
    n_ff="intermediate_size if bamba or n_expert > 0 else s",
    n_head_kv="first(num_key_value_heads, num_attention_heads) if attention else 0",
    head_dim="None",
    metadata=(
        "u32 ~context_length = max_position_embeddings if rope_used else 1048576",
        "u32 ~expert_count = num_experts",
        "u32 ~expert_used_count = num_experts_per_tok",
        "u32 ~vocab_size = n_vocab",
        "u32 ~rope.dimension_count = first(attn_rotary_emb, n_embd // n_head)",
        "f32 ~attention.scale = attention_multiplier if attention_multiplier else None",
        "f32 ~embedding_scale = embedding_multiplier if embedding_multiplier else None",
        "f32 ~residual_scale = residual_multiplier if residual_multiplier else None",
        "f32 ~logit_scale = logits_scaling if logits_scaling else None",
        "u32 ~expert_shared_feed_forward_length = shared_intermediate_size",
        "u32 ~ssm.conv_kernel = ck",
        "u32 ~ssm.state_size = st",
        "u32 ~ssm.group_count = g",
        "u32 ~ssm.inner_size = i",
        "u32 ~ssm.time_step_rank = nh",
        "bool ~rope.scaling.finetuned = rope_used",
    ),
    renames=(
        (r"^model\.final_layernorm\.", "model.norm."),
        (r"\.pre_ff_layernorm\.", ".post_attention_layernorm."),
        (r"\.feed_forward\.", ".mlp."),
    ),
    refusals=(
        Refusal("first(hidden_act, 'silu') != 'silu'", "the activation is not silu"),
        Refusal(
            "count(layer_types, 'attention') == 0 if layer_types"
            " else not attn_layer_indices and attn_layer_period == None",
            "no layer has attention (layer_types)",
        ),
        Refusal(
            "rope_used and not bamba and position_embedding_type != 'rope'",
            "the model has no RoPE (position_embedding_type), but llama.cpp always turns queries and keys where all"
            " layers have attention and experts, so its answers are not those of the model",
            warns=True,
        ),
        TIME_STEPS,
    ),
)
GRANITE_HYBRID: Final = replace(
    _HYBRID,
    classes=("GraniteMoeHybridForCausalLM", "BambaForCausalLM"),
    variants=(
        ("all_attention and num_experts_per_tok", replace(_HYBRID, arch="granitemoe")),
        ("all_attention", replace(_HYBRID, arch="granite")),
    ),
)
