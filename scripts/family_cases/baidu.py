"""Models of Baidu."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers
from family_cases.deepseek import at, ends, experts, gated, under

_ERNIE: dict[str, Any] = {
    "architectures": ["Ernie4_5ForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 131072,
    "model_type": "ernie4_5",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_cache": False,
    "vocab_size": 96,
}
_MOE: dict[str, Any] = {
    **{k: v for k, v in _ERNIE.items() if k != "head_dim"},
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 128,
    "model_type": "ernie4_5_moe",
    "moe_capacity": [64, 64, 64],
    "moe_gate": "topk",
    "moe_intermediate_size": 32,
    "moe_k": 2,
    "moe_layer_interval": 1,
    "moe_layer_start_index": 1,
    "moe_num_experts": 4,
    "moe_num_shared_experts": 2,
    "moe_use_aux_free": True,
    "num_nextn_predict_layers": 1,
}
_LAYER = {
    "input_layernorm.weight": (128,),
    "post_attention_layernorm.weight": (128,),
    "self_attn.k_proj.weight": (64, 128),
    "self_attn.o_proj.weight": (128, 128),
    "self_attn.q_proj.weight": (128, 128),
    "self_attn.v_proj.weight": (64, 128),
}
_MOE_LAYERS = {
    **ends(128, tied=True),
    **at(0, {**_LAYER, **gated("mlp", 128, 128)}),
    **at(
        1,
        {
            **_LAYER,
            "mlp.gate.weight": (4, 128),
            "mlp.moe_statics.e_score_correction_bias": (1, 4),
            **experts("mlp.experts", 4, 128, 32),
            **gated("mlp.shared_experts", 128, 64),
        },
    ),
    **under("model.mtp_block.0.", {**_LAYER, **gated("mlp", 128, 128)}),
    "model.mtp_emb_norm.0.weight": (128,),
    "model.mtp_hidden_norm.0.weight": (128,),
    "model.mtp_linear_proj.0.weight": (128, 256),
}
_PADDLE: dict[str, Any] = {
    "architectures": ["PaddleOCRVLForConditionalGeneration"],
    "attention_probs_dropout_prob": 0.0,
    "auto_map": {"AutoConfig": "configuration_paddleocr_vl.PaddleOCRVLConfig"},
    "compression_ratio": 1.0,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 64,
    "ignored_index": -100,
    "image_token_id": 90,
    "intermediate_size": 96,
    "max_position_embeddings": 131072,
    "model_type": "paddleocr_vl",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_is_neox_style": True,
    "rope_scaling": {"mrope_section": [4, 6, 6], "rope_type": "default", "type": "default"},
    "rope_theta": 500000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_cache": False,
    "use_flash_attention": False,
    "video_token_id": 91,
    "vision_config": {
        "architectures": ["SiglipVisionModel"],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "image_size": 28,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-06,
        "model_type": "paddleocr_vl",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_start_token_id": 92,
    "vocab_size": 96,
    "weight_share_add_bias": True,
    "use_3d_rope": True,
}
_PADDLE_LAYER = {
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
    "self_attn.k_proj.weight": (64, 64),
    "self_attn.o_proj.weight": (64, 128),
    "self_attn.q_proj.weight": (128, 64),
    "self_attn.v_proj.weight": (64, 64),
    **gated("mlp", 64, 96),
}
_PADDLE_LAYERS = {
    **ends(),
    **layers(2, _PADDLE_LAYER),
    "mlp_AR.linear_1.weight": (64, 32),
    "visual.vision_model.embeddings.patch_embedding.weight": (32, 3, 14, 14),
}

CASES = (
    Case("ernie-0.3b", _ERNIE),
    Case(
        "ernie-0.3b-underscore",
        {**_ERNIE, "architectures": ["Ernie4_5_ForCausalLM"]},
        {**ends(tied=True), **layers(2, _PADDLE_LAYER)},
    ),
    Case(
        "ernie-fused",
        {**_ERNIE, "tie_word_embeddings": False},
        {
            **under("ernie.", {k.removeprefix("model."): v for k, v in ends(tied=True).items()}),
            "lm_head.weight": (96, 64),
            **layers(
                2,
                {
                    "input_layernorm.weight": (64,),
                    "post_attention_layernorm.weight": (64,),
                    "self_attn.qkv_proj.weight": (256, 64),
                    "self_attn.o_proj.weight": (64, 128),
                    "mlp.up_gate_proj.weight": (192, 64),
                    "mlp.down_proj.weight": (64, 96),
                },
                "ernie.layers",
            ),
        },
    ),
    Case("ernie-21b-a3b", _MOE, _MOE_LAYERS),
    Case("ernie-21b-a3b-as-transformers-saves", _MOE),
    Case("paddleocr-vl", _PADDLE, _PADDLE_LAYERS),
)
