"""Models of Nvidia that see and hear. Their text halves are models of `family_cases.mamba`."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers
from family_cases.mamba import _NEMOTRON_H, _nemotron
from family_cases.seeing import bare, biased
from family_cases.vision import MEANS

_TEXT = {**_NEMOTRON_H, "hybrid_override_pattern": "M-M*-"}
_ENCODER = "vision_model.radio_model.model"
_VISION: dict[str, Any] = {
    "architectures": ["RADIOModel"],
    "args": {"cpe_max_size": 256, "model": "vit_huge_patch16_224", "register_multiple": 10},
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_resolution": 128,
    "model_type": "",
    "num_attention_heads": 2,
    "num_hidden_layers": 8,
    "patch_size": 16,
    "preferred_resolution": [64, 64],
    "torch_dtype": "bfloat16",
    "version": "radio_v2.5-h",
}
_SIZES = {
    "_vit_hidden_size": 32,
    "_vit_intermediate_size": 64,
    "_vit_num_layers": 8,
    "_vit_num_heads": 2,
}
_VL: dict[str, Any] = {
    "architectures": ["NemotronH_Nano_VL_V2"],
    "attn_implementation": "flash_attention_2",
    "downsample_ratio": 0.5,
    "force_image_size": 64,
    "image_tag_type": "internvl",
    "img_context_token": "<image>",
    "img_context_token_id": 90,
    "llm_config": _TEXT,
    "max_sequence_length": 256,
    "model_type": "NemotronH_Nano_VL_V2",
    "norm_mean": [0.48145466, 0.4578275, 0.40821073],
    "norm_std": [0.26862954, 0.26130258, 0.27577711],
    "patch_size": 16,
    "projector_hidden_size": 48,
    "ps_version": "v2",
    "template": "nemotron6",
    "torch_dtype": "bfloat16",
    "use_thumbnail": True,
    "vision_config": _VISION,
    "vit_hidden_size": 32,
}
_SEEN = {
    **{f"language_model.{name}": shape for name, shape in _nemotron("M-M*-", {}).items()},
    "vision_model.input_conditioner.norm_mean": (3, 1, 1),
    "vision_model.input_conditioner.norm_std": (3, 1, 1),
    "vision_model.radio_model.input_conditioner.norm_mean": (3, 1, 1),
    "vision_model.radio_model.input_conditioner.norm_std": (3, 1, 1),
    f"{_ENCODER}.patch_generator.cls_token.token": (10, 32),
    f"{_ENCODER}.patch_generator.embedder.weight": (32, 768),
    f"{_ENCODER}.patch_generator.pos_embed": (1, 64, 32),
    **layers(
        8,
        biased(
            {
                "norm1": (32,),
                "norm2": (32,),
                "attn.qkv": (96, 32),
                "attn.proj": (32, 32),
                "mlp.fc1": (64, 32),
                "mlp.fc2": (32, 64),
            }
        ),
        f"{_ENCODER}.blocks",
    ),
    **bare({"mlp1.0": (128,), "mlp1.1": (48, 128), "mlp1.3": (64, 48)}),
}
_SOUND_CONFIG: dict[str, Any] = {
    "activation_function": "silu",
    "architectures": ["ParakeetEncoder"],
    "attention_bias": False,
    "conv_kernel_size": 9,
    "convolution_bias": False,
    "hidden_size": 32,
    "intermediate_size": 64,
    "model_type": "parakeet",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_mel_bins": 128,
    "projection_hidden_size": 48,
    "sampling_rate": 16000,
    "subsampling_conv_channels": 8,
    "subsampling_conv_kernel_size": 3,
    "subsampling_conv_stride": 2,
    "subsampling_factor": 8,
}
_SOUND_LAYER = {
    **biased(
        {f"norm_{part}": (32,) for part in ("feed_forward1", "feed_forward2", "self_att", "conv", "out")}
    ),
    **biased({"conv.norm": (32,)}),
    "conv.norm.running_mean": (32,),
    "conv.norm.running_var": (32,),
    "conv.norm.num_batches_tracked": (1,),
    **bare(
        {
            "feed_forward1.linear1": (64, 32),
            "feed_forward1.linear2": (32, 64),
            "feed_forward2.linear1": (64, 32),
            "feed_forward2.linear2": (32, 64),
            "self_attn.q_proj": (32, 32),
            "self_attn.k_proj": (32, 32),
            "self_attn.v_proj": (32, 32),
            "self_attn.o_proj": (32, 32),
            "self_attn.relative_k_proj": (32, 32),
            "conv.pointwise_conv1": (64, 32, 1),
            "conv.depthwise_conv": (32, 1, 9),
            "conv.pointwise_conv2": (32, 32, 1),
        }
    ),
    "self_attn.bias_u": (2, 16),
    "self_attn.bias_v": (2, 16),
}
_HEARD = {
    "sound_encoder.encoder.feature_extractor.featurizer.fb": (1, 128, 257),
    "sound_encoder.encoder.feature_extractor.featurizer.window": (400,),
    **biased(
        {
            "sound_encoder.encoder.subsampling.layers.0": (8, 1, 3, 3),
            "sound_encoder.encoder.subsampling.layers.2": (8, 1, 3, 3),
            "sound_encoder.encoder.subsampling.layers.3": (8, 8, 1, 1),
            "sound_encoder.encoder.subsampling.layers.5": (8, 1, 3, 3),
            "sound_encoder.encoder.subsampling.layers.6": (8, 8, 1, 1),
            "sound_encoder.encoder.subsampling.linear": (32, 128),
        }
    ),
    **layers(2, _SOUND_LAYER, "sound_encoder.encoder.layers"),
    **bare({"sound_projection.norm": (32,), "sound_projection.linear1": (48, 32)}),
    **bare({"sound_projection.linear2": (64, 48)}),
}
_VIDEO = {f"{_ENCODER}.patch_generator.video_embedder.weight": (32, 1536)}

CASES = (
    Case(
        "nemotron-nano-vl",
        _VL,
        _SEEN,
        files={"preprocessor_config.json": {"norm_mean": [0.5, 0.5, 0.5], "use_thumbnail": True}},
        mmproj=True,
        constants=_SIZES,
    ),
    Case(
        "nemotron-nano-omni",
        {**_VL, "sound_config": _SOUND_CONFIG, "force_image_size": 96},
        {**_SEEN, **_VIDEO, **_HEARD},
        files={"preprocessor_config.json": MEANS},
        dtypes={"sound_encoder.encoder.feature_extractor.featurizer.fb": "F32"},
        mmproj=True,
        text=False,
        constants=_SIZES,
    ),
)
