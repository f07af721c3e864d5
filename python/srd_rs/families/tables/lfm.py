"""The tables of the LFM 2 models: short convolutions and attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import NORMALIZED

_CONV: Final = (
    "layer_types[layer] == 'conv' if layer_types != None"
    " else not layer in full_attn_idxs if full_attn_idxs != None else 0"
)
_LAYER: Final = (
    Rows(("operator_norm > attn_norm | d", "ffn_norm > ffn_norm | d")),
    Rows(
        (
            "conv.in_proj > shortconv.in_proj | 3*d d",
            "conv.conv > shortconv.conv | d 1 ck | reshape(d, ck)",
            "conv.out_proj > shortconv.out_proj | d d",
        ),
        when="conv",
    ),
    Rows(
        (
            "self_attn.q_proj > attn_q | q d",
            "self_attn.k_proj > attn_k | k d",
            "self_attn.v_proj > attn_v | k d",
            "self_attn.out_proj > attn_output | d q",
            "self_attn.q_layernorm > attn_q_norm | h",
            "self_attn.k_layernorm > attn_k_norm | h",
        ),
        when="not conv",
    ),
)
_FFN: Final = (
    "feed_forward.w1 > ffn_gate | f d",
    "feed_forward.w2 > ffn_down | d f",
    "feed_forward.w3 > ffn_up | f d",
)
_TOP: Final = ("model.embed_tokens > token_embd | v d", "model.embedding_norm > token_embd_norm | d")
_METADATA: Final = (
    "u32 ~vocab_size = n_vocab",
    "u32 ~shortconv.l_cache = ck",
    "f32 ~attention.layer_norm_rms_epsilon = norm_eps",
)
_ATTENDING: Final = (
    "count(layer_types, 'full_attention') if layer_types != None"
    " else count([i in full_attn_idxs for i in layers], True) if full_attn_idxs != None else len(layers)"
)
_REFUSALS: Final = (
    Refusal(
        "attending == 0 or attending == len(layers)",
        "the layers are not partly convolutions and partly attention (layer_types, full_attn_idxs)",
    ),
)
_CAUSAL: Final = Refusal("is_causal == 0", "attention is not causal (is_causal)")

LFM2: Final = FamilyTable(
    arch="lfm2",
    classes=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    defaults={
        "vocab_size": 65536,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 128000,
        "norm_eps": 1e-5,
        "conv_L_cache": 3,
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
    },
    spellings={"intermediate_size": ("block_ff_dim",), "tie_word_embeddings": ("tie_embedding",)},
    sizes={
        "ck": "conv_L_cache",
        "conv": _CONV,
        "attending": _ATTENDING,
        "stated": "first(block_ff_dim, intermediate_size)",
        "part": "int(2 * stated / 3)",
        "scaled": "int(block_ffn_dim_multiplier * part) if block_ffn_dim_multiplier != None else part",
        "width": "block_multiple_of * ((scaled + block_multiple_of - 1) // block_multiple_of)"
        " if block_auto_adjust_ff_dim else stated",
    },
    top=_TOP,
    layer=(*_LAYER, Rows(_FFN)),
    n_ff="width",
    n_head_kv="0 if conv else num_key_value_heads",
    metadata=_METADATA,
    renames=((r"^lfm\.", "model."),),
    refusals=(*_REFUSALS, _CAUSAL),
    rope_theta=1_000_000.0,
    square_output=True,
)

LFM2_EMBEDDING: Final = replace(
    LFM2,
    classes=("Lfm2Model", "Lfm2BidirectionalModel"),
    metadata=(
        *_METADATA,
        "bool ~attention.causal = 0 == 1 if class_name == 'Lfm2BidirectionalModel' else None",
    ),
    pooling=True,
    refusals=(
        *_REFUSALS,
        Refusal(
            "file('1_Dense/config.json')",
            "the dense layer behind the model (1_Dense) is not read",
            "Convert it with llama.cpp, or use a model without a dense layer",
        ),
    ),
)

LFM2_MOE: Final = FamilyTable(
    arch="lfm2moe",
    classes=("Lfm2MoeForCausalLM",),
    defaults={
        "vocab_size": 65536,
        "hidden_size": 2048,
        "intermediate_size": 7168,
        "moe_intermediate_size": 1792,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 128000,
        "norm_eps": 1e-5,
        "conv_L_cache": 3,
        "num_dense_layers": 2,
        "num_experts": 32,
        "num_experts_per_tok": 4,
    },
    spellings={"tie_word_embeddings": ("tie_embedding",)},
    sizes={
        "ck": "conv_L_cache",
        "conv": _CONV,
        "attending": _ATTENDING,
        "x": "moe_intermediate_size",
        "biased": "first(use_expert_bias, 1) != 0",
    },
    top=_TOP,
    layer=(
        *_LAYER,
        Rows(_FFN, when="layer < num_dense_layers"),
        Rows(("feed_forward.gate > ffn_gate_inp | e d",), when="layer >= num_dense_layers"),
        Rows(
            ("feed_forward.expert_bias! > exp_probs_b=.bias | e",),
            when="layer >= num_dense_layers and biased",
        ),
    ),
    experts=StackedExperts(
        "feed_forward.experts",
        "num_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps x d", "w2 ffn_down_exps d x", "w3 ffn_up_exps x d"),
        when="layer >= num_dense_layers",
    ),
    n_head_kv="0 if conv else num_key_value_heads",
    metadata=(
        "u32 ~expert_feed_forward_length = x",
        "u32 ~leading_dense_block_count = num_dense_layers",
        "u32 ~expert_gating_func = 2",
        *_METADATA,
    ),
    # llama.cpp does not load the model without biases of the experts.
    generated=(
        "blk.{layer}.exp_probs_b.bias = fill(0.0, n_expert) if layer >= num_dense_layers and not biased else None",
    ),
    refusals=(
        *_REFUSALS,
        _CAUSAL,
        NORMALIZED,
        Refusal("first(routed_scaling_factor, 1) != 1", "the experts are scaled (routed_scaling_factor)"),
    ),
    rope_theta=1_000_000.0,
    square_output=True,
)

COMPOSITES: Final = ("Lfm2VlForConditionalGeneration",)
MODEL_TYPES: Final = {"lfm2": "Lfm2ForCausalLM", "lfm2_moe": "Lfm2MoeForCausalLM"}

OTHERS: Final = {
    "Lfm2AudioForConditionalGeneration": (
        "codebook_offsets",
        "depth_embeddings.",
        "depth_linear.",
        "depthformer.",
    )
}
"""These models speak through a small transformer of their own, whose names no other model has."""
