"""Models of DeepSeek, and models with DeepSeek's attention."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers

_YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
_V2_LITE: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_scaling": _YARN,
    "rope_theta": 10000,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 32,
    "vocab_size": 96,
}
_V2 = {
    **_V2_LITE,
    "q_lora_rank": 48,
    "n_group": 2,
    "topk_group": 1,
    "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 16.0,
}
_V3: dict[str, Any] = {
    **_V2_LITE,
    "architectures": ["DeepseekV3ForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "model_type": "deepseek_v3",
    "n_group": 2,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 48,
    "rope_scaling": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 1,
    "topk_method": "noaux_tc",
}
_K2 = {
    **_V3,
    "aux_loss_alpha": 0.001,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "max_position_embeddings": 131072,
    "model_type": "kimi_k2",
    "n_group": 1,
    "num_nextn_predict_layers": 0,
    "rope_scaling": {
        **_YARN,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.827,
}


def mla(
    width: int = 64,
    heads: int = 4,
    lora: int = 32,
    nope: int = 32,
    rope: int = 16,
    value: int = 32,
    query: int | None = 48,
) -> Shapes:
    """The tensors of one layer of multi-head latent attention, with its two norms."""
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "self_attn.kv_a_layernorm.weight": (lora,),
        "self_attn.kv_a_proj_with_mqa.weight": (lora + rope, width),
        "self_attn.kv_b_proj.weight": (heads * (nope + value), lora),
        "self_attn.o_proj.weight": (width, heads * value),
    }
    if query is None:
        return {**shapes, "self_attn.q_proj.weight": (heads * (nope + rope), width)}
    return {
        **shapes,
        "self_attn.q_a_layernorm.weight": (query,),
        "self_attn.q_a_proj.weight": (query, width),
        "self_attn.q_b_proj.weight": (heads * (nope + rope), query),
    }


def gated(prefix: str, width: int, size: int) -> Shapes:
    """The three matrices of a gated feed-forward network."""
    return {
        f"{prefix}.down_proj.weight": (width, size),
        f"{prefix}.gate_proj.weight": (size, width),
        f"{prefix}.up_proj.weight": (size, width),
    }


def experts(prefix: str, count: int, width: int, size: int) -> Shapes:
    """The matrices of gated experts, one tensor each."""
    return {
        name: shape
        for index in range(count)
        for name, shape in gated(f"{prefix}.{index}", width, size).items()
    }


def at(layer: int, shapes: Shapes, prefix: str = "model.layers") -> Shapes:
    """The tensors of one layer."""
    return {f"{prefix}.{layer}.{name}": shape for name, shape in shapes.items()}


def ends(width: int = 64, vocabulary: int = 96, tied: bool = False) -> Shapes:
    """The tensors outside the layers."""
    head: Shapes = {} if tied else {"lm_head.weight": (vocabulary, width)}
    return {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,), **head}


def nextn(width: int = 64, vocabulary: int = 96) -> Shapes:
    """The tensors of a layer of multi-token prediction beside those of an ordinary layer."""
    return {
        "eh_proj.weight": (width, 2 * width),
        "embed_tokens.weight": (vocabulary, width),
        "enorm.weight": (width,),
        "hnorm.weight": (width,),
        "shared_head.head.weight": (vocabulary, width),
        "shared_head.norm.weight": (width,),
    }


_MOE = {
    "mlp.gate.weight": (4, 64),
    **experts("mlp.experts", 4, 64, 32),
}
_BIAS = {"mlp.gate.e_score_correction_bias": (4,)}
_V3_MOE = {**_MOE, **_BIAS, **gated("mlp.shared_experts", 64, 32)}
_V3_LAYERS = {**at(0, {**mla(), **gated("mlp", 64, 96)}), **at(1, {**mla(), **_V3_MOE})}
_V3_NEXTN = at(2, {**mla(), **_V3_MOE, **nextn()})
_INDEXER = {
    "self_attn.indexer.k_norm.bias": (16,),
    "self_attn.indexer.k_norm.weight": (16,),
    "self_attn.indexer.weights_proj.weight": (2, 64),
    "self_attn.indexer.wk.weight": (16, 64),
    "self_attn.indexer.wq_b.weight": (32, 48),
}
_V32 = {
    **_V3,
    "architectures": ["DeepseekV32ForCausalLM"],
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 32,
    "model_type": "deepseek_v32",
}
_V32_LAYERS = {
    **at(0, {**mla(), **gated("mlp", 64, 96), **_INDEXER}),
    **at(1, {**mla(), **_V3_MOE, **_INDEXER}),
}
_V32_NEXTN = at(2, {**mla(), **_V3_MOE, **_INDEXER, **nextn()})

_V1: dict[str, Any] = {
    "architectures": ["DeepseekForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"},
    "aux_loss_alpha": 0.001,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "model_type": "deepseek",
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
ATTENTION = {
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
    "self_attn.k_proj.weight": (64, 64),
    "self_attn.o_proj.weight": (64, 64),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.v_proj.weight": (64, 64),
}
_V1_MOE = {**ATTENTION, **_MOE, **gated("mlp.shared_experts", 64, 64)}
_V1_LAYERS = {**ends(), **at(0, {**ATTENTION, **gated("mlp", 64, 96)}), **at(1, _V1_MOE)}

_OCR_TEXT = {
    "architectures": ["DeepseekOCRForCausalLM"],
    "auto_map": {"AutoConfig": "modeling_deepseekocr.DeepseekOCRConfig"},
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_size": 64,
    "intermediate_size": 96,
    "kv_lora_rank": None,
    "lm_head": True,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "rm_head": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
    "use_mla": False,
    "v_head_dim": 0,
    "vocab_size": 96,
}
_OCR = {
    "_name_or_path": "deepseek-ai/DeepSeek-OCR",
    "candidate_resolutions": [[1024, 1024]],
    "global_view_pos": "head",
    "architectures": ["DeepseekOCRForCausalLM"],
    "auto_map": {"AutoConfig": "modeling_deepseekocr.DeepseekOCRConfig"},
    "language_config": _OCR_TEXT,
    "model_type": "deepseek_vl_v2",
    "projector_config": {
        "input_dim": 2048,
        "model_type": "mlp_projector",
        "n_embed": 64,
        "projector_type": "linear",
    },
    "tile_tag": "2D",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.3",
    "vision_config": {
        "image_size": 1024,
        "mlp_ratio": 3.7362,
        "model_name": "deeplip_b_l",
        "model_type": "vision",
        "width": {
            "clip-l-14-224": {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024},
            "sam_vit_b": {
                "downsample_channels": [512, 1024],
                "global_attn_indexes": [2, 5, 8, 11],
                "heads": 12,
                "layers": 12,
                "width": 768,
            },
        },
    },
    **{key: value for key, value in _OCR_TEXT.items() if key not in ("architectures", "auto_map")},
}
_OCR_LAYERS = {
    **_V1_LAYERS,
    "model.sam_model.pos_embed": (1, 4, 4, 8),
    "model.projector.layers.weight": (64, 32),
    "model.vision_model.pre_layrnorm.weight": (16,),
    "model.image_newline": (64,),
    "model.view_seperator": (64,),
}

_KIMI_VL = {
    "architectures": ["KimiVLForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_kimi_vl.KimiVLConfig"},
    "ignore_index": -100,
    "media_placeholder_token_id": 90,
    "model_type": "kimi_vl",
    "text_config": {
        **_V3,
        "architectures": None,
        "max_position_embeddings": 131072,
        "n_group": 1,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": None,
        "rope_scaling": None,
        "rope_theta": 800000.0,
        "routed_scaling_factor": 2.446,
        "n_shared_experts": 2,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {
        "hidden_size": 32,
        "init_pos_emb_height": 64,
        "init_pos_emb_width": 64,
        "intermediate_size": 64,
        "merge_kernel_size": [2, 2],
        "model_type": "moonvit",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "patch_size": 14,
    },
    "vocab_size": 96,
}
_KIMI_VL_LAYERS = {
    **ends(),
    **at(0, {**mla(query=None), **gated("mlp", 64, 96)}),
    **at(1, {**mla(query=None), **_MOE, **_BIAS, **gated("mlp.shared_experts", 64, 64)}),
}
_VISION = {
    "vision_tower.patch_embed.proj.weight": (32, 3, 14, 14),
    "multi_modal_projector.pre_norm.weight": (32,),
}
_K25 = {
    "architectures": ["KimiK25ForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_kimi_k25.KimiK25Config"},
    "ignore_index": -100,
    "media_placeholder_token_id": 90,
    "model_type": "kimi_k25",
    "pad_token_id": 91,
    "text_config": {**_K2, "architectures": ["DeepseekV3ForCausalLM"]},
    "tie_word_embeddings": False,
    "use_unified_vision_chunk": True,
    "vision_config": {
        "_attn_implementation": "flash_attention_2",
        "init_pos_emb_height": 64,
        "init_pos_emb_time": 4,
        "vt_hidden_size": 32,
    },
}


def under(prefix: str, shapes: Shapes) -> Shapes:
    """The same tensors with a prefix."""
    return {prefix + name: shape for name, shape in shapes.items()}


_YOUTU: dict[str, Any] = {
    "architectures": ["YoutuForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embedding_initializer_range": 0.039,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.0198,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "youtu",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "qk_head_dim": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_interleave": True,
    "rope_scaling": None,
    "rope_theta": 1600000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 32,
    "vocab_size": 96,
}
_YOUTU_LAYERS = {**ends(tied=True), **layers(2, {**mla(), **gated("mlp", 64, 96)})}
_YOUTU_VL = {
    **{k: v for k, v in _YOUTU.items() if k != "model_type"},
    "architectures": ["YoutuVLForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_youtu_vl.YoutuVLConfig"},
    "image_token_id": 90,
    "model_type": "youtu_vl",
    "vision_config": {
        "hidden_size": 32,
        "fullatt_block_indexes": [1],
        "model_type": "siglip2_vision_model",
        "num_hidden_layers": 1,
    },
}

_V4_SEEN = {
    **{
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in {"aligner.w1": (64, 128), "aligner.w2": (64, 64)}.items()
        for part in ("weight", "bias")
    },
    **{f"image_{part}": (64,) for part in ("end", "newline", "pad", "start")},
    "vision.norm.weight": (32,),
    "vision.patch_embed.proj.weight": (32, 588),
    **{
        f"vision.blocks.{i}.{name}.weight": shape
        for i in range(3)
        for name, shape in {
            "attn.wo": (32, 32),
            "attn.wqkv": (96, 32),
            "mlp.w1": (96, 32),
            "mlp.w2": (32, 48),
            "norm1": (32,),
            "norm2": (32,),
        }.items()
    },
}
CASES = (
    Case(
        "deepseek-v4-vision",
        {
            "architectures": ["DeepseekV4ForCausalLM"],
            "hidden_size": 64,
            "model_type": "deepseek_v4",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "vision_dim": 32,
            "vision_downsample_ratio": 2,
            "vision_inter_dim": 48,
            "vision_max_n_token": 384,
            "vision_max_wh_ratio": 8,
            "vision_min_pixels": 3136,
            "vision_n_heads": 2,
            "vision_n_layers": 3,
            "vision_patch_size": 14,
            "vision_rope_theta": 10000.0,
            "vocab_size": 96,
        },
        _V4_SEEN,
        mmproj=True,
        text=False,
        raw_config=True,
    ),
    Case("deepseek-moe-16b", _V1, _V1_LAYERS),
    Case("deepseek-v2-lite", _V2_LITE),
    Case("deepseek-v2", _V2),
    Case("deepseek-v2-without-rope-scaling", {**_V2, "rope_scaling": None, "scoring_func": "softmax"}),
    Case("deepseek-v3", _V3, {**ends(), **_V3_LAYERS, **_V3_NEXTN}),
    Case("deepseek-v3-as-transformers-saves", {**_V3, "torch_dtype": "bfloat16"}),
    Case("kimi-k2", _K2, {**ends(), **_V3_LAYERS}),
    Case("deepseek-v32", _V32, {**ends(), **_V32_LAYERS, **_V32_NEXTN}),
    Case("deepseek-ocr", _OCR, _OCR_LAYERS),
    Case(
        "unlimited-ocr",
        {
            **_OCR,
            "_name_or_path": "baidu/Unlimited-OCR",
            "architectures": ["UnlimitedOCRForCausalLM"],
            "language_config": {
                **_OCR_TEXT,
                "architectures": ["UnlimitedOCRForCausalLM"],
                "sliding_window_size": 128,
            },
        },
        _OCR_LAYERS,
    ),
    Case("kimi-vl", _KIMI_VL, {**under("language_model.", _KIMI_VL_LAYERS), **_VISION}),
    Case("kimi-k25", _K25, {**under("language_model.", {**ends(), **_V3_LAYERS}), **_VISION}),
    Case("youtu", _YOUTU, _YOUTU_LAYERS),
    Case("youtu-with-head", _YOUTU, {**_YOUTU_LAYERS, "lm_head.weight": (96, 64)}),
    Case(
        "youtu-vl",
        _YOUTU_VL,
        {**_YOUTU_LAYERS, "siglip2.vision_model.head.weight": (8, 8), "merger.ln_q.weight": (32,)},
    ),
)
