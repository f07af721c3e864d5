"""The tables of the models of Moonshot AI from Kimi K3 on."""

from __future__ import annotations

from typing import Final

from srd_rs.families.names import OTHER_MODALITY
from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import GATED_FFN, NORMS
from srd_rs.families.tables.deepseek import MLA, MLA_METADATA, MLA_SIZES

_LATENT: Final = "(layer + 1 in linear_attn_config['full_attn_layers'])"
"""The lists of layers count from 1."""
_CONVOLUTIONS: Final = tuple(
    f"self_attn.{part}_conv1d > ssm_conv1d_{part} | kw 1 conv | reshape(1, kw, 1, conv)" for part in "qkv"
)

KIMI_K3: Final = FamilyTable(
    arch="kimi-k3",
    classes=("KimiK3ForConditionalGeneration",),
    defaults={"rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    n_head_kv=f"1 if {_LATENT} else 0",
    sizes={
        **MLA_SIZES,
        "latent": _LATENT,
        "dense": "first(first_k_dense_replace, 0)",
        "x": "moe_intermediate_size",
        "shared": "num_shared_experts",
        "kd": "linear_attn_config['head_dim']",
        "kw": "n_head * kd",
        "conv": "linear_attn_config['short_conv_kernel_size']",
        "space": "first(routed_expert_hidden_size, n_embd)",
    },
    layer=(
        Rows(
            (
                *NORMS,
                "self_attention_res_norm + self_attention_res_proj > attn_res_score | d + 1 d | product",
                "mlp_res_norm + mlp_res_proj > ffn_res_score | d + 1 d | product",
            )
        ),
        *(Rows(group.rows, f"latent and {group.when}") for group in MLA),
        Rows(("self_attn.g_proj > attn_gate | n_head*vd d",), "latent"),
        Rows(
            (
                "self_attn.q_proj > attn_q | kw d",
                "self_attn.k_proj > attn_k | kw d",
                "self_attn.v_proj > attn_v | kw d",
                *_CONVOLUTIONS,
                "self_attn.f_a_proj > ssm_f_a | kd d",
                "self_attn.f_b_proj > ssm_f_b | kw kd",
                "self_attn.g_proj > ssm_g | kw d",
                "self_attn.b_proj > ssm_beta | n_head d",
                "self_attn.A_log! > ssm_a= | n_head | neg_exp",
                "self_attn.dt_bias! > ssm_dt=.bias | kw",
                "self_attn.o_norm > ssm_norm | kd",
                "self_attn.o_proj > attn_output | d kw",
            ),
            "not latent",
        ),
        Rows(GATED_FFN, "layer < dense"),
        Rows(
            (
                "block_sparse_moe.gate > ffn_gate_inp | e d",
                "block_sparse_moe.gate.e_score_correction_bias! > exp_probs_b=.bias | e | ?",
                "block_sparse_moe.shared_experts.gate_proj > ffn_gate_shexp | shared*x d",
                "block_sparse_moe.shared_experts.up_proj > ffn_up_shexp | shared*x d",
                "block_sparse_moe.shared_experts.down_proj > ffn_down_shexp | d shared*x",
            ),
            "layer >= dense",
        ),
        Rows(
            (
                "block_sparse_moe.routed_expert_down_proj > ffn_routed_down | space d",
                "block_sparse_moe.routed_expert_norm > ffn_routed_norm | space",
                "block_sparse_moe.routed_expert_up_proj > ffn_routed_up | d space",
            ),
            "layer >= dense and routed_expert_hidden_size != None",
        ),
    ),
    top=(
        "model.embed_tokens > token_embd | v d",
        "model.norm > output_norm | d",
        "model.output_attn_res_norm + model.output_attn_res_proj > output_res_score | d + 1 d | product",
    ),
    experts=StackedExperts(
        "block_sparse_moe.experts",
        "num_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps x space", "w2 ffn_down_exps space x", "w3 ffn_up_exps x space"),
        "layer >= dense",
    ),
    metadata=(
        *MLA_METADATA,
        "u32 ~vocab_size = n_vocab",
        "u32 ~ssm.conv_kernel = conv",
        "u32 ~kda.head_dim = kd",
        "f32 ~kda.gate_lower_bound = linear_attn_config['gate_lower_bound']",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_count = shared",
        "u32 ~leading_dense_block_count = dense",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        "bool ~expert_weights_norm = moe_renormalize",
        "u32 ~expert_gating_func = 2",
        "u32 ~expert_latent_length = routed_expert_hidden_size",
        "f32 ~activation.situ_beta = activation_situ_beta",
        "f32 ~activation.situ_linear_beta = activation_situ_linear_beta",
        "u32 ~attn_res.block_size = attn_res_block_size",
    ),
    skip=((r"^(vision_tower|mm_projector)\.", OTHER_MODALITY),),
    refusals=(
        Refusal("not mla_use_nope", "latent attention has RoPE (mla_use_nope)"),
        Refusal("hidden_act != 'situ'", "the activation is not SiTU (hidden_act)"),
        Refusal(
            "first(moe_router_activation_func, 'sigmoid') != 'sigmoid'",
            "experts are not scored by sigmoids (moe_router_activation_func)",
        ),
        Refusal("first(moe_layer_freq, 1) != 1", "not every layer has experts (moe_layer_freq)"),
    ),
    output_needed=True,
)
WHOLE: Final = ("KimiK3ForConditionalGeneration",)
