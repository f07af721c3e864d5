"""Models in Mistral's own format: params.json and consolidated.safetensors."""

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

CASES = (
    Case("mistral-own-7b", {**_SIZES, "rope_theta": 1000000.0}, {**_MODEL, **_OUTPUT}),
    Case("mistral-own-small", _SMALL, {**_MODEL, **_OUTPUT, **_VISION}),
    Case("mistral-own-ministral", _MINISTRAL, _MODEL),
)
