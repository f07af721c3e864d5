"""Models of Z.ai (GLM), and models with their architecture."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers
from family_cases.deepseek import at, ends, experts, gated, mla, nextn, under
from family_cases.vision import SEES

_GLM4: dict[str, Any] = {
    "architectures": ["Glm4ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": [1, 2],
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 32768,
    "model_type": "glm4",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 3,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
_GLM4V_TEXT = {
    **{
        k: v
        for k, v in _GLM4.items()
        if k not in ("architectures", "head_dim", "partial_rotary_factor", "tie_word_embeddings")
    },
    "attention_bias": True,
    "max_position_embeddings": 65536,
    "model_type": "glm4v_text",
    "num_attention_heads": 2,
    "rope_scaling": {"type": "default", "mrope_section": [4, 2, 2]},
    "partial_rotary_factor": 0.5,
}
_GLM4V_VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
    "image_size": 28,
    "model_type": "glm4v_vision",
}
_GLM4V = {
    "architectures": ["Glm4vForConditionalGeneration"],
    "model_type": "glm4v",
    "image_start_token_id": 90,
    "image_end_token_id": 91,
    "image_token_id": 92,
    "tie_word_embeddings": False,
    "text_config": _GLM4V_TEXT,
    "vision_config": _GLM4V_VISION,
}
_GLM45: dict[str, Any] = {
    "architectures": ["Glm4MoeForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": [1, 2],
    "first_k_dense_replace": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 131072,
    "model_type": "glm4_moe",
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 3,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_qk_norm": False,
    "vocab_size": 96,
}


def attention(width: int = 64, query: int = 128, key: int = 64, bias: bool = True, norm: int = 0) -> Shapes:
    """The tensors of grouped-query attention, with the two norms of a layer."""
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "self_attn.k_proj.weight": (key, width),
        "self_attn.o_proj.weight": (width, query),
        "self_attn.q_proj.weight": (query, width),
        "self_attn.v_proj.weight": (key, width),
    }
    if bias:
        shapes |= {
            "self_attn.k_proj.bias": (key,),
            "self_attn.q_proj.bias": (query,),
            "self_attn.v_proj.bias": (key,),
        }
    if norm:
        shapes |= {"self_attn.k_norm.weight": (norm,), "self_attn.q_norm.weight": (norm,)}
    return shapes


_MOE = {
    "mlp.gate.e_score_correction_bias": (4,),
    "mlp.gate.weight": (4, 64),
    **experts("mlp.experts", 4, 64, 32),
    **gated("mlp.shared_experts", 64, 32),
}
_NEXTN = at(2, {**attention(), **_MOE, **nextn()})
_GLM45V_TEXT = {
    **{
        k: v
        for k, v in _GLM45.items()
        if k not in ("architectures", "num_nextn_predict_layers", "rope_scaling", "tie_word_embeddings")
    },
    "model_type": "glm4v_moe_text",
    "max_position_embeddings": 65536,
    "rope_scaling": {"type": "default", "mrope_section": [8, 4, 4]},
}
_GLM45V = {
    **_GLM4V,
    "architectures": ["Glm4vMoeForConditionalGeneration"],
    "model_type": "glm4v_moe",
    "text_config": _GLM45V_TEXT,
    "vision_config": {**_GLM4V_VISION, "intermediate_size": 48, "model_type": "glm4v_moe_vision"},
}
_FLASH: dict[str, Any] = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": [1, 2],
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "max_position_embeddings": 202752,
    "model_type": "glm4_moe_lite",
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 3,
    "partial_rotary_factor": 1.0,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.8,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 32,
    "vocab_size": 96,
}
_MLA_NEXTN = at(2, {**mla(), **_MOE, **nextn()})
_GLM5 = {
    **{k: v for k, v in _FLASH.items() if k not in ("partial_rotary_factor", "rope_scaling", "rope_theta")},
    "architectures": ["GlmMoeDsaForCausalLM"],
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 32,
    "indexer_rope_interleave": True,
    "model_type": "glm_moe_dsa",
    "moe_layer_freq": 1,
    "qk_head_dim": 48,
    "rope_interleave": True,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
}
_INDEXER = {
    "self_attn.indexer.k_norm.bias": (16,),
    "self_attn.indexer.k_norm.weight": (16,),
    "self_attn.indexer.weights_proj.weight": (2, 64),
    "self_attn.indexer.wk.weight": (16, 64),
    "self_attn.indexer.wq_b.weight": (32, 48),
}
_GLM5_LAYERS = {
    **ends(),
    **at(0, {**mla(), **gated("mlp", 64, 96), **_INDEXER}),
    **at(1, {**mla(), **_MOE, **_INDEXER}),
    **at(2, {**mla(), **_MOE, **_INDEXER, **nextn()}),
}
_OCR_TEXT = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dtype": "bfloat16",
    "eos_token_id": [1, 2],
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 131072,
    "model_type": "glm_ocr_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 3,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {
        "mrope_section": [4, 2, 2],
        "partial_rotary_factor": 1.0,
        "rope_theta": 10000,
        "rope_type": "default",
    },
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 96,
}
_OCR = {
    "architectures": ["GlmOcrForConditionalGeneration"],
    "image_token_id": 92,
    "model_type": "glm_ocr",
    "text_config": _OCR_TEXT,
    "tie_word_embeddings": False,
    "vision_config": {**_GLM4V_VISION, "model_type": "glm_ocr_vision", "attention_bias": True},
}
_OCR_ATTENTION = {
    **attention(bias=False),
    "mlp.down_proj.weight": (64, 96),
    "mlp.gate_up_proj.weight": (192, 64),
    "post_mlp_layernorm.weight": (64,),
    "post_self_attn_layernorm.weight": (64,),
}
_OCR_LAYERS = {
    **under("model.language_", {}),
    "lm_head.weight": (96, 64),
    "model.language_model.embed_tokens.weight": (96, 64),
    "model.language_model.norm.weight": (64,),
    **layers(2, _OCR_ATTENTION, "model.language_model.layers"),
    **at(2, {**_OCR_ATTENTION, **nextn()}, "model.language_model.layers"),
    "model.visual.patch_embed.proj.weight": (32, 3, 2, 14, 14),
}
_SOLAR = {
    "architectures": ["SolarOpenForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 0,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 131072,
    "model_type": "solar_open",
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 2.0, "original_max_position_embeddings": 65536, "type": "yarn"},
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_qk_norm": False,
    "vocab_size": 96,
}
_GLM4_9B_HF = {
    **_GLM4,
    "architectures": ["GlmForCausalLM"],
    "attention_bias": True,
    "model_type": "glm",
    "num_attention_heads": 2,
    "rms_norm_eps": 1.5625e-07,
}
_CHATGLM: dict[str, Any] = {
    "_name_or_path": "THUDM/glm-4-9b-chat",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["ChatGLMModel"],
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"},
    "bias_dropout_fusion": True,
    "classifier_dropout": None,
    "eos_token_id": [1, 2],
    "ffn_hidden_size": 96,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 64,
    "kv_channels": 32,
    "layernorm_epsilon": 1.5625e-07,
    "model_type": "chatglm",
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 2,
    "num_layers": 2,
    "original_rope": True,
    "pad_token_id": 3,
    "padded_vocab_size": 96,
    "post_layer_norm": True,
    "rmsnorm": True,
    "rope_ratio": 500,
    "seq_length": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
_CHATGLM_LAYERS = {
    "transformer.embedding.word_embeddings.weight": (96, 64),
    "transformer.encoder.final_layernorm.weight": (64,),
    "transformer.output_layer.weight": (96, 64),
    "transformer.rotary_pos_emb.inv_freq": (8,),
    **layers(
        2,
        {
            "input_layernorm.weight": (64,),
            "mlp.dense_4h_to_h.weight": (64, 96),
            "mlp.dense_h_to_4h.weight": (192, 64),
            "post_attention_layernorm.weight": (64,),
            "self_attention.dense.weight": (64, 64),
            "self_attention.query_key_value.bias": (192,),
            "self_attention.query_key_value.weight": (192, 64),
        },
        "transformer.encoder.layers",
    ),
}
_CHATGLM3 = {
    **{k: v for k, v in _CHATGLM.items() if k not in ("rope_ratio", "original_rope")},
    "_name_or_path": "THUDM/chatglm3-6b",
    "layernorm_epsilon": 1e-05,
    "seq_length": 8192,
}

CASES = (
    Case("glm4", _GLM4),
    Case("glm4-with-bias", {**_GLM4, "attention_bias": True, "tie_word_embeddings": True}),
    Case("glm4v", _GLM4V, files=SEES, mmproj=True),
    Case("glm45-air", _GLM45, more=_NEXTN),
    Case(
        "glm45",
        {**_GLM45, "use_qk_norm": True},
        more={**_NEXTN, **at(2, {"self_attn.k_norm.weight": (32,), "self_attn.q_norm.weight": (32,)})},
    ),
    Case("glm45v", _GLM45V, files=SEES, mmproj=True),
    Case("glm47-flash", _FLASH, more=_MLA_NEXTN),
    Case("glm47-flash-plain-queries", {**_FLASH, "num_nextn_predict_layers": 0, "q_lora_rank": None}),
    Case("glm5", _GLM5, _GLM5_LAYERS),
    Case(
        "glm52",
        {**_GLM5, "indexer_types": ["full", "shared"]},
        {k: v for k, v in _GLM5_LAYERS.items() if "layers.1.self_attn.indexer" not in k},
    ),
    Case("glm-ocr", _OCR, _OCR_LAYERS),
    Case("solar-open", _SOLAR),
    Case("glm-4-9b-chat-hf", _GLM4_9B_HF),
    Case("glm-4-9b-chat", _CHATGLM, _CHATGLM_LAYERS),
    Case(
        "glm-4-9b-chat-1m",
        {**_CHATGLM, "architectures": ["ChatGLMForConditionalGeneration"]},
        _CHATGLM_LAYERS,
    ),
    Case("chatglm3-6b", _CHATGLM3, _CHATGLM_LAYERS),
)
