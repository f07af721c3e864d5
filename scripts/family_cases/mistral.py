"""Mistral 4, and models in Mistral's own format: params.json and consolidated.safetensors."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers

_SIZES = {
    "dim": 64,
    "n_layers": 2,
    "head_dim": 32,
    "hidden_dim": 96,
    "n_heads": 4,
    "n_kv_heads": 2,
    "norm_eps": 1e-05,
    "vocab_size": 96,
}
_LAYER = {
    "attention.wq.weight": (128, 64),
    "attention.wk.weight": (64, 64),
    "attention.wv.weight": (64, 64),
    "attention.wo.weight": (64, 128),
    "attention_norm.weight": (64,),
    "feed_forward.w1.weight": (96, 64),
    "feed_forward.w2.weight": (64, 96),
    "feed_forward.w3.weight": (96, 64),
    "ffn_norm.weight": (64,),
}
_TOP = {"norm.weight": (64,), "tok_embeddings.weight": (96, 64)}
_OUTPUT = {"output.weight": (96, 64)}
_MODEL: Shapes = {**_TOP, **layers(2, _LAYER, "layers")}
_SMALL: dict[str, Any] = {
    **_SIZES,
    "rope_theta": 1000000000.0,
    "max_seq_len": 131072,
    "model_type": "transformer",
    "vision_encoder": {
        "hidden_size": 32,
        "num_channels": 3,
        "max_image_size": 1540,
        "patch_size": 14,
        "rope_theta": 10000.0,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "adapter_bias": False,
        "mm_projector_id": "patch_merge",
        "spatial_merge_size": 2,
        "add_pre_mm_projector_layer_norm": True,
        "image_token_id": 10,
        "image_break_token_id": 12,
        "image_end_token_id": 13,
        "image_size": 1540,
    },
}
_VISION: Shapes = {
    "vision_encoder.patch_conv.weight": (32, 3, 14, 14),
    "vision_encoder.ln_pre.weight": (32,),
    "vision_encoder.transformer.layers.0.attention.wq.weight": (32, 32),
    "vision_encoder.transformer.layers.0.attention_norm.weight": (32,),
    "vision_language_adapter.w_in.weight": (64, 32),
    "vision_language_adapter.w_out.weight": (64, 64),
    "patch_merger.merging_layer.weight": (32, 128),
    "pre_mm_projector_norm.weight": (32,),
}
_SEEING_LAYER = {
    "attention.wq.weight": (32, 32),
    "attention.wk.weight": (32, 32),
    "attention.wv.weight": (32, 32),
    "attention.wo.weight": (32, 32),
    "attention_norm.weight": (32,),
    "feed_forward.w1.weight": (64, 32),
    "feed_forward.w2.weight": (32, 64),
    "feed_forward.w3.weight": (64, 32),
    "ffn_norm.weight": (32,),
}
_SEEING: Shapes = {
    **_MODEL,
    **_OUTPUT,
    **_VISION,
    "vision_encoder.ln_pre.weight": (32,),
    **layers(2, _SEEING_LAYER, "vision_encoder.transformer.layers"),
}
_SMALL_SEEING = {
    **_SMALL,
    "vision_encoder": {**_SMALL["vision_encoder"], "num_hidden_layers": 2, "image_size": 56},
}
# Pixtral 12B: no merger of patches, and biases behind the encoder
_PIXTRAL: dict[str, Any] = {
    **_SIZES,
    "rope_theta": 1000000000.0,
    "vision_encoder": {
        "hidden_size": 32,
        "num_channels": 3,
        "image_size": 64,
        "patch_size": 16,
        "rope_theta": 10000.0,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "adapter_bias": True,
        "image_token_id": 10,
        "image_break_token_id": 12,
        "image_end_token_id": 13,
    },
}
_PIXTRAL_TENSORS: Shapes = {
    **{name: shape for name, shape in _SEEING.items() if not name.startswith(("patch_merger", "pre_mm"))},
    "vision_encoder.patch_conv.weight": (32, 3, 16, 16),
    "vision_language_adapter.w_in.bias": (64,),
    "vision_language_adapter.w_out.bias": (64,),
}
_MINISTRAL: dict[str, Any] = {
    **_SIZES,
    "rope_theta": 1000000.0,
    "tied_embeddings": True,
    "max_position_embeddings": 262144,
    "max_seq_len": 262144,
    "yarn": {
        "original_max_position_embeddings": 16384,
        "factor": 16,
        "apply_scale": False,
        "beta": 32,
        "alpha": 1,
    },
    "llama_4_scaling": {"original_max_position_embeddings": 16384, "beta": 0.1},
    "q_lora_rank": None,
    "qk_rope_head_dim": None,
}

_MISTRAL4: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "dtype": "bfloat16",
    "image_token_index": 10,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "first_k_dense_replace": 0,
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "kv_lora_rank": 32,
        "max_position_embeddings": 1048576,
        "model_type": "mistral4",
        "moe_intermediate_size": 32,
        "n_group": 1,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "pad_token_id": 11,
        "q_lora_rank": 48,
        "qk_head_dim": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "rms_norm_eps": 1e-06,
        "rope_interleave": True,
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 128.0,
            "llama_4_scaling_beta": 0.1,
            "max_position_embeddings": 1048576,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 8192,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
            "rope_type": "yarn",
            "type": "yarn",
        },
        "routed_scaling_factor": 1.0,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "use_cache": True,
        "v_head_dim": 16,
        "vocab_size": 96,
    },
    "tie_word_embeddings": False,
    "vision_config": {
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 32,
        "image_size": 28,
        "intermediate_size": 32,
        "model_type": "pixtral",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 1,
        "patch_size": 14,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
    },
    "vision_feature_layer": -1,
}

CASES = (
    Case("mistral4", _MISTRAL4),
    Case(
        "mistral4-tied-in-its-text",
        {**_MISTRAL4, "text_config": {**_MISTRAL4["text_config"], "tie_word_embeddings": True}},
    ),
    Case("mistral-own-7b", {**_SIZES, "rope_theta": 1000000.0}, {**_MODEL, **_OUTPUT}),
    Case("mistral-own-small", _SMALL, {**_MODEL, **_OUTPUT, **_VISION}),
    Case("mistral-own-ministral", _MINISTRAL, _MODEL),
    Case("mistral-own-seeing", _SMALL_SEEING, _SEEING, mmproj=True, text=False),
    Case("mistral-own-pixtral", _PIXTRAL, _PIXTRAL_TENSORS, mmproj=True, text=False),
)
