"""Models that see: the text half and the projector."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers

SIGLIP: dict[str, Any] = {
    "hidden_size": 48,
    "image_size": 56,
    "intermediate_size": 80,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 14,
    "vision_use_head": False,
}
MEANS: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.5]}
SEES = {"preprocessor_config.json": MEANS}
QWEN_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "vocab_size": 96,
}


def siglip(
    prefix: str, width: int = 48, hidden: int = 80, patch: int = 14, positions: int = 16, count: int = 2
) -> Shapes:
    """The tensors of a SigLIP encoder."""
    both = {
        "layer_norm1": (width,),
        "layer_norm2": (width,),
        "mlp.fc1": (hidden, width),
        "mlp.fc2": (width, hidden),
    }
    both |= {f"self_attn.{part}_proj": (width, width) for part in ("k", "out", "q", "v")}
    layer = {f"{name}.weight": shape for name, shape in both.items()}
    layer |= {f"{name}.bias": shape[:1] for name, shape in both.items()}
    return {
        f"{prefix}.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        f"{prefix}.embeddings.patch_embedding.bias": (width,),
        f"{prefix}.embeddings.position_embedding.weight": (positions, width),
        f"{prefix}.post_layernorm.weight": (width,),
        f"{prefix}.post_layernorm.bias": (width,),
        **layers(count, layer, f"{prefix}.encoder.layers"),
    }


GEMMA3_LAYER = {
    "input_layernorm.weight": (64,),
    "mlp.down_proj.weight": (64, 96),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "post_attention_layernorm.weight": (64,),
    "post_feedforward_layernorm.weight": (64,),
    "pre_feedforward_layernorm.weight": (64,),
    "self_attn.k_norm.weight": (32,),
    "self_attn.k_proj.weight": (64, 64),
    "self_attn.o_proj.weight": (64, 128),
    "self_attn.q_norm.weight": (32,),
    "self_attn.q_proj.weight": (128, 64),
    "self_attn.v_proj.weight": (64, 64),
}

_GEMMA3 = Case(
    "gemma3-vision",
    {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "mm_tokens_per_image": 4,
        "model_type": "gemma3",
        "text_config": {
            "head_dim": 32,
            "hidden_size": 64,
            "intermediate_size": 96,
            "max_position_embeddings": 256,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "sliding_window": 64,
            "vocab_size": 96,
        },
        "torch_dtype": "bfloat16",
        "vision_config": SIGLIP,
    },
    tensors={
        "language_model.model.embed_tokens.weight": (96, 64),
        "language_model.model.norm.weight": (64,),
        **layers(2, GEMMA3_LAYER, "language_model.model.layers"),
        "multi_modal_projector.mm_input_projection_weight": (48, 64),
        "multi_modal_projector.mm_soft_emb_norm.weight": (48,),
        **siglip("vision_tower.vision_model"),
    },
    files={
        "preprocessor_config.json": {**MEANS, "image_seq_length": 4},
        "tokenizer.json": {"added_tokens": [], "model": {"vocab": [["x", 0.0]] * 96}},
    },
    mmproj=True,
)
_QWEN2_VL = Case(
    "qwen2-vl-vision",
    {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        **QWEN_TEXT,
        "model_type": "qwen2_vl",
        "rope_scaling": {"mrope_section": [2, 3, 3], "type": "mrope"},
        "tie_word_embeddings": True,
        "vision_config": {
            "depth": 4,
            "embed_dim": 32,
            "hidden_size": 64,
            "in_chans": 3,
            "mlp_ratio": 2,
            "model_type": "qwen2_vl",
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)
_QWEN25_VL = Case(
    "qwen2.5-vl-vision",
    {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        **QWEN_TEXT,
        "model_type": "qwen2_5_vl",
        "rope_scaling": {"mrope_section": [2, 3, 3], "type": "mrope"},
        "tie_word_embeddings": False,
        "vision_config": {
            "depth": 4,
            "fullatt_block_indexes": [1, 3],
            "hidden_act": "silu",
            "hidden_size": 32,
            "in_chans": 3,
            "intermediate_size": 48,
            "model_type": "qwen2_5_vl",
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)
_QWEN3_VISION: dict[str, Any] = {
    "deepstack_visual_indexes": [1, 2],
    "depth": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "model_type": "qwen3_vl",
    "num_heads": 2,
    "num_position_embeddings": 16,
    "out_hidden_size": 64,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_QWEN3_VL = Case(
    "qwen3-vl-vision",
    {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": {
            **QWEN_TEXT,
            "head_dim": 16,
            "model_type": "qwen3_vl_text",
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
        },
        "tie_word_embeddings": True,
        "vision_config": _QWEN3_VISION,
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)
_MISTRAL3 = Case(
    "mistral3-vision",
    {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "image_token_index": 10,
        "model_type": "mistral3",
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "tie_word_embeddings": False,
        "text_config": {
            "head_dim": 16,
            "hidden_size": 64,
            "intermediate_size": 96,
            "max_position_embeddings": 256,
            "model_type": "mistral",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "vocab_size": 96,
        },
        "vision_config": {
            "head_dim": 16,
            "hidden_act": "silu",
            "hidden_size": 32,
            "image_size": 56,
            "intermediate_size": 48,
            "model_type": "pixtral",
            "num_attention_heads": 2,
            "num_hidden_layers": 4,
            "patch_size": 14,
            "rope_theta": 10000.0,
        },
        "vision_feature_layer": -1,
    },
    files={
        "preprocessor_config.json": MEANS,
        "tokenizer_config.json": {"added_tokens_decoder": {"12": {"content": "[IMG_BREAK]"}}},
    },
    mmproj=True,
)
_SMOLVLM = Case(
    "smolvlm-vision",
    {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "image_token_id": 5,
        "model_type": "smolvlm",
        "scale_factor": 2,
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "head_dim": 16,
            "hidden_size": 64,
            "intermediate_size": 96,
            "max_position_embeddings": 256,
            "model_type": "llama",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_theta": 100000.0,
            "vocab_size": 96,
        },
        "tie_word_embeddings": False,
        "vision_config": {**SIGLIP, "model_type": "smolvlm_vision", "size": {"longest_edge": 56}},
    },
    files={"preprocessor_config.json": {**MEANS, "size": {"longest_edge": 112}}},
    mmproj=True,
)

_GEMMA4_TEXT: dict[str, Any] = {
    "global_head_dim": 32,
    "head_dim": 16,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 96,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 256,
    "model_type": "gemma4_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 0,
    "sliding_window": 64,
    "vocab_size": 96,
}
_GEMMA4_VISION: dict[str, Any] = {
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "intermediate_size": 48,
    "model_type": "gemma4_vision",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "patch_size": 4,
    "pooling_kernel_size": 3,
    "position_embedding_size": 64,
}
_GEMMA4_AUDIO: dict[str, Any] = {
    "hidden_size": 32,
    "model_type": "gemma4_audio",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "output_proj_dims": 48,
    "subsampling_conv_channels": [128, 8],
}


def gemma4(name: str, **parts: Any) -> Case:
    config = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "text_config": _GEMMA4_TEXT,
    }
    tokenizer = {"added_tokens": [], "model": {"vocab": [["x", 0.0]] * 96}}
    files = {"processor_config.json": {"image_processor": MEANS}, "tokenizer.json": tokenizer}
    return Case(name, {**config, **parts}, files=files, mmproj=True)


_GEMMA4 = gemma4("gemma4-vision", vision_config=_GEMMA4_VISION, audio_config=None)
_GEMMA4_CLIPPED = gemma4(
    "gemma4-vision-clipped", vision_config={**_GEMMA4_VISION, "use_clipped_linears": True}, audio_config=None
)
_GEMMA4_STANDARDIZED = gemma4(
    "gemma4-vision-standardized", vision_config={**_GEMMA4_VISION, "standardize": True}, audio_config=None
)
_GEMMA4_AUDIO_CASE = gemma4("gemma4-audio", vision_config=_GEMMA4_VISION, audio_config=_GEMMA4_AUDIO)

_GLM_OCR = Case(
    "glm-ocr-vision",
    {
        "architectures": ["GlmOcrForConditionalGeneration"],
        "model_type": "glm_ocr",
        "text_config": {
            "head_dim": 16,
            "hidden_size": 64,
            "intermediate_size": 96,
            "max_position_embeddings": 256,
            "model_type": "glm_ocr_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_parameters": {
                "mrope_section": [2, 3, 3],
                "partial_rotary_factor": 1.0,
                "rope_theta": 10000,
                "rope_type": "default",
            },
            "tie_word_embeddings": False,
            "vocab_size": 96,
        },
        "tie_word_embeddings": False,
        "vision_config": {
            "depth": 2,
            "hidden_act": "silu",
            "hidden_size": 32,
            "image_size": 56,
            "in_channels": 3,
            "intermediate_size": 48,
            "model_type": "glm_ocr_vision",
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "rms_norm_eps": 1e-05,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)

CASES = (
    _GEMMA4,
    _GEMMA4_CLIPPED,
    _GEMMA4_STANDARDIZED,
    _GEMMA4_AUDIO_CASE,
    _GLM_OCR,
    _GEMMA3,
    _QWEN2_VL,
    _QWEN25_VL,
    _QWEN3_VL,
    _MISTRAL3,
    _SMOLVLM,
)
