"""Models of Tencent Hunyuan."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers
from family_cases.deepseek import at, ends, experts, gated
from family_cases.glm import attention

_DENSE: dict[str, Any] = {
    "add_classification_head": False,
    "architectures": ["HunYuanDenseV1ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.1,
    "attention_head_dim": 32,
    "bos_token_id": 1,
    "cla_share_factor": 2,
    "class_num": 0,
    "dense_list": [64, 0],
    "eod_token_id": 3,
    "eos_token_id": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "im_end_id": 5,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 262144,
    "mlp_bias": False,
    "model_type": "hunyuan_v1_dense",
    "norm_type": "rms",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 1,
    "pool_type": "last",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "alpha": 1000.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "type": "dynamic",
    },
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_cla": False,
    "use_qk_norm": True,
    "vocab_size": 96,
}
_MOE: dict[str, Any] = {
    **{k: v for k, v in _DENSE.items() if k not in ("head_dim", "attention_head_dim")},
    "architectures": ["HunYuanMoEV1ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_hunyuan.HunYuanConfig"},
    "attention_head_dim": 128,
    "head_dim": 128,
    "hidden_size": 256,
    "max_position_embeddings": 32768,
    "model_type": "hunyuan_v1_moe",
    "moe_drop_tokens": False,
    "moe_intermediate_size": [96, 96],
    "moe_layer_num_skipped": 0,
    "moe_random_routing_dropped_token": False,
    "moe_topk": [2, 2],
    "num_attention_heads": 2,
    "num_experts": 4,
    "num_key_value_heads": 1,
    "num_shared_expert": [1, 1],
    "use_mixed_mlp_moe": True,
}
_VL_LAYER = {
    **attention(bias=False),
    **gated("mlp", 64, 96),
    "self_attn.key_layernorm.weight": (32,),
    "self_attn.query_layernorm.weight": (32,),
}
_OCR_TEXT = {
    **{k: v for k, v in _DENSE.items() if k != "architectures"},
    "max_position_embeddings": 32768,
    "num_experts": 1,
    "rope_scaling": {
        "alpha": 1000.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "type": "xdrope",
        "xdrope_section": [4, 4, 4, 4],
    },
}

_HY3: dict[str, Any] = {
    "architectures": ["HYV3ForCausalLM"],
    "bos_token_id": 1,
    "enable_attention_fp32_softmax": False,
    "enable_lm_head_fp32": True,
    "enable_moe_fp32_combine": False,
    "eod_token_id": 3,
    "eos_token_id": 2,
    "expert_hidden_dim": 32,
    "first_k_dense_replace": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.006,
    "intermediate_size": 96,
    "max_position_embeddings": 262144,
    "model_type": "hy_v3",
    "moe_intermediate_size": 32,
    "moe_router_enable_expert_bias": True,
    "moe_router_use_sigmoid": True,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 1,
    "num_shared_experts": 1,
    "output_router_logits": True,
    "pad_token_id": 3,
    "qk_norm": True,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 11158840.0, "rope_type": "default"},
    "route_norm": True,
    "router_scaling_factor": 2.826,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_grouped_mm": False,
    "vocab_size": 96,
}
_HY3_MOE = {
    "mlp.expert_bias": (4,),
    **experts("mlp.experts", 4, 64, 32),
    "mlp.router.gate.weight": (4, 64),
    **gated("mlp.shared_mlp", 64, 32),
}
_HY3_NEXTN = at(
    2,
    {
        **attention(bias=False, norm=32),
        **_HY3_MOE,
        "eh_proj.weight": (64, 128),
        "enorm.weight": (64,),
        "hnorm.weight": (64,),
        "final_layernorm.weight": (64,),
    },
)
_HY3_LAYERS = {
    **ends(),
    **at(0, {**attention(bias=False, norm=32), **gated("mlp", 64, 96)}),
    **at(1, {**attention(bias=False, norm=32), **_HY3_MOE}),
}

CASES = (
    Case("hy3", _HY3, {**_HY3_LAYERS, **_HY3_NEXTN}),
    Case("hy3-as-transformers-saves", {**_HY3, "num_nextn_predict_layers": 0}),
    Case(
        "hunyuan-ocr",
        {
            **_OCR_TEXT,
            "architectures": ["HunYuanVLForConditionalGeneration"],
            "model_type": "hunyuan_vl",
            "vision_config": {"hidden_size": 32, "num_hidden_layers": 1, "patch_size": 16},
        },
        {**ends(tied=True), **layers(2, {**_VL_LAYER}), "vit.perceive.before_rms.weight": (32,)},
    ),
    Case("hunyuan-dense", _DENSE),
    Case("hunyuan-dense-untied", {**_DENSE, "tie_word_embeddings": False, "rope_scaling": None}),
    Case("hunyuan-a13b", _MOE),
    Case("hunyuan-dense-with-head", _DENSE, more={"lm_head.weight": (96, 64)}),
)
