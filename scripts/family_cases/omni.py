"""Models that see and hear: Qwen2.5-Omni, Qwen3-Omni, and Qwen3-ASR, which only hears."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers
from family_cases.sound import WHISPER, decoder, whisper
from family_cases.vision import MEANS, QWEN_TEXT


def paired(shapes: Shapes) -> Shapes:
    """The tensors of matrices with a bias each."""
    return {
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in shapes.items()
        for part in ("weight", "bias")
    }


_VISION25: dict[str, Any] = {
    "depth": 4,
    "fullatt_block_indexes": [1, 3],
    "hidden_act": "silu",
    "hidden_size": 32,
    "in_channels": 3,
    "intermediate_size": 48,
    "model_type": "qwen2_5_omni_vision_encoder",
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "temporal_patch_size": 2,
    "window_size": 112,
}
_HEARD: Shapes = {
    name.replace(".layer_norm.", ".ln_post."): shape
    for name, shape in whisper("thinker.audio_tower", None).items()
}
_QWEN25_OMNI = Case(
    "qwen2.5-omni",
    {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": True,
        "thinker_config": {
            "architectures": ["Qwen2OmniNaViTThinkerForConditionalGeneration"],
            "audio_config": {**WHISPER, "model_type": "qwen2_5_omni_audio_encoder", "output_dim": 64},
            "model_type": "qwen2_5_omni_thinker",
            "text_config": {
                **QWEN_TEXT,
                "model_type": "qwen2_5_omni_text",
                "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
            },
            "vision_config": _VISION25,
        },
    },
    tensors={
        **_HEARD,
        "thinker.audio_tower.audio_bos_eos_token.weight": (2, 64),
        **paired({"thinker.audio_tower.proj": (64, 32)}),
        "thinker.visual.patch_embed.proj.weight": (32, 3, 2, 14, 14),
        "thinker.visual.merger.ln_q.weight": (32,),
        **paired({"thinker.visual.merger.mlp.0": (128, 128), "thinker.visual.merger.mlp.2": (64, 128)}),
        **layers(
            4,
            {
                "norm1.weight": (32,),
                "norm2.weight": (32,),
                **paired(
                    {
                        **{f"attn.{part}": (32, 32) for part in ("k", "proj", "q", "v")},
                        "mlp.down_proj": (32, 48),
                        "mlp.gate_proj": (48, 32),
                        "mlp.up_proj": (48, 32),
                    }
                ),
            },
            "thinker.visual.blocks",
        ),
        **decoder("thinker.model", bias=True, head="thinker.lm_head"),
        "talker.model.norm.weight": (64,),
        "token2wav.code2wav_dit_model.norm_out.linear.weight": (64, 64),
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)

_SOUND3: dict[str, Any] = {
    **WHISPER,
    "downsample_hidden_size": 24,
    "model_type": "qwen3_omni_moe_audio_encoder",
    "num_hidden_layers": 3,
    "output_dim": 64,
}


def sound3(prefix: str, count: int = 3) -> Shapes:
    kept = {name: shape for name, shape in whisper(prefix, None, count=count).items() if ".conv" not in name}
    return {
        **{name.replace(".layer_norm.", ".ln_post."): shape for name, shape in kept.items()},
        **{f"{prefix}.layers.{i}.self_attn.k_proj.bias": (32,) for i in range(count)},
        **paired(
            {
                f"{prefix}.conv2d1": (24, 1, 3, 3),
                f"{prefix}.conv2d2": (24, 24, 3, 3),
                f"{prefix}.conv2d3": (24, 24, 3, 3),
                f"{prefix}.proj1": (32, 32),
                f"{prefix}.proj2": (64, 32),
            }
        ),
        f"{prefix}.conv_out.weight": (32, 48),
    }


_VISION3: dict[str, Any] = {
    "deepstack_visual_indexes": [1, 2],
    "depth": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "intermediate_size": 48,
    "model_type": "qwen3_omni_moe_vision_encoder",
    "num_heads": 2,
    "num_position_embeddings": 16,
    "out_hidden_size": 64,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_TEXT3: dict[str, Any] = {
    **QWEN_TEXT,
    "head_dim": 16,
    "rope_scaling": {
        "interleaved": True,
        "mrope_section": [4, 2, 2],
        "rope_type": "default",
        "type": "default",
    },
}
_MERGER = {"mlp.0": (128, 128), "mlp.2": (64, 128)}
# Published names begin with "thinker.visual."; llama.cpp's converter has no place for these, but for names without it.
_QWEN3_OMNI = Case(
    "qwen3-omni",
    {
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "enable_audio_output": True,
        "model_type": "qwen3_omni_moe",
        "thinker_config": {
            "audio_config": _SOUND3,
            "model_type": "qwen3_omni_moe_thinker",
            "text_config": {
                **_TEXT3,
                "decoder_sparse_step": 1,
                "model_type": "qwen3_omni_moe_text",
                "moe_intermediate_size": 32,
                "norm_topk_prob": True,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "shared_expert_intermediate_size": 0,
                "tie_word_embeddings": False,
            },
            "vision_config": _VISION3,
        },
    },
    tensors={
        **sound3("thinker.audio_tower"),
        **paired(
            {
                "visual.patch_embed.proj": (32, 3, 2, 16, 16),
                "visual.merger.ln_q": (32,),
                **{f"visual.merger.{name}": shape for name, shape in _MERGER.items()},
                **{f"visual.merger_list.{i}.ln_q": (128,) for i in range(2)},
                **layers(2, _MERGER, "visual.merger_list"),
                **layers(
                    4,
                    {
                        "attn.proj": (32, 32),
                        "attn.qkv": (96, 32),
                        "mlp.linear_fc1": (48, 32),
                        "mlp.linear_fc2": (32, 48),
                        "norm1": (32,),
                        "norm2": (32,),
                    },
                    "visual.blocks",
                ),
            }
        ),
        "visual.pos_embed.weight": (16, 32),
        "thinker.lm_head.weight": (96, 64),
        "thinker.model.embed_tokens.weight": (96, 64),
        "thinker.model.norm.weight": (64,),
        **layers(
            2,
            {
                "input_layernorm.weight": (64,),
                "mlp.gate.weight": (4, 64),
                **{
                    f"mlp.experts.{i}.{part}_proj.weight": (32, 64)
                    for i in range(4)
                    for part in ("gate", "up")
                },
                **{f"mlp.experts.{i}.down_proj.weight": (64, 32) for i in range(4)},
                "post_attention_layernorm.weight": (64,),
                "self_attn.k_norm.weight": (16,),
                "self_attn.k_proj.weight": (32, 64),
                "self_attn.o_proj.weight": (64, 64),
                "self_attn.q_norm.weight": (16,),
                "self_attn.q_proj.weight": (64, 64),
                "self_attn.v_proj.weight": (32, 64),
            },
            "thinker.model.layers",
        ),
        "talker.model.norm.weight": (64,),
        "code2wav.code_embedding.weight": (64, 64),
    },
    files={"preprocessor_config.json": MEANS},
    mmproj=True,
)
_FOUR = {"encoder_layers": 4, "num_hidden_layers": 4}
_QWEN3_ASR = Case(
    "qwen3-asr",
    {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": ["English"],
        "thinker_config": {
            "audio_config": {**_SOUND3, **_FOUR, "model_type": "qwen3_asr_audio_encoder"},
            "model_type": "qwen3_asr",
            "text_config": {**_TEXT3, "model_type": "qwen3", "tie_word_embeddings": True},
        },
    },
    tensors={
        **sound3("thinker.audio_tower", 4),
        **decoder("thinker.model", head=None),
        **layers(
            2,
            {"self_attn.k_norm.weight": (16,), "self_attn.q_norm.weight": (16,)},
            "thinker.model.layers",
        ),
    },
    mmproj=True,
    raw_config=True,
)

CASES = (_QWEN25_OMNI, _QWEN3_OMNI, _QWEN3_ASR)
