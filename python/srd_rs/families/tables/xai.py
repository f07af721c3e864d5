"""The tables of the models of xAI."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, GATED_FFN

_YARN: Final = "rope_type in ['yarn', 'original']"

GROK: Final = FamilyTable(
    arch="grok",
    classes=("GrokForCausalLM", "Grok1ForCausalLM"),
    defaults={
        "vocab_size": 131072,
        "hidden_size": 6144,
        "intermediate_size": 32768,
        "num_hidden_layers": 64,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "embedding_multiplier_scale": 1.0,
        "output_multiplier_scale": 1.0,
        "tie_word_embeddings": False,
    },
    sizes={"x": "first(moe_intermediate_size, intermediate_size)"},
    layer=(
        Rows(
            (
                "pre_attn_norm > attn_norm | d",
                *ATTENTION,
                "post_attn_norm > attn_output_norm | d",
                "pre_moe_norm > ffn_norm | d",
                "block_sparse_moe.gate > ffn_gate_inp | e d",
            )
        ),
        Rows(("post_moe_norm > post_ffw_norm | d",), "layer_has('post_moe_norm.weight')"),
        Rows(("rms_norm_3 > layer_output_norm | d",), "not layer_has('post_moe_norm.weight')"),
        Rows(GATED_FFN, "layer_has('mlp.gate_proj.weight')"),
    ),
    experts=StackedExperts(
        "block_sparse_moe.experts",
        "num_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps x d", "w2 ffn_down_exps d x", "w3 ffn_up_exps x d"),
    ),
    renames=(
        (r"^transformer\.in_out_embed\.", "model.embed_tokens."),
        (r"^transformer\.rms_norm\.", "model.norm."),
        (r"^transformer\.decoder_layer\.", "model.layers."),
        (r"\.moe\.(\d+)\.linear\.", r".block_sparse_moe.experts.\1.w1."),
        (r"\.moe\.(\d+)\.linear_1\.", r".block_sparse_moe.experts.\1.w2."),
        (r"\.moe\.(\d+)\.linear_v\.", r".block_sparse_moe.experts.\1.w3."),
        (r"\.multi_head_attention\.query\.", ".self_attn.q_proj."),
        (r"\.multi_head_attention\.key\.", ".self_attn.k_proj."),
        (r"\.multi_head_attention\.value\.", ".self_attn.v_proj."),
        (r"\.multi_head_attention\.linear\.", ".self_attn.o_proj."),
        (r"(layers\.\d+)\.rms_norm\.", r"\1.pre_attn_norm."),
        (r"(layers\.\d+)\.rms_norm_1\.", r"\1.post_attn_norm."),
        (r"(layers\.\d+)\.rms_norm_2\.", r"\1.pre_moe_norm."),
        (r"(layers\.\d+)\.router\.", r"\1.block_sparse_moe.gate."),
    ),
    metadata=(
        "f32 ~attn_logit_softcapping = first(attn_logit_softcapping, 30.0)",
        "f32 ~router_logit_softcapping = first(router_logit_softcapping, 30.0)",
        "f32 ~final_logit_softcapping = final_logit_softcapping",
        "u32 ~expert_feed_forward_length = moe_intermediate_size",
        f"str ~rope.scaling.type = 'yarn' if {_YARN} else None",
        f"f32 ~rope.scaling.factor = scaling_factor if {_YARN} else None",
        f"u32 ~rope.scaling.original_context_length = original_max_position_embeddings if {_YARN} else None",
        f"f32 ~rope.scaling.yarn_ext_factor = extrapolation_factor if {_YARN} else None",
        f"f32 ~rope.scaling.yarn_attn_factor = attn_factor if {_YARN} else None",
        f"f32 ~rope.scaling.yarn_beta_fast = beta_fast if {_YARN} else None",
        f"f32 ~rope.scaling.yarn_beta_slow = beta_slow if {_YARN} else None",
        "u32 ~attention.temperature_length = attn_temperature_len",
        "f32 ~attention.output_scale = first(attn_output_multiplier, 1 / sqrt(h))",
        "f32 ~embedding_scale = embedding_multiplier_scale",
        "f32 ~logit_scale = output_multiplier_scale",
    ),
    refusals=(
        Refusal(
            "first(max_attn_value, 30.0) != first(attn_logit_softcapping, 30.0)",
            "scores of attention are capped at two different values (max_attn_value)",
        ),
    ),
)
