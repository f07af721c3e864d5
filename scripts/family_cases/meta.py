"""Models of Meta."""

from __future__ import annotations

from typing import Any

from family_cases import Case
from family_cases.vision import SEES

_TEXT: dict[str, Any] = {
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "attention_dropout": 0.0,
    "attn_scale": 0.1,
    "attn_temperature_tuning": True,
    "bos_token_id": 1,
    "cache_implementation": "static",
    "eos_token_id": [1, 2],
    "floor_scale": 8192,
    "for_llm_compressor": False,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "interleave_moe_layer_step": 1,
    "intermediate_size": 32,
    "intermediate_size_mlp": 96,
    "max_position_embeddings": 10485760,
    "model_type": "llama4_text",
    "no_rope_layers": [1, 1, 1, 0],
    "num_attention_heads": 4,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "output_router_logits": False,
    "pad_token_id": 3,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 1.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_qk_norm": True,
    "vocab_size": 96,
}
_SCOUT = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "boi_token_index": 90,
    "eoi_token_index": 91,
    "image_token_index": 92,
    "model_type": "llama4",
    "text_config": _TEXT,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vision_config": {
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "image_size": 28,
        "intermediate_size": 128,
        "model_type": "llama4_vision_model",
        "norm_eps": 1e-05,
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 1,
        "patch_size": 14,
        "pixel_shuffle_ratio": 0.5,
        "projector_input_dim": 64,
        "projector_output_dim": 64,
        "rope_theta": 10000,
        "vision_output_dim": 64,
    },
}
_MAVERICK = {
    **_TEXT,
    "interleave_moe_layer_step": 2,
    "rope_scaling": None,
    "use_qk_norm": False,
    "attention_chunk_size": 8192,
}
_MOBILE = {
    **_TEXT,
    "architectures": ["Llama4ForCausalLM"],
    "interleave_moe_layer_step": 0,
    "layer_types": ["full_attention"] * 4,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "moe_layers": [],
    "no_rope_layers": [1, 1, 1, 1],
    "rope_scaling": None,
    "tie_word_embeddings": True,
}

CASES = (
    Case(
        "llama4-scout",
        {**_SCOUT, "vision_config": {**_SCOUT["vision_config"], "num_hidden_layers": 3}},
        files=SEES,
        mmproj=True,
    ),
    Case("llama4-maverick", {**_SCOUT, "text_config": _MAVERICK}),
    Case("llama4-text", {**_TEXT, "architectures": ["Llama4ForCausalLM"], "tie_word_embeddings": False}),
    Case("mobilellm-pro", _MOBILE),
)
