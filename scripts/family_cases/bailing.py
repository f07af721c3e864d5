"""Models of inclusionAI (Ling, Ring), and Sarvam's models, which have their architecture."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers
from family_cases.deepseek import at, experts, gated

_LITE: dict[str, Any] = {
    "architectures": ["BailingMoeForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_bailing_moe.BailingMoeConfig"},
    "embedding_dropout": 0.0,
    "eos_token_id": 2,
    "first_k_dense_replace": 0,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.006,
    "intermediate_size": 96,
    "max_position_embeddings": 16384,
    "max_window_layers": 28,
    "model_type": "bailing_moe",
    "moe_intermediate_size": 32,
    "norm_head": False,
    "norm_softmax": False,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_shared_experts": 2,
    "output_dropout": 0.0,
    "output_router_logits": False,
    "pad_token_id": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 600000,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_cache": True,
    "use_qkv_bias": False,
    "use_sliding_window": False,
    "vocab_size": 96,
}
_ENDS: Shapes = {
    "lm_head.weight": (96, 64),
    "model.norm.weight": (64,),
    "model.word_embeddings.weight": (96, 64),
}
_ATTENTION = {
    "attention.dense.weight": (64, 128),
    "attention.query_key_value.weight": (256, 64),
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
}
_MOE = {"mlp.gate.weight": (4, 64), **experts("mlp.experts", 4, 64, 32)}
_MINI2: dict[str, Any] = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_bailing_moe_v2.BailingMoeV2Config"},
    "embedding_dropout": 0.0,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 32768,
    "max_window_layers": 20,
    "model_type": "bailing_moe",
    "moe_intermediate_size": 32,
    "moe_router_enable_expert_bias": True,
    "mtp_loss_scaling_factor": 0,
    "n_group": 2,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 0,
    "num_shared_experts": 1,
    "output_dropout": 0.0,
    "output_router_logits": False,
    "pad_token_id": 3,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 600000,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "use_rmsnorm": True,
    "vocab_size": 96,
}
_ATTENTION2 = {
    **_ATTENTION,
    "attention.key_layernorm.weight": (32,),
    "attention.query_layernorm.weight": (32,),
}
_MOE2 = {**_MOE, "mlp.gate.expert_bias": (4,), **gated("mlp.shared_experts", 64, 32)}
_NEXTN2 = at(
    2,
    {
        **_ATTENTION2,
        **_MOE2,
        "eh_proj.weight": (64, 128),
        "enorm.weight": (64,),
        "hnorm.weight": (64,),
        "final_layernorm.weight": (64,),
    },
)
_LAYERS2 = {**_ENDS, **at(0, {**_ATTENTION2, **gated("mlp", 64, 96)}), **at(1, {**_ATTENTION2, **_MOE2})}
_SARVAM = {
    **{
        k: v
        for k, v in _MINI2.items()
        if k not in ("partial_rotary_factor", "num_nextn_predict_layers", "n_group", "topk_group")
    },
    "architectures": ["SarvamMoEForCausalLM"],
    "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_sarvam_moe.SarvamMoEConfig"},
    "model_type": "sarvam_moe",
    "moe_shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
}

CASES = (
    Case(
        "ling-lite",
        _LITE,
        {**_ENDS, **layers(2, {**_ATTENTION, **_MOE, **gated("mlp.shared_experts", 64, 64)})},
    ),
    Case("ling-mini-2", _MINI2, _LAYERS2),
    Case(
        "ling-2-nextn",
        {**_MINI2, "num_nextn_predict_layers": 1, "moe_shared_expert_intermediate_size": 32},
        {**_LAYERS2, **_NEXTN2},
    ),
    Case("sarvam-30b", _SARVAM, _LAYERS2, raw_config=True),
    Case(
        "sarvam-30b-module",
        {**_SARVAM, "architectures": ["modeling_sarvam_moe.SarvamMoEForCausalLM"]},
        _LAYERS2,
        raw_config=True,
    ),
)
