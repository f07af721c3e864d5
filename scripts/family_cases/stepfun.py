"""Models of StepFun."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers
from family_cases.deepseek import at, ends, gated, under
from family_cases.glm import attention

_TYPES = ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"]
_FLASH: dict[str, Any] = {
    "architectures": ["Step3p5ForCausalLM"],
    "att_impl_type": "GQA",
    "attention_other_setting": {
        "attention_type": "sliding_attention",
        "head_dim": 32,
        "num_attention_groups": 2,
        "num_attention_heads": 6,
        "true_head_dim": 32,
    },
    "auto_map": {"AutoConfig": "configuration_step3p5.Step3p5Config"},
    "bos_token_id": 0,
    "eos_token_id": [1, 2],
    "head_dim": 32,
    "hidden_size": 64,
    "intermediate_size": 96,
    "layer_types": [*_TYPES, "sliding_attention"],
    "max_position_embeddings": 262144,
    "max_seq_len": 262144,
    "model_type": "step3p5",
    "moe_every_n_layer": 1,
    "moe_intermediate_size": 32,
    "moe_layer_offset": 0,
    "moe_layers_enum": "1,2,3",
    "moe_num_experts": 4,
    "moe_router_activation": "sigmoid",
    "moe_router_scaling_factor": 3.0,
    "moe_top_k": 2,
    "need_fp32_gate": True,
    "norm_expert_weight": True,
    "num_attention_groups": 2,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factors": [0.5, 1.0, 1.0, 1.0, 1.0],
    "rope_scaling": {
        "factor": 2.0,
        "high_freq_factor": 32.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 131072,
        "rope_type": "llama3",
    },
    "rope_theta": [5000000.0, 10000.0, 10000.0, 10000.0, 10000.0],
    "share_expert_dim": 32,
    "sink": False,
    "sliding_window": 512,
    "swiglu_limits": [0.0, 0.0, 0.0, 7, 0.0],
    "swiglu_limits_shared": [0.0, 0.0, 0.0, 16, 0.0],
    "torch_dtype": "bfloat16",
    "use_head_wise_attn_gate": True,
    "use_mfa": False,
    "use_moe": True,
    "use_moe_router_bias": True,
    "use_qk_norm": True,
    "use_rope_layers": [],
    "vocab_size": 96,
    "yarn_only_types": ["full_attention"],
    "zero_centered": True,
}
_MOE = {
    **gated("share_expert", 64, 32),
    "moe.down_proj.weight": (4, 64, 32),
    "moe.gate.weight": (4, 64),
    "moe.gate_proj.weight": (4, 32, 64),
    "moe.router_bias": (4,),
    "moe.up_proj.weight": (4, 32, 64),
}


def _attention(heads: int) -> Shapes:
    return {**attention(query=heads * 32, bias=False, norm=32), "self_attn.g_proj.weight": (heads, 64)}


_FLASH_LAYERS = {
    **ends(),
    **at(0, {**_attention(4), **gated("mlp", 64, 96)}),
    **at(1, {**_attention(6), **_MOE}),
    **at(2, {**_attention(6), **_MOE}),
    **at(3, {**_attention(6), **_MOE}),
}
_NEXTN = at(
    4,
    {
        **_attention(6),
        **gated("mlp", 64, 96),
        "eh_proj.weight": (64, 128),
        "enorm.weight": (64,),
        "hnorm.weight": (64,),
        "transformer.shared_head.norm.weight": (64,),
        "transformer.shared_head.output.weight": (96, 64),
    },
)
_VL: dict[str, Any] = {
    "architectures": ["StepVLForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_step_vl.StepRoboticsConfig"},
    "hidden_size": 64,
    "image_token_id": 90,
    "model_type": "step_robotics",
    "projector_bias": False,
    "text_config": {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "eos_token_id": [1, 2],
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 65536,
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 96,
    },
    "torch_dtype": "bfloat16",
    "understand_projector_stride": 2,
    "vision_config": {
        "heads": 2,
        "hidden_act": "quick_gelu",
        "image_size": 28,
        "layers": 1,
        "patch_size": 14,
        "width": 32,
    },
}
_37: dict[str, Any] = {
    "architectures": ["Step3p7ForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_step3p7.Step3p7Config"},
    "image_token_id": 90,
    "model_type": "step3p7",
    "text_config": {k: v for k, v in _FLASH.items() if k not in ("auto_map",)},
    "understand_projector_stride": 2,
    "vision_config": {"heads": 2, "image_size": 28, "layers": 1, "patch_size": 14, "width": 32},
}

CASES = (
    Case("step-3.5-flash", _FLASH, {**_FLASH_LAYERS, **_NEXTN}, raw_config=True),
    Case(
        "step-3.5-flash-one-theta",
        {
            **_FLASH,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "num_nextn_predict_layers": 0,
            "swiglu_limits": None,
            "swiglu_limits_shared": None,
            "layer_types": _TYPES,
            "partial_rotary_factors": [0.5, 1.0, 1.0, 1.0],
        },
        _FLASH_LAYERS,
        raw_config=True,
    ),
    Case(
        "step-3.7-flash",
        _37,
        {
            **under("model.language_", {}),
            **{
                ("model.language_model." + k.removeprefix("model.") if k.startswith("model.") else k): v
                for k, v in {**_FLASH_LAYERS, **_NEXTN}.items()
            },
            "vision_model.conv1.weight": (32, 3, 14, 14),
        },
        raw_config=True,
    ),
    Case(
        "step3-vl-10b",
        _VL,
        {
            **ends(),
            **layers(2, {**attention(bias=False, norm=32), **gated("mlp", 64, 96)}),
            "vision_model.conv1.weight": (32, 3, 14, 14),
            "vit_large_projector.weight": (64, 128),
        },
    ),
)
