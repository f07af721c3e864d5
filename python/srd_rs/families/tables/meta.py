"""The tables of the models of Meta from Llama 4 on."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, BIASED_QKV, GATED_FFN, LLAMA_METADATA, NORMS
from srd_rs.families.tables.skeletons import NO_BIASES
from srd_rs.vocab import rules

LLAMA4: Final = FamilyTable(
    arch="llama4",
    classes=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    defaults={
        **NO_BIASES,
        "vocab_size": 202048,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts": 16,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "attention_chunk_size": 8192,
        "tie_word_embeddings": False,
    },
    n_ff="intermediate_size_mlp",
    n_expert="num_experts",
    sizes={
        "x": "intermediate_size",
        "step": "interleave_moe_layer_step",
        "mixture": "step > 0 and (layer + 1) % step == 0",
        "everywhere": "layer_types != None and count(layer_types, 'full_attention') == len(layer_types)",
    },
    layer=(
        Rows((*NORMS, *BIASED_QKV)),
        Rows(
            (
                "feed_forward.gate_proj > ffn_gate | f d",
                "feed_forward.up_proj > ffn_up | f d",
                "feed_forward.down_proj > ffn_down | d f",
            ),
            "not mixture",
        ),
        Rows(
            (
                "feed_forward.router > ffn_gate_inp | e d",
                "feed_forward.experts.gate_up_proj! > ffn_gate_exps | e d 2*x | cols(0, x) axes(0, 2, 1)",
                "feed_forward.experts.gate_up_proj! > ffn_up_exps | e d 2*x | cols(x, x) axes(0, 2, 1)",
                "feed_forward.experts.down_proj! > ffn_down_exps | e x d | axes(0, 2, 1)",
                "feed_forward.shared_expert.gate_proj > ffn_gate_shexp | x d",
                "feed_forward.shared_expert.up_proj > ffn_up_shexp | x d",
                "feed_forward.shared_expert.down_proj > ffn_down_shexp | d x",
            ),
            "mixture",
        ),
    ),
    metadata=(
        *LLAMA_METADATA,
        "u32 ~expert_count = n_expert",
        "u32 ~expert_used_count = num_experts_per_tok",
        "u32 ~interleave_moe_layer_step = step",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~attention.sliding_window = 0 if everywhere else None",
    ),
    refusals=(
        Refusal(
            "moe_layers != None and moe_layers != [] and (layer in moe_layers) != mixture",
            "the layers with experts are not every interleave_moe_layer_step-th (moe_layers)",
            per_layer=True,
        ),
        Refusal(
            "(no_rope_layers[layer] == 1 if no_rope_layers else (layer + 1) % first(no_rope_layer_interval, 4) != 0)"
            " != (everywhere or (layer + 1) % 4 != 0)",
            "the layers without RoPE are not every fourth (no_rope_layers, no_rope_layer_interval)",
            per_layer=True,
        ),
        Refusal(
            "not everywhere and layer_types != None"
            " and (layer_types[layer] == 'full_attention') != ((layer + 1) % 4 == 0)",
            "the layers with full attention are not every fourth (layer_types)",
            per_layer=True,
        ),
        Refusal(
            "(first(use_qk_norm, 1) == 0) != (n_expert == 128)",
            "llama.cpp normalizes queries and keys in every Llama 4 but those with 128 experts, which is not as"
            " use_qk_norm says, so its answers are not those of the model",
            warns=True,
        ),
        Refusal(
            "not everywhere and (first(attn_temperature_tuning, 1) == 0"
            " or first(floor_scale, 8192) != 8192 or first(attn_scale, 0.1) != 0.1)",
            "queries of distant tokens are scaled in another way (attn_temperature_tuning, floor_scale, attn_scale)",
        ),
        Refusal(
            "not everywhere and attention_chunk_size != 8192",
            "attention is not in chunks of 8192 tokens (attention_chunk_size)",
        ),
        Refusal("not everywhere and is_causal == 0", "attention in chunks is not causal (is_causal)"),
    ),
    rope_theta=500_000.0,
    llama3_rope=True,
)

MUSE_GLIMMER: Final = FamilyTable(
    arch="muse-glimmer",
    classes=("MuseGlimmerForConditionalGeneration",),
    vocabulary=rules.MUSE_GLIMMER,
    defaults={
        "vocab_size": 202048,
        "hidden_size": 6656,
        "intermediate_size": 19968,
        "num_hidden_layers": 52,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "sliding_window": 2048,
        "rms_norm_eps": 1e-5,
        "final_logit_softcapping": 20.0,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d | plus_one",
                "self_attn.q_proj > attn_q | q d | permute_q",
                "self_attn.k_proj > attn_k | k d | permute_k",
                *ATTENTION[2:],
                "self_attn.gate_proj > attn_gate | q d",
                "post_attention_layernorm > post_attention_norm | d | plus_one",
                "pre_feedforward_layernorm > ffn_norm | d | plus_one",
                *GATED_FFN,
                "post_feedforward_layernorm > post_ffw_norm | d | plus_one",
            )
        ),
    ),
    # The norms of queries and keys have no weights, but queries are scaled.
    generated=(
        "blk.{layer}.attn_q_norm.weight = fill(float(qk_scale_factor), h)",
        "blk.{layer}.attn_k_norm.weight = fill(1.0, h)",
    ),
    metadata=(
        "f32 ~final_logit_softcapping = final_logit_softcapping",
        "f32 ~logit_scale = output_multiplier",
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = [part == 'sliding_attention' for part in layer_types]",
    ),
    output_needed=True,
)
