"""The tables of the models of Z.ai (ChatGLM, GLM-4 to 5), and of Solar Open, which has the architecture of GLM-4.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows
from srd_rs.families.tables.common import (
    ATTENTION,
    BIASED_QKV,
    FUSED_FFN,
    GATED_FFN,
    NEXTN,
    NOT_LEADING,
    ROUTER_BIAS,
    SHARED_EXPERTS,
    TIED_HEAD,
    flagged,
    leading_dense,
)
from srd_rs.families.tables.deepseek import DEEPSEEK2, INDEXER, INDEXER_METADATA, ROUTED
from srd_rs.vocab import rules

_MROPE: Final = "rope['mrope_section'] != None"

GLM4: Final = FamilyTable(
    arch="glm4",
    classes=("Glm4ForCausalLM", "Glm4vForConditionalGeneration", "GlmOcrForConditionalGeneration"),
    defaults={
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1.5625e-07,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    },
    class_defaults={
        "Glm4ForCausalLM": {"head_dim": 128},
        "Glm4vForConditionalGeneration": {"max_position_embeddings": 32768, "rms_norm_eps": 1e-5},
        "GlmOcrForConditionalGeneration": {
            "vocab_size": 59392,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
        },
    },
    sizes={"rotary": "int(h * rope_fraction)"},
    layer=(
        Rows(("input_layernorm > attn_norm | d", *BIASED_QKV[2:])),
        Rows(BIASED_QKV[:2], f"not {_MROPE}"),
        # The graph turns the halves of a head under multimodal RoPE, and the checkpoint has pairs.
        Rows(
            (
                "self_attn.q_proj > attn_q | q d | bias? permute_neox(n_head, rotary)",
                "self_attn.k_proj > attn_k | k d | bias? permute_neox(n_head_kv, rotary)",
            ),
            _MROPE,
        ),
        Rows(
            (
                "post_self_attn_layernorm > post_attention_norm | d",
                "post_attention_layernorm > ffn_norm | d",
                *FUSED_FFN,
                "post_mlp_layernorm > post_ffw_norm | d",
            )
        ),
        Rows(NEXTN, "layer >= n_layer"),
    ),
    mtp=Mtp("num_nextn_predict_layers"),
    metadata=("u32 ~rope.dimension_count = rotary",),
    vocabulary=rules.GLM_EDGE,
)

_GLM45: Final[Mapping[str, Any]] = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "n_routed_experts": 128,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": False,
}

GLM4_MOE: Final = FamilyTable(
    arch="glm4moe",
    classes=("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
    defaults=_GLM45,
    class_defaults={
        "Glm4vMoeForConditionalGeneration": {"vocab_size": 151424, "max_position_embeddings": 65536}
    },
    sizes={
        "rotary": "int(h * rope_fraction)",
        "dense": leading_dense(1),
        "x": "moe_intermediate_size",
        "shared": "n_shared_experts",
    },
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                *BIASED_QKV,
                "self_attn.q_norm > attn_q_norm | h | ?",
                "self_attn.k_norm > attn_k_norm | h | ?",
                "post_attention_layernorm > post_attention_norm | d",
            )
        ),
        Rows(GATED_FFN, "layer < dense"),
        Rows(("mlp.gate > ffn_gate_inp | e d", ROUTER_BIAS), "layer >= dense"),
        Rows(SHARED_EXPERTS, "layer >= dense and shared > 0"),
        Rows(NEXTN, "layer >= n_layer"),
    ),
    experts=ROUTED,
    mtp=Mtp("num_nextn_predict_layers"),
    metadata=(
        "u32 ~rope.dimension_count = rotary",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_count = shared",
        "u32 ~leading_dense_block_count = dense",
        "u32 ~expert_gating_func = 2",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        "bool ~expert_weights_norm = norm_topk_prob",
    ),
    refusals=(
        NOT_LEADING,
        Refusal(
            "use_qk_norm == 1 and not (layer_has('self_attn.q_norm.weight') and layer_has('self_attn.k_norm.weight'))",
            "norms of queries and keys are missing (use_qk_norm)",
            "Download the checkpoint again",
            per_layer=True,
        ),
    ),
    vocabulary=rules.GLM,
)

SOLAR_OPEN: Final = replace(
    GLM4_MOE,
    classes=("SolarOpenForCausalLM",),
    defaults={
        **_GLM45,
        "vocab_size": 196608,
        "intermediate_size": 10240,
        "moe_intermediate_size": 1280,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "head_dim": 128,
        "first_k_dense_replace": 0,
        "partial_rotary_factor": 1.0,
        "rope_theta": 1_000_000.0,
    },
    vocabulary=rules.SOLAR_OPEN,
)

GLM4_MOE_LITE: Final = replace(
    DEEPSEEK2,
    classes=("Glm4MoeLiteForCausalLM",),
    class_defaults={},
    defaults={
        **DEEPSEEK2.defaults,
        "vocab_size": 154880,
        "hidden_size": 2048,
        "intermediate_size": 10240,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 47,
        "num_attention_heads": 20,
        "max_position_embeddings": 202752,
        "rms_norm_eps": 1e-5,
        "n_routed_experts": 64,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.8,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
    },
    sizes={**DEEPSEEK2.sizes, "dense": leading_dense(1)},
    layer=(*DEEPSEEK2.layer, Rows(NEXTN, "layer >= n_layer")),
    mtp=Mtp("num_nextn_predict_layers"),
    refusals=(*DEEPSEEK2.refusals, NOT_LEADING),
    vocabulary=rules.GLM,
)

_FULL: Final = (
    "indexer_types[layer] == 'full' if indexer_types != None else index_topk_pattern[layer] == 'full'"
    " if index_topk_pattern != None"
    " else max(layer - first(index_skip_topk_offset, 2) + 1, 0) % max(first(index_topk_freq, 1), 1) == 0"
)
"""A shared layer takes the tokens that the indexer of the last full layer chose."""

GLM_DSA: Final = replace(
    GLM4_MOE_LITE,
    arch="glm-dsa",
    classes=("GlmMoeDsaForCausalLM",),
    defaults={
        **GLM4_MOE_LITE.defaults,
        "hidden_size": 6144,
        "intermediate_size": 12288,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 78,
        "num_attention_heads": 64,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "routed_scaling_factor": 2.5,
        "q_lora_rank": 2048,
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_topk": 2048,
        "scoring_func": "sigmoid",
    },
    sizes={**GLM4_MOE_LITE.sizes, "dense": leading_dense(3)},
    layer=(
        *DEEPSEEK2.layer,
        Rows(INDEXER, f"layer >= n_layer or ({_FULL})"),
        Rows(NEXTN, "layer >= n_layer"),
    ),
    metadata=(
        *(line for line in DEEPSEEK2.metadata if "rope.dimension_count" not in line),
        "u32 ~rope.dimension_count = int(rot * rope_fraction)",
        *INDEXER_METADATA,
        "bools ~attention.indexer.types = ["
        + _FULL.replace("layer", "i").replace("i_", "layer_")
        + " for i in layers]",
    ),
    refusals=(
        *GLM4_MOE_LITE.refusals,
        Refusal(
            "is_text(index_topk_pattern)",
            "the layers with an indexer are given as a text (index_topk_pattern)",
            'Write them as a list, indexer_types: ["full", "shared", ...], in config.json',
        ),
    ),
)

GLM: Final = FamilyTable(
    arch="chatglm",
    classes=("GlmForCausalLM",),
    defaults={
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1.5625e-07,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                *flagged(ATTENTION[:3], "bias?"),
                *ATTENTION[3:],
                "post_attention_layernorm > ffn_norm | d",
                *FUSED_FFN,
            )
        ),
    ),
    metadata=("u32 ~rope.dimension_count = int(h * rope_fraction)",),
    head_dim="None if h == n_embd // n_head else h",
    vocabulary=rules.CHATGLM,
    square_output=True,
)

CHATGLM: Final = FamilyTable(
    arch="chatglm",
    classes=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    defaults={
        "vocab_size": 65024,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 28,
        "num_attention_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    spellings={
        "vocab_size": ("padded_vocab_size",),
        "intermediate_size": ("ffn_hidden_size",),
        "max_position_embeddings": ("seq_length",),
        "head_dim": ("kv_channels",),
        "rms_norm_eps": ("layernorm_epsilon",),
    },
    n_head_kv="multi_query_group_num if multi_query_attention and multi_query_group_num else n_head",
    sizes={"qkv": "(n_head + 2 * n_head_kv) * h"},
    top=(
        "embedding.word_embeddings > token_embd | v d",
        "encoder.final_layernorm > output_norm | d",
    ),
    output="output_layer > output | v d",
    layer_prefix="encoder.layers",
    embedding="embedding.word_embeddings.weight",
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                "self_attention.query_key_value > attn_qkv | qkv d | bias?",
                "self_attention.dense > attn_output | d q",
                "post_attention_layernorm > ffn_norm | d",
                "mlp.dense_h_to_4h > ffn_up | 2*f d",
                "mlp.dense_4h_to_h > ffn_down | d f",
            )
        ),
    ),
    renames=((r"^transformer\.", ""),),
    metadata=(
        "u32 ~rope.dimension_count = h // 2",
        "f32 ~rope.freq_base = 10000.0 * first(rope_ratio, 1.0)",
    ),
    head_dim="None if h == n_embd // n_head else h",
    refusals=(
        Refusal("rmsnorm == 0", "the norms are not RMS norms (rmsnorm)"),
        Refusal("apply_residual_connection_post_layernorm", "residuals are taken behind the norms"),
    ),
    vocabulary=rules.CHATGLM,
    square_output=True,
)


_CONNECTIONS: Final = tuple(
    f"hc_{part}_{name}! > hc_{part}_{name} | {sizes}"
    for part in ("attn", "ffn")
    for name, sizes in (("base", "mix"), ("fn", "mix hc_mult*d | f32"), ("scale", "3"))
)
_CONVOLUTIONS: Final = tuple(
    f"self_attn.{part}_conv1d > ssm_conv1d_{part} | kw 1 conv | reshape(1, kw, 1, conv)" for part in "qkv"
)
_OWN_TOKENS: Final = "(indexer_types == None or indexer_types[{}] == 'full')"

GLM5_NEXT: Final = FamilyTable(
    arch="glm5-next",
    classes=("Glm5NextForConditionalGeneration",),
    defaults={
        **GLM_DSA.defaults,
        "hidden_size": 4096,
        "num_hidden_layers": 45,
        "n_routed_experts": 288,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 256,
        "qk_rope_head_dim": 0,
        "v_head_dim": 256,
        "max_position_embeddings": 1048576,
        "swiglu_limit": 10.0,
        "hc_mult": 4,
        "hc_eps": 1e-6,
        "hc_sinkhorn_iters": 20,
        "index_kpool": 16,
        "index_kpool_always_select_tail": True,
    },
    n_head_kv="0 if layer < n_layer and layer_types[layer] == 'linear_attention' else 1",
    sizes={
        **DEEPSEEK2.sizes,
        "dense": leading_dense(3),
        "linear": "layer < n_layer and layer_types[layer] == 'linear_attention'",
        "kd": "first(linear_attn_config['head_dim'], linear_head_dim)",
        "kw": "n_head * kd",
        "conv": "first(linear_attn_config['short_conv_kernel_size'], linear_conv_kernel_dim)",
        "mix": "hc_mult * (hc_mult + 2)",
    },
    layer=(
        DEEPSEEK2.layer[0],
        Rows(_CONNECTIONS),
        *(replace(group, when=f"not linear and {group.when}") for group in DEEPSEEK2.layer[1:4]),
        Rows(
            (
                *INDEXER,
                "self_attn.indexer.index_kpool_compress_ape! > indexer_compressor_ape"
                " | index_kpool index_head_dim | f32",
                "self_attn.indexer.index_kpool_compress_gate! > indexer_compressor_gate | index_head_dim d | f32",
            ),
            f"not linear and (layer >= n_layer or {_OWN_TOKENS.format('layer')})",
        ),
        Rows(
            (
                "self_attn.q_proj > attn_q | kw d",
                "self_attn.k_proj > attn_k | kw d",
                "self_attn.v_proj > attn_v | kw d",
                *_CONVOLUTIONS,
                "self_attn.f_a_proj > ssm_f_a | kd d",
                "self_attn.f_b_proj > ssm_f_b | kw kd",
                "self_attn.g_a_proj > ssm_g_a | kd d",
                "self_attn.g_b_proj > ssm_g_b | kw kd",
                "self_attn.b_proj > ssm_beta | n_head d",
                "self_attn.A_log! > ssm_a= | n_head | neg_exp",
                "self_attn.dt_bias! > ssm_dt=.bias | kw",
                "self_attn.o_norm > ssm_norm | kd",
                "self_attn.o_proj > attn_output | d kw",
            ),
            "linear",
        ),
        *DEEPSEEK2.layer[4:],
        Rows(NEXTN, "layer >= n_layer"),
    ),
    experts=ROUTED,
    mtp=Mtp("num_nextn_predict_layers"),
    metadata=(
        *DEEPSEEK2.metadata,
        "f32 ~attention.layer_norm_epsilon = 1e-6",
        "u32 ~ssm.conv_kernel = conv",
        "u32 ~kda.head_dim = kd",
        "f32 ~kda.gate_lower_bound = first(linear_attn_config['gate_lower_bound'], linear_lower_bound)",
        *INDEXER_METADATA,
        "u32 ~attention.indexer.kpool = index_kpool",
        "bool ~attention.indexer.kpool_select_tail = index_kpool_always_select_tail",
        f"bools ~attention.indexer.types = None if indexer_types == None"
        f" else [{_OWN_TOKENS.format('i')} for i in layers]",
        "u32 ~hyper_connection.count = hc_mult",
        "u32 ~hyper_connection.sinkhorn_iterations = hc_sinkhorn_iters",
        "f32 ~hyper_connection.epsilon = hc_eps",
        "f32s ~swiglu_clamp_exp = None if swiglu_limit == None else fill(float(swiglu_limit), n_block)",
        "f32s ~swiglu_clamp_shexp = None if swiglu_limit == None else fill(float(swiglu_limit), n_block)",
    ),
    without=("~rope.freq_base",),
    refusals=(
        NOT_LEADING,
        Refusal("rot != 0", "latent attention has RoPE (qk_rope_head_dim)"),
        Refusal(
            "layer_types == None", "the kinds of the layers are not named (layer_types)", "Add layer_types"
        ),
        Refusal("mhc == 0", "there are no hyper-connections (mhc)"),
        Refusal(
            "first(linear_attn_config['num_heads'], n_head) != n_head",
            "delta attention has another number of heads (linear_attn_config)",
        ),
    ),
    skip=TIED_HEAD,
    vocabulary=rules.GLM,
    output_needed=True,
)
