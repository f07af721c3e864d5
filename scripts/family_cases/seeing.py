"""Models that see, beyond the first of `family_cases.vision`: the text half is that of another case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from family_cases import Case, Shapes, layers
from family_cases.vision import MEANS, QWEN_TEXT, SIGLIP, siglip

PIXELS = {**MEANS, "min_pixels": 3136, "max_pixels": 12544}


def case_of(module: str, name: str) -> Case:
    """Return a case of another file."""
    return next(case for case in import_module(f"family_cases.{module}").CASES if case.name == name)


def biased(shapes: Shapes) -> Shapes:
    """Return the weights with a bias beside each."""
    return {f"{name}.{part}": shape[:end] for name, shape in shapes.items() for part, end in _PARTS}


_PARTS = (("weight", 9), ("bias", 1))


def bare(shapes: Shapes) -> Shapes:
    """Return the weights without biases."""
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def seeing(
    of: Case,
    name: str,
    tensors: Shapes,
    vision: Mapping[str, Any] | None = None,
    *,
    stubs: tuple[str, ...] = (),
    files: Mapping[str, Any] | None = None,
    raw: bool | None = None,
    **config: Any,
) -> Case:
    """Return the case `of` with an encoder of pictures in place of the tensors whose names begin with `stubs`."""
    kept = {key: shape for key, shape in (of.tensors or {}).items() if not key.startswith(stubs or ("!",))}
    whole = {**of.config, **config}
    if vision is not None:
        whole["vision_config"] = dict(vision)
    return replace(
        of,
        name=name,
        config=whole,
        tensors={**kept, **tensors},
        files={**of.files, "preprocessor_config.json": MEANS, **(files or {})},
        mmproj=True,
        raw_config=of.raw_config if raw is None else raw,
    )


QWEN2_LAYER = {
    "input_layernorm.weight": (64,),
    "mlp.down_proj.weight": (64, 96),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "post_attention_layernorm.weight": (64,),
    "self_attn.k_proj.bias": (32,),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "self_attn.q_proj.bias": (64,),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.v_proj.bias": (32,),
    "self_attn.v_proj.weight": (32, 64),
}
QWEN3_LAYER = {
    **{name: shape for name, shape in QWEN2_LAYER.items() if not name.endswith("bias")},
    "self_attn.k_norm.weight": (16,),
    "self_attn.q_norm.weight": (16,),
}


def qwen(prefix: str, head: str = "", layer: Shapes = QWEN2_LAYER) -> Shapes:
    """The tensors of a small Qwen."""
    return {
        f"{head}lm_head.weight": (96, 64),
        f"{prefix}.embed_tokens.weight": (96, 64),
        f"{prefix}.norm.weight": (64,),
        **layers(2, layer, f"{prefix}.layers"),
    }


# InternVL

_INTERN_VISION = {
    "architectures": ["InternVisionModel"],
    "hidden_act": "gelu",
    "hidden_size": 32,
    "image_size": 56,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-06,
    "model_type": "intern_vit_6b",
    "norm_type": "layer_norm",
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 4,
    "patch_size": 14,
    "qk_normalization": False,
    "qkv_bias": True,
}
_INTERN_LAYER = {
    **biased({"attn.proj": (32, 32), "attn.qkv": (96, 32), "mlp.fc1": (64, 32), "mlp.fc2": (32, 64)}),
    **biased({"norm1": (32,), "norm2": (32,)}),
    "ls1": (32,),
    "ls2": (32,),
}
_INTERNVL = Case(
    "internvl3-vision",
    {
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 56,
        "llm_config": {"architectures": ["Qwen2ForCausalLM"], **QWEN_TEXT, "model_type": "qwen2"},
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "ps_version": "v2",
        "select_layer": -1,
        "torch_dtype": "bfloat16",
        "vision_config": _INTERN_VISION,
    },
    tensors={
        **qwen("language_model.model", "language_model."),
        "vision_model.embeddings.class_embedding": (1, 1, 32),
        "vision_model.embeddings.position_embedding": (1, 17, 32),
        **biased({"vision_model.embeddings.patch_embedding": (32, 3, 14, 14)}),
        **layers(4, _INTERN_LAYER, "vision_model.encoder.layers"),
        **biased({"mlp1.0": (128,), "mlp1.1": (64, 128), "mlp1.3": (64, 64)}),
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)
_INTERN_6B = {
    **{
        name: shape
        for name, shape in _INTERN_LAYER.items()
        if name not in ("attn.qkv.bias", "norm1.bias", "norm2.bias")
    },
    "attn.q_norm.weight": (32,),
    "attn.k_norm.weight": (32,),
}
_INTERNVL_6B = seeing(
    replace(_INTERNVL, tensors={n: s for n, s in (_INTERNVL.tensors or {}).items() if ".encoder." not in n}),
    "internvl3-6b-vision",
    layers(4, _INTERN_6B, "vision_model.encoder.layers"),
    {**_INTERN_VISION, "norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False},
)
_INTERN_HF_LAYER = {
    **biased({f"attention.{part}_proj": (32, 32) for part in "qkv"}),
    **biased({"attention.projection_layer": (32, 32), "mlp.fc1": (64, 32), "mlp.fc2": (32, 64)}),
    **biased({"layernorm_before": (32,), "layernorm_after": (32,)}),
    "lambda_1": (32,),
    "lambda_2": (32,),
}
_INTERNVL_HF = Case(
    "internvl3-hf-vision",
    {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 4,
        "image_token_id": 5,
        "model_type": "internvl",
        "text_config": {"architectures": ["Qwen2ForCausalLM"], **QWEN_TEXT, "model_type": "qwen2"},
        "torch_dtype": "bfloat16",
        "vision_config": {
            **{key: _INTERN_VISION[key] for key in ("architectures", "hidden_act", "hidden_size")},
            "image_size": [56, 56],
            "intermediate_size": 64,
            "layer_norm_eps": 1e-06,
            "model_type": "internvl_vision",
            "norm_type": "layer_norm",
            "num_attention_heads": 2,
            "num_hidden_layers": 4,
            "patch_size": [14, 14],
        },
    },
    tensors={
        **{
            name.replace("language_model.model.", "model.language_model."): s
            for name, s in qwen("language_model.model").items()
        },
        "model.vision_tower.embeddings.cls_token": (1, 1, 32),
        "model.vision_tower.embeddings.position_embeddings": (1, 17, 32),
        **biased({"model.vision_tower.embeddings.patch_embeddings.projection": (32, 3, 14, 14)}),
        **layers(4, _INTERN_HF_LAYER, "model.vision_tower.encoder.layer"),
        **biased(
            {
                "model.multi_modal_projector.layer_norm": (128,),
                "model.multi_modal_projector.linear_1": (64, 128),
                "model.multi_modal_projector.linear_2": (64, 64),
            }
        ),
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)

# Kimi

_MOON_LAYER = {
    **biased({"mlp.fc0": (64, 32), "mlp.fc1": (32, 64), "wo": (32, 32), "wqkv": (96, 32)}),
    **biased({"norm0": (32,), "norm1": (32,)}),
}
_KIMI_VL = seeing(
    case_of("deepseek", "kimi-vl"),
    "kimi-vl-vision",
    {
        **biased({"vision_tower.patch_embed.proj": (32, 3, 14, 14)}),
        "vision_tower.patch_embed.pos_emb.weight": (4, 4, 32),
        **biased({"vision_tower.encoder.final_layernorm": (32,)}),
        **layers(4, _MOON_LAYER, "vision_tower.encoder.blocks"),
        **biased({"multi_modal_projector.pre_norm": (32,), "multi_modal_projector.linear_1": (128, 128)}),
        **biased({"multi_modal_projector.linear_2": (64, 128)}),
    },
    {
        "hidden_size": 32,
        "init_pos_emb_height": 4,
        "init_pos_emb_width": 4,
        "intermediate_size": 64,
        "merge_kernel_size": [2, 2],
        "model_type": "moonvit",
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "patch_size": 14,
    },
    stubs=("vision_tower", "multi_modal_projector"),
)
_MOON3D_LAYER = {
    **biased({"mlp.fc0": (96, 128), "mlp.fc1": (128, 96), "wo": (128, 128), "wqkv": (384, 128)}),
    **biased({"norm0": (128,), "norm1": (128,)}),
}
_KIMI_K25 = seeing(
    case_of("deepseek", "kimi-k25"),
    "kimi-k25-vision",
    {
        **biased({"vision_tower.patch_embed.proj": (128, 3, 14, 14)}),
        "vision_tower.patch_embed.pos_emb.weight": (4, 4, 128),
        **biased({"vision_tower.encoder.final_layernorm": (128,)}),
        **layers(4, _MOON3D_LAYER, "vision_tower.encoder.blocks"),
        **biased({"mm_projector.pre_norm": (128,), "mm_projector.proj.0": (512, 512)}),
        **biased({"mm_projector.proj.2": (64, 512)}),
    },
    {
        "init_pos_emb_height": 4,
        "init_pos_emb_time": 4,
        "init_pos_emb_width": 4,
        "merge_kernel_size": [2, 2],
        "mm_hidden_size": 128,
        "mm_projector_type": "patchmerger",
        "patch_size": 14,
        "pos_emb_type": "divided_fixed",
        "projector_hidden_act": "gelu",
        "projector_ln_eps": 1e-05,
        "text_hidden_size": 64,
        "vt_hidden_size": 128,
        "vt_intermediate_size": 96,
        "vt_num_attention_heads": 16,
        "vt_num_hidden_layers": 4,
    },
    stubs=("vision_tower", "multi_modal_projector"),
    files={"preprocessor_config.json": {"media_proc_cfg": {**MEANS, "in_patch_limit": 64, "patch_size": 14}}},
    raw=True,
)

# Encoders that are SigLIP with another projector

_LFM2 = case_of("mamba", "lfm2-as-published").config
_LFM2_LAYERS = {
    **bare({"feed_forward.w1": (96, 64), "feed_forward.w2": (64, 96), "feed_forward.w3": (96, 64)}),
    **bare({"ffn_norm": (64,), "operator_norm": (64,)}),
}
_LFM2_MIXERS = (
    bare({"conv.conv": (64, 1, 3), "conv.in_proj": (192, 64), "conv.out_proj": (64, 64)}),
    {
        **bare({"self_attn.k_layernorm": (16,), "self_attn.q_layernorm": (16,)}),
        **bare({"self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}),
        **bare({"self_attn.out_proj": (64, 64), "self_attn.q_proj": (64, 64)}),
    },
)
_LFM2_VISION = {
    **{key: value for key, value in SIGLIP.items() if key != "image_size"},
    "layer_norm_eps": 1e-06,
    "model_type": "siglip2_vision_model",
    "num_channels": 3,
    "num_hidden_layers": 4,
    "num_patches": 16,
    "patch_size": 16,
}


def lfm2_vl(name: str, **config: Any) -> Case:
    vision = siglip("model.vision_tower.vision_model", patch=16, count=4)
    tensors = {
        "model.language_model.embed_tokens.weight": (96, 64),
        "model.language_model.embedding_norm.weight": (64,),
        **{
            f"model.language_model.layers.{layer}.{part}": shape
            for layer in range(3)
            for part, shape in {**_LFM2_LAYERS, **_LFM2_MIXERS[layer == 1]}.items()
        },
        **vision,
        "model.vision_tower.vision_model.embeddings.patch_embedding.weight": (48, 768),
        **biased({"model.multi_modal_projector.linear_1": (80, 192)}),
        **biased({"model.multi_modal_projector.linear_2": (64, 80)}),
    }
    if config.get("projector_use_layernorm", True):
        tensors |= biased({"model.multi_modal_projector.layer_norm": (192,)})
    whole = {
        "architectures": ["Lfm2VlForConditionalGeneration"],
        "downsample_factor": 2,
        "image_token_id": 5,
        "model_type": "lfm2-vl",
        "projector_bias": True,
        "projector_hidden_size": 80,
        "text_config": dict(_LFM2),
        "torch_dtype": "bfloat16",
        "vision_config": _LFM2_VISION,
        "vision_feature_layer": -1,
        **config,
    }
    return Case(name, whole, tensors, files={"preprocessor_config.json": MEANS}, mmproj=True, raw_config=True)


_PADDLE = seeing(
    case_of("baidu", "paddleocr-vl"),
    "paddleocr-vl-vision",
    {
        **siglip("visual.vision_model", count=4),
        "visual.vision_model.embeddings.packing_position_embedding.weight": (64, 48),
        "visual.vision_model.head.probe": (1, 1, 48),
        **biased({"mlp_AR.pre_norm": (48,), "mlp_AR.linear_1": (192, 192), "mlp_AR.linear_2": (64, 192)}),
    },
    {
        **SIGLIP,
        "architectures": ["PaddleOCRVisionModel"],
        "num_hidden_layers": 4,
        "model_type": "paddleocr_vl",
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    stubs=("visual", "mlp_AR"),
    files={"preprocessor_config.json": PIXELS},
)
_JANUS = seeing(
    case_of("llama", "janus"),
    "janus-vision",
    {
        **{
            name.replace("self_attn.out_proj", "self_attn.projection_layer"): shape
            for name, shape in siglip("model.vision_model").items()
        },
        **biased({"model.aligner.fc1": (80, 48), "model.aligner.hidden_layers.0": (64, 80)}),
    },
    {
        "depth": 2,
        "hidden_act": "gelu",
        "hidden_size": 48,
        "image_size": 56,
        "layer_norm_eps": 1e-06,
        "mlp_ratio": 5 / 3,
        "model_type": "janus_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "projection_dim": 80,
    },
    stubs=("model.aligner", "model.vision_model"),
)

# Dots

_DOTS_LAYER = {
    **bare({"attn.proj": (32, 32), "attn.qkv": (96, 32), "norm1": (32,), "norm2": (32,)}),
    **bare({"mlp.fc1": (48, 32), "mlp.fc2": (32, 48), "mlp.fc3": (48, 32)}),
}
_DOTS_OCR = Case(
    "dots-ocr-vision",
    {
        "architectures": ["DotsOCRForCausalLM"],
        **QWEN_TEXT,
        "model_type": "dots_ocr",
        "attention_bias": True,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "embed_dim": 32,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 4,
            "patch_size": 14,
            "post_norm": True,
            "rms_norm_eps": 1e-05,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "use_bias": False,
        },
    },
    tensors={
        **qwen("model"),
        **biased({"vision_tower.patch_embed.patchifier.proj": (32, 3, 14, 14)}),
        **bare({"vision_tower.patch_embed.patchifier.norm": (32,), "vision_tower.post_trunk_norm": (32,)}),
        **layers(4, _DOTS_LAYER, "vision_tower.blocks"),
        **biased({"vision_tower.merger.ln_q": (32,), "vision_tower.merger.mlp.0": (128, 128)}),
        **biased({"vision_tower.merger.mlp.2": (64, 128)}),
    },
    files={"preprocessor_config.json": PIXELS},
    mmproj=True,
)

# LightOnOCR

_PIXTRAL_LAYER = {
    **bare({f"attention.{part}_proj": (32, 32) for part in "qkvo"}),
    **bare({"attention_norm": (32,), "ffn_norm": (32,), "feed_forward.gate_proj": (48, 32)}),
    **bare({"feed_forward.up_proj": (48, 32), "feed_forward.down_proj": (32, 48)}),
}
_LIGHTON = Case(
    "lightonocr-vision",
    {
        "architectures": ["LightOnOCRForConditionalGeneration"],
        "image_token_id": 5,
        "model_type": "mistral3",
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "text_config": {
            "architectures": ["Qwen3ForCausalLM"],
            **QWEN_TEXT,
            "head_dim": 16,
            "model_type": "qwen3",
        },
        "torch_dtype": "bfloat16",
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
    tensors={
        **qwen("model.language_model", layer=QWEN3_LAYER),
        **bare({"model.vision_encoder.patch_conv": (32, 3, 14, 14), "model.vision_encoder.ln_pre": (32,)}),
        **layers(4, _PIXTRAL_LAYER, "model.vision_encoder.transformer.layers"),
        **bare({"model.vision_projection.norm": (32,), "model.vision_projection.linear_1": (64, 32)}),
        **bare({"model.vision_projection.linear_2": (64, 64)}),
        **bare({"model.vision_projection.patch_merger.merging_layer": (32, 128)}),
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)

# Hunyuan

_HUNYUAN_LAYER = {
    **biased({f"self_attn.{part}_proj": (32, 32) for part in "qkvo"}),
    **biased({"mlp.dense_4h_to_h": (32, 64), "mlp.dense_h_to_4h": (64, 32)}),
    **biased({"input_layernorm": (32,), "post_attention_layernorm": (32,)}),
}
_HUNYUAN = seeing(
    case_of("hunyuan", "hunyuan-ocr"),
    "hunyuan-ocr-vision",
    {
        **biased({"vit.embeddings.patch_embedding": (32, 3, 16, 16)}),
        "vit.embeddings.position_embedding.weight": (17, 32),
        **layers(4, _HUNYUAN_LAYER, "vit.layers"),
        **bare({"vit.perceive.before_rms": (32,), "vit.perceive.after_rms": (64,)}),
        **biased({"vit.perceive.proj.0": (64, 32, 2, 2), "vit.perceive.proj.2": (128, 64, 1, 1)}),
        **biased({"vit.perceive.mlp": (64, 128)}),
        "vit.perceive.image_newline": (128,),
        **{f"vit.perceive.image_{part}": (64,) for part in ("begin", "end", "sep")},
    },
    {
        "add_patchemb_bias": True,
        "cat_extra_token": 1,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "img_max_token_num": 4096,
        "intermediate_size": 64,
        "interpolate_mode": "bilinear",
        "max_image_size": 64,
        "max_vit_seq_len": 16384,
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 4,
        "out_hidden_size": 64,
        "patch_size": 16,
        "rms_norm_eps": 1e-05,
        "spatial_merge_size": 2,
    },
    stubs=("vit.",),
    files={"preprocessor_config.json": PIXELS},
    raw=True,
)

# CogVLM

_COG_LAYER = {
    **biased({"attention.dense": (32, 32), "attention.query_key_value": (96, 32)}),
    **biased({"mlp.fc1": (64, 32), "mlp.fc2": (32, 64)}),
    **biased({"input_layernorm": (32,), "post_attention_layernorm": (32,)}),
}
_COGVLM = replace(
    seeing(
        case_of("llama", "cogvlm"),
        "cogvlm-vision",
        {
            **biased({"model.vision.patch_embedding.proj": (32, 3, 14, 14)}),
            "model.vision.patch_embedding.cls_embedding": (1, 32),
            "model.vision.patch_embedding.position_embedding.weight": (17, 32),
            **layers(2, _COG_LAYER, "model.vision.transformer.layers"),
            **bare({"model.vision.linear_proj.linear_proj": (64, 32)}),
            **biased({"model.vision.linear_proj.norm1": (64,)}),
            **bare({f"model.vision.linear_proj.{part}": (96, 64) for part in ("gate_proj", "dense_h_to_4h")}),
            **bare({"model.vision.linear_proj.dense_4h_to_h": (64, 96)}),
            "model.vision.boi": (1, 1, 64),
            "model.vision.eoi": (1, 1, 64),
        },
        {
            "dropout_prob": 0.0,
            "hidden_act": "gelu",
            "hidden_size": 32,
            "image_size": 56,
            "in_channels": 3,
            "intermediate_size": 64,
            "layer_norm_eps": 1e-06,
            "num_heads": 2,
            "num_hidden_layers": 2,
            "num_positions": 17,
            "patch_size": 14,
        },
        stubs=("model.vision.",),
    ),
    text=False,
)  # the converter loses the weights for the tokens of images

# DeepSeek-OCR

_SAM = {"downsample_channels": [24, 16], "global_attn_indexes": [1, 3], "heads": 2, "layers": 4, "width": 16}


def sam(width: int, side: int, last: int) -> Shapes:
    """The encoder of Segment Anything, whose second and fourth blocks look at the whole picture."""
    block = {
        **biased({"attn.proj": (width, width), "attn.qkv": (3 * width, width), "norm1": (width,)}),
        **biased({"mlp.lin1": (48, width), "mlp.lin2": (width, 48), "norm2": (width,)}),
    }
    found: dict[str, tuple[int, ...]] = {
        "model.sam_model.pos_embed": (1, side, side, width),
        **biased({"model.sam_model.patch_embed.proj": (width, 3, 16, 16)}),
        **layers(4, block, "model.sam_model.blocks"),
        **bare({"model.sam_model.neck.0": (24, width, 1, 1), "model.sam_model.neck.2": (24, 24, 3, 3)}),
        **biased({"model.sam_model.neck.1": (24,), "model.sam_model.neck.3": (24,)}),
        **bare({"model.sam_model.net_2": (24, 24, 3, 3), "model.sam_model.net_3": (last, 24, 3, 3)}),
    }
    for layer in range(4):
        rows = 2 * (side if layer in (1, 3) else 14) - 1
        for axis in "hw":
            found[f"model.sam_model.blocks.{layer}.attn.rel_pos_{axis}"] = (rows, width // 2)
    return found


_CLIP_LAYER = {
    **biased({"self_attn.out_proj": (32, 32), "self_attn.qkv_proj": (96, 32)}),
    **biased({"layer_norm1": (32,), "layer_norm2": (32,), "mlp.fc1": (128, 32), "mlp.fc2": (32, 128)}),
}
_CLIP = {
    "model.vision_model.embeddings.class_embedding": (32,),
    **bare({"model.vision_model.embeddings.patch_embedding": (32, 3, 14, 14)}),
    "model.vision_model.embeddings.position_embedding.weight": (17, 32),
    **biased({"model.vision_model.pre_layrnorm": (32,)}),
    **layers(4, _CLIP_LAYER, "model.vision_model.transformer.layers"),
}
_OCR_PARTS = ("model.sam_model", "model.vision_model", "model.image_newline", "model.view_seperator")


def ocr(of: str, name: str) -> Case:
    return seeing(
        case_of("deepseek", of),
        name,
        {
            **sam(16, 8, 32),
            **_CLIP,
            **biased({"model.projector.layers": (64, 64)}),
            "model.image_newline": (64,),
            "model.view_seperator": (64,),
        },
        {
            "image_size": 128,
            "mlp_ratio": 3.7362,
            "model_name": "deeplip_b_l",
            "model_type": "vision",
            "width": {
                "clip-l-14-224": {"heads": 2, "image_size": 56, "layers": 4, "patch_size": 14, "width": 32},
                "sam_vit_b": _SAM,
            },
        },
        stubs=_OCR_PARTS,
    )


_QWEN2_ENCODER = {
    **biased({"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32)}),
    **bare({"self_attn.o_proj": (32, 32), "input_layernorm": (32,), "post_attention_layernorm": (32,)}),
    **bare({"mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48)}),
}
_OCR2 = seeing(
    case_of("deepseek", "deepseek-ocr"),
    "deepseek-ocr-2-vision",
    {
        **sam(16, 8, 32),
        **layers(4, _QWEN2_ENCODER, "model.qwen2_model.model.model.layers"),
        **bare({"model.qwen2_model.model.model.norm": (32,), "model.qwen2_model.query_768": (144, 32)}),
        **bare({"model.qwen2_model.query_1024": (256, 32)}),
        **biased({"model.projector.layers": (64, 32)}),
        "model.view_seperator": (64,),
    },
    {
        "image_size": 128,
        "intermediate_size": 48,
        "layers": 4,
        "mlp_ratio": 3.7362,
        "model_name": "deepencoderv2",
        "model_type": "vision",
        "num_attention_heads": 4,
        "width": {"qwen2-0-5b": {"dim": 32}, "sam_vit_b": _SAM},
    },
    stubs=_OCR_PARTS,
    architectures=["DeepseekOCR2ForCausalLM"],
)

# Youtu, Step, MiniCPM, EXAONE

_YOUTU = seeing(
    case_of("deepseek", "youtu-vl"),
    "youtu-vl-vision",
    {
        **{n: s for n, s in siglip("siglip2.vision_model", count=4).items() if "position" not in n},
        "siglip2.vision_model.embeddings.patch_embedding.weight": (48, 588),
        "siglip2.vision_model.head.probe": (1, 1, 48),
        **bare({"merger.ln_q": (48,)}),
        **biased({"merger.mlp.0": (192, 192), "merger.mlp.2": (64, 192)}),
    },
    {
        **{key: value for key, value in SIGLIP.items() if key != "image_size"},
        "fullatt_block_indexes": [1, 3],
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-06,
        "model_type": "siglip2_vision_model",
        "num_hidden_layers": 4,
        "out_hidden_size": 64,
        "spatial_merge_size": 2,
        "window_size": 112,
    },
    stubs=("siglip2", "merger"),
    raw=True,
)
_STEP_LAYER = {
    "attn.in_proj_bias": (96,),
    "attn.in_proj_weight": (96, 32),
    **biased({"attn.out_proj": (32, 32), "ln_1": (32,), "ln_2": (32,)}),
    **biased({"mlp.c_fc": (187, 32), "mlp.c_proj": (32, 187)}),
    "ls_1.gamma": (32,),
    "ls_2.gamma": (32,),
}
_STEP_VISION = {
    **bare({"vision_model.conv1": (32, 3, 14, 14)}),
    **biased({"vision_model.ln_pre": (32,)}),
    "vision_model.positional_embedding": (16, 32),
    **layers(2, _STEP_LAYER, "vision_model.transformer.resblocks"),
    **biased({"vision_model.vit_downsampler1": (64, 32, 3, 3)}),
    **biased({"vision_model.vit_downsampler2": (128, 64, 3, 3)}),
    "vit_large_projector.weight": (64, 128),
}
_STEP_CONFIG = {
    "heads": 2,
    "hidden_act": "quick_gelu",
    "image_size": 56,
    "layers": 2,
    "ls_init_value": 0.1,
    "patch_size": 14,
    "use_cls_token": False,
    "width": 32,
}
_STEP3_VL = seeing(
    case_of("stepfun", "step3-vl-10b"),
    "step3-vl-10b-vision",
    _STEP_VISION,
    _STEP_CONFIG,
    stubs=("vision_model", "vit_large"),
    files={"preprocessor_config.json": {}},
)
_STEP37 = seeing(
    case_of("stepfun", "step-3.7-flash"),
    "step-3.7-flash-vision",
    {name: s for name, s in _STEP_VISION.items() if not name.endswith(("1.bias", "2.bias")) or "ln_" in name},
    {**_STEP_CONFIG, "mlp_ratio": 187 / 32},
    stubs=("vision_model", "vit_large"),
)
_MINICPM_TENSORS = {
    **siglip("model.vision_tower", positions=4900),
    **biased({f"model.vision_tower.vit_merger.self_attn.{part}_proj": (48, 48) for part in "qkv"}),
    **biased({"model.vision_tower.vit_merger.self_attn.out_proj": (48, 48)}),
    **biased({"model.vision_tower.vit_merger.layer_norm1": (48,)}),
    **biased({"model.vision_tower.vit_merger.pre_norm": (192,)}),
    **biased({"model.vision_tower.vit_merger.linear_1": (320, 192)}),
    **biased({"model.vision_tower.vit_merger.linear_2": (48, 320)}),
    **biased({"model.merger.mlp.0.pre_norm": (192,), "model.merger.mlp.0.linear_1": (192, 192)}),
    **biased({"model.merger.mlp.0.linear_2": (64, 192)}),
}


def minicpm(name: str, **preprocessor: Any) -> Case:
    return seeing(
        case_of("openbmb", "minicpm-v-4-6"),
        name,
        _MINICPM_TENSORS,
        {**SIGLIP, "image_size": 980, "model_type": "minicpmv4_6_vision"},
        stubs=("model.vision_tower", "model.merger"),
        files={"preprocessor_config.json": {**MEANS, **preprocessor}},
        insert_layer_id=1,
    )


_EXAONE_LAYER = {
    **biased({"attn.proj": (32, 32), "attn.qkv": (64, 32), "mlp.down_proj": (32, 48)}),
    **biased({"mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32)}),
    **bare({"norm1": (32,), "norm2": (32,)}),
}
_EXAONE = seeing(
    case_of("lg", "exaone4-5-no-mtp"),
    "exaone4-5-vision",
    {
        **bare({"model.visual.patch_embed.proj": (32, 3, 2, 14, 14), "model.visual.merger.ln_q": (32,)}),
        **layers(4, _EXAONE_LAYER, "model.visual.blocks"),
        **biased({"model.visual.merger.mlp.0": (128, 128), "model.visual.merger.mlp.2": (64, 128)}),
    },
    {
        "depth": 4,
        "fullatt_block_indexes": [1, 3],
        "hidden_act": "silu",
        "hidden_size": 32,
        "in_channels": 3,
        "intermediate_size": 48,
        "model_type": "exaone4_5_vision",
        "num_heads": 4,
        "num_key_value_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
    },
    stubs=("model.visual",),
    files={"preprocessor_config.json": PIXELS},
)

# Qwen's encoders under other names

_QWEN3_BLOCK = {
    **biased({"attn.proj": (32, 32), "attn.qkv": (96, 32), "norm1": (32,), "norm2": (32,)}),
    **biased({"mlp.linear_fc1": (48, 32), "mlp.linear_fc2": (32, 48)}),
}
_LING = seeing(
    case_of("hyper", "ling-3-vl"),
    "ling-3-vl-vision",
    {
        **bare({"model.visual.patch_embed.proj": (32, 3, 2, 14, 14), "model.visual.pos_embed": (16, 32)}),
        **layers(4, _QWEN3_BLOCK, "model.visual.blocks"),
        **biased({"model.visual.merger.norm": (32,), "linear_proj.0": (64, 128), "linear_proj.2": (64, 64)}),
    },
    {
        "deepstack_visual_indexes": [],
        "depth": 4,
        "disable_merger_proj": True,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "in_channels": 3,
        "intermediate_size": 48,
        "num_heads": 2,
        "num_position_embeddings": 16,
        "out_hidden_size": 128,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    stubs=("model.visual", "linear_proj"),
)
_QWEN2_BLOCK = {
    **biased({"attn.proj": (32, 32), "attn.qkv": (96, 32), "norm1": (32,), "norm2": (32,)}),
    **biased({"mlp.fc1": (64, 32), "mlp.fc2": (32, 64)}),
}
_SARASHINA = seeing(
    case_of("llama", "sarashina2-vision"),
    "sarashina2.2-vision",
    {
        **bare({"visual.patch_embed.proj": (32, 3, 2, 14, 14)}),
        **layers(4, _QWEN2_BLOCK, "visual.blocks"),
        **biased({"visual.merger.ln_q": (32,), "visual.merger.mlp.0": (128, 128)}),
        **biased({"visual.merger.mlp.2": (64, 128)}),
    },
    {
        "depth": 4,
        "embed_dim": 32,
        "hidden_size": 64,
        "in_chans": 3,
        "mlp_ratio": 2,
        "model_type": "qwen2_vl",
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    stubs=("visual",),
)
_GLM_BLOCK = {
    **biased({"attn.proj": (32, 32), "attn.qkv": (96, 32)}),
    **biased({"mlp.down_proj": (32, 48), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32)}),
    **bare({"attn.k_norm": (16,), "attn.q_norm": (16,), "norm1": (32,), "norm2": (32,)}),
}
_GLM53 = seeing(
    case_of("hyper", "glm-5.3-flash"),
    "glm-5.3-flash-vision",
    {
        **biased({"model.visual.patch_embed.proj": (32, 3, 2, 14, 14)}),
        **layers(4, _GLM_BLOCK, "model.visual.blocks"),
        **bare({"model.visual.post_layernorm": (32,), "model.visual.merger.proj": (64, 64)}),
        **biased({"model.visual.downsample": (64, 32, 2, 2)}),
        **biased({"model.visual.merger.post_projection_norm": (64,)}),
        **bare({f"model.visual.merger.{part}_proj": (96, 64) for part in ("gate", "up")}),
        **bare({"model.visual.merger.down_proj": (64, 96)}),
    },
    {
        "depth": 4,
        "hidden_act": "silu",
        "hidden_size": 32,
        "image_size": 56,
        "in_channels": 3,
        "intermediate_size": 48,
        "model_type": "glm5_next_vision",
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "rms_norm_eps": 1e-05,
        "spatial_merge_size": 2,
        "swiglu_limit": 7.0,
        "temporal_patch_size": 2,
    },
    stubs=("model.visual",),
    files={
        "preprocessor_config.json": {
            **MEANS,
            "max_image_tokens": 64,
            "merge_size": 2,
            "min_image_tokens": 4,
            "patch_size": 14,
        }
    },
)

_GLM52 = seeing(
    case_of("glm", "glm52"),
    "glm-5.2-vision",
    {
        name.replace("mm_projector.proj.0", "mm_projector.linear_1").replace(
            "mm_projector.proj.2", "mm_projector.linear_2"
        ): shape
        for name, shape in (_KIMI_K25.tensors or {}).items()
        if name.startswith(("vision_tower", "mm_projector"))
    },
    {**_KIMI_K25.config["vision_config"], "merge_kernel_size": [2, 2]},
    files=_KIMI_K25.files,
    raw=True,
)
_GLM52 = replace(
    _GLM52,
    text=False,  # the converter looks for the number of layers outside text_config
    config={
        "architectures": ["Glm5vForConditionalGeneration"],
        "model_type": "glm5v",
        "text_config": {key: v for key, v in _GLM52.config.items() if key != "vision_config"},
        "vision_config": _GLM52.config["vision_config"],
    },
)

# MiniMax, Phi

_MINIMAX_LAYER = {
    **biased({f"self_attn.{part}_proj": (160, 160) for part in ("k", "out", "q", "v")}),
    **biased({"layer_norm1": (160,), "layer_norm2": (160,), "mlp.fc1": (96, 160), "mlp.fc2": (160, 96)}),
}
_MINIMAX = seeing(
    case_of("minimax", "minimax-m3"),
    "minimax-m3-vision",
    {
        **bare({"vision_tower.vision_model.embeddings.patch_embedding": (160, 3, 2, 14, 14)}),
        **biased({"vision_tower.vision_model.pre_layrnorm": (160,)}),
        **layers(3, _MINIMAX_LAYER, "vision_tower.vision_model.encoder.layers"),
        **biased({"multi_modal_projector.linear_1": (80, 160), "multi_modal_projector.linear_2": (64, 80)}),
        **biased({"patch_merge_mlp.linear_1": (80, 256), "patch_merge_mlp.linear_2": (64, 80)}),
    },
    {
        "hidden_act": "gelu",
        "hidden_size": 160,
        "image_size": 56,
        "img_token_compression_config": {"spatial_merge_size": 2},
        "intermediate_size": 96,
        "layer_norm_eps": 1e-05,
        "model_type": "minimax_m3_vision",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 3,
        "patch_size": 14,
    },
    stubs=("vision_tower",),
)
_PHI3_LAYER = bare(
    {
        "input_layernorm": (64,),
        "mlp.down_proj": (64, 96),
        "mlp.gate_up_proj": (192, 64),
        "post_attention_layernorm": (64,),
        "self_attn.o_proj": (64, 64),
        "self_attn.qkv_proj": (128, 64),
    }
)
_PHI4_VISION = {
    **siglip("model.vision_tower.vision_tower.vision_model", count=4),
    "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight": (48, 588),
    "model.vision_tower.vision_tower.vision_model.head.probe": (1, 1, 48),
    **biased({"model.mm_projector.0": (64, 48), "model.mm_projector.2": (64, 64)}),
}
_PHI4 = Case(
    "phi4-vision",
    {
        "architectures": ["Phi4ForCausalLMV"],
        **QWEN_TEXT,
        "max_num_patches": 64,
        "min_num_patches": 4,
        "model_type": "phi4_v",
        "original_max_position_embeddings": 256,
        "partial_rotary_factor": 1.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            **{key: value for key, value in SIGLIP.items() if key not in ("image_size", "patch_size")},
            "model_type": "siglip2_vision_model",
            "num_hidden_layers": 4,
        },
    },
    tensors={
        "lm_head.weight": (96, 64),
        "model.embed_tokens.weight": (96, 64),
        "model.norm.weight": (64,),
        **layers(2, _PHI3_LAYER),
        **_PHI4_VISION,
    },
    files={"preprocessor_config.json": {**MEANS, "patch_size": 14}},
    mmproj=True,
)

# Granite Vision

_QFORMER = {
    "image_positions": (1, 16, 64),
    "query": (1, 4, 64),
    **biased({"norm": (64,), "out_linear": (64, 64), "qformer.layernorm": (64,)}),
    **{
        f"qformer.encoder.layer.0.{part}.{name}": shape
        for part in ("attention", "crossattention")
        for name, shape in biased(
            {
                **{f"attention.{one}": (64, 64) for one in ("query", "key", "value")},
                "output.dense": (64, 64),
                "output.LayerNorm": (64,),
            }
        ).items()
    },
    **biased({"qformer.encoder.layer.0.intermediate_query.dense": (80, 64)}),
    **biased({"qformer.encoder.layer.0.output_query.dense": (64, 80)}),
    **biased({"qformer.encoder.layer.0.output_query.LayerNorm": (64,)}),
}
_GRANITE_LAYER = {name: shape for name, shape in QWEN2_LAYER.items() if not name.endswith("bias")}
_GRANITE = Case(
    "granite-4-vision",
    {
        "architectures": ["Granite4VisionForConditionalGeneration"],
        "deepstack_layer_map": [[-4, 3], [-2, 1], [-1, 0]],
        "downsample_rate": "2/4",
        "image_grid_pinpoints": [[112, 224], [224, 112]],
        "image_token_index": 5,
        "model_type": "granite4_vision",
        "qformer_config": {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 1},
        "spatial_target_layers": [2, 4],
        "spatial_vision_layer": -2,
        "text_config": {
            **QWEN_TEXT,
            "architectures": ["GraniteForCausalLM"],
            "attention_multiplier": 0.25,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "model_type": "granite",
            "num_hidden_layers": 5,
            "residual_multiplier": 0.22,
        },
        "torch_dtype": "bfloat16",
        "vision_config": {
            **SIGLIP,
            "hidden_size": 64,
            "image_size": 112,
            "layer_norm_eps": 1e-06,
            "num_hidden_layers": 5,
        },
    },
    tensors={
        "lm_head.weight": (96, 64),
        "model.language_model.embed_tokens.weight": (96, 64),
        "model.language_model.norm.weight": (64,),
        **layers(5, _GRANITE_LAYER, "model.language_model.layers"),
        **siglip("model.vision_tower.vision_model", 64, positions=64, count=5),
        "model.image_newline": (64,),
        **layers(3, _QFORMER, "model.layerwise_projectors"),
        **layers(2, _QFORMER, "model.spatial_projectors"),
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
    raw_config=True,
)

CASES = (
    _INTERNVL,
    _INTERNVL_6B,
    _INTERNVL_HF,
    _KIMI_VL,
    _KIMI_K25,
    _PADDLE,
    _JANUS,
    _DOTS_OCR,
    _LIGHTON,
    _HUNYUAN,
    _COGVLM,
    ocr("deepseek-ocr", "deepseek-ocr-vision"),
    ocr("unlimited-ocr", "unlimited-ocr-vision"),
    _OCR2,
    _YOUTU,
    _STEP3_VL,
    _STEP37,
    minicpm("minicpm-v-4-6-vision", scale_resolution=56),
    minicpm("minicpm-v-4-6-vision-4x", downsample_mode="4x", scale_resolution=56),
    _EXAONE,
    _LING,
    _SARASHINA,
    _GLM53,
    _GLM52,
    _MINIMAX,
    _PHI4,
    _GRANITE,
    lfm2_vl("lfm2-vl-vision"),
    lfm2_vl("lfm2-vl-vision-plain", projector_use_layernorm=False, vision_feature_layer=-2),
)
