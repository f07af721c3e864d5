"""The tables of the models of inclusionAI (Ling, Ring, GroveMoE), and of Sarvam, whose models have Ling's
architecture."""

from __future__ import annotations

from typing import Final

from srd_rs.families.names import OTHER_MODALITY
from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_EXPERTS,
    GATED_FFN,
    HEAD_NORMS,
    LATENT_NORMS,
    NEXTN,
    NORMS,
    SHARED_EXPERTS,
)
from srd_rs.families.tables.deepseek import MLA, MLA_SIZES
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
                "attention.dense > attn_output | d q",
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
    output_needed=True,
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
                "attention.query_key_value > attn_qkv | qkv d",
                "attention.query_layernorm > attn_q_norm | h",
                "attention.key_layernorm > attn_k_norm | h",
                "attention.dense > attn_output | d q",
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
    output_needed=True,
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

_LATENT: Final = (
    "(layer >= n_layer or (layer + 1) % layer_group_size == 0"
    " or layer >= n_layer // layer_group_size * layer_group_size)"
)
_CONVOLUTIONS: Final = tuple(
    f"attention.{part}_conv1d > ssm_conv1d_{part} | n_head*h 1 conv | reshape(1, n_head * h, 1, conv)"
    for part in "qkv"
)


def _limits(key: str) -> str:
    return f"None if {key} == None else [float(first(i, 0.0)) for i in pad({key}, n_block, 0.0)]"


BAILING_MOE3: Final = FamilyTable(
    arch="bailingmoe3",
    classes=("BailingMoeV3ForCausalLM", "BailingMoeV3VLForConditionalGeneration"),
    defaults={
        "vocab_size": 157184,
        "hidden_size": 2560,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 42,
        "num_attention_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "num_experts": 512,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "n_group": 8,
        "topk_group": 4,
        "first_k_dense_replace": 2,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "score_function": "sigmoid",
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "short_conv_kernel_size": 4,
        "layer_group_size": 6,
        "kda_safe_gate": True,
        "kda_lower_bound": -5.0,
        "tie_word_embeddings": False,
    },
    n_head_kv=f"1 if {_LATENT} else 0",
    sizes={
        **MLA_SIZES,
        **BAILING_MOE2.sizes,
        "conv": "short_conv_kernel_size",
        "latent": _LATENT,
    },
    top=_TOP,
    embedding="model.word_embeddings.weight",
    layer=(
        Rows(NORMS),
        *(
            Rows(
                tuple(
                    row.replace("self_attn.o_proj", "attention.dense").replace("self_attn.", "attention.")
                    for row in group.rows
                ),
                f"latent and {group.when}",
            )
            for group in MLA
        ),
        Rows(("attention.g_proj > attn_gate | n_head d",), "latent"),
        Rows(
            (
                "attention.q_proj > attn_q | n_head*h d",
                "attention.k_proj > attn_k | n_head*h d",
                "attention.v_proj > attn_v | n_head*h d",
                *_CONVOLUTIONS,
                "attention.f_proj > ssm_f_a | n_head*h d",
                "attention.g_proj > ssm_g_a | n_head*h d",
                "attention.b_proj > ssm_beta | n_head d",
                "attention.A_log! > ssm_a= | n_head | neg_exp affine(-1.0, 0.0) reshape(n_head, 1)",
                "attention.dt_bias! > ssm_dt=.bias | n_head*h",
                "attention.o_norm > ssm_norm | h",
                "attention.o_proj > attn_output | d n_head*h",
            ),
            "not latent",
        ),
        *BAILING_MOE2.layer[1:],
    ),
    experts=_ROUTED,
    mtp=Mtp("num_nextn_predict_layers"),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~ssm.conv_kernel = conv",
        "u32 ~kda.head_dim = h",
        "bool ~kda.safe_gate = kda_safe_gate",
        "f32 ~kda.gate_lower_bound = kda_lower_bound",
        "u32 ~attention.q_lora_rank = q_lora_rank",
        "u32 ~attention.kv_lora_rank = kv",
        "u32 ~rope.dimension_count = rot",
        "u32 ~attention.key_length = kv + rot",
        "u32 ~attention.key_length_mla = qk",
        "u32 ~attention.value_length_mla = vd",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_feed_forward_length = sw",
        "u32 ~expert_shared_count = shared",
        "u32 ~leading_dense_block_count = dense",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        "bool ~expert_weights_norm = norm_topk_prob",
        f"f32s ~swiglu_clamp_exp = {_limits('expert_swiglu_limit_list')}",
        f"f32s ~swiglu_clamp_shexp = {_limits('share_expert_swiglu_limit_list')}",
        "i32s ~rope.dimension_sections = pad(mrope_section, 4, 0) if mrope_section != None else None",
    ),
    skip=((r"^linear_proj\.", OTHER_MODALITY),),
    refusals=(
        LATENT_NORMS,
        Refusal("not no_kda_lora", "delta attention has low-rank projections (no_kda_lora)"),
        Refusal("not kda_safe_gate", "the gates of delta attention are not bounded (kda_safe_gate)"),
        Refusal(
            "gated_attention_proj_granularity_type != 'head_wise'",
            "attention has no gate for each head (gated_attention_proj_granularity_type)",
        ),
    ),
    rope_theta=6_000_000.0,
)
