"""Models that hear: the text half and the projector."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from family_cases import Case, Shapes, layers

QWEN2: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "vocab_size": 96,
}
WHISPER: dict[str, Any] = {
    "d_model": 32,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "encoder_layers": 3,
    "max_source_positions": 1500,
    "model_type": "qwen2_audio_encoder",
    "num_mel_bins": 16,
}


def decoder(prefix: str, bias: bool = False, head: str | None = "lm_head", kv: int = 32) -> Shapes:
    """The tensors of a decoder of two layers as Llama and Qwen2 have them."""
    layer = {
        "input_layernorm.weight": (64,),
        "mlp.down_proj.weight": (64, 96),
        "mlp.gate_proj.weight": (96, 64),
        "mlp.up_proj.weight": (96, 64),
        "post_attention_layernorm.weight": (64,),
        "self_attn.k_proj.weight": (kv, 64),
        "self_attn.o_proj.weight": (64, 64),
        "self_attn.q_proj.weight": (64, 64),
        "self_attn.v_proj.weight": (kv, 64),
    }
    if bias:
        layer |= {f"self_attn.{part}_proj.bias": (kv if part in "kv" else 64,) for part in "qkv"}
    ends = {f"{prefix}.embed_tokens.weight": (96, 64), f"{prefix}.norm.weight": (64,)}
    if head is not None:
        ends[f"{head}.weight"] = (96, 64)
    return {**ends, **layers(2, layer, f"{prefix}.layers")}


def whisper(
    prefix: str = "audio_tower", positions: int | None = 1500, mel: int = 16, count: int = 3
) -> Shapes:
    """The tensors of the encoder of Whisper. llama.cpp's converter knows convolutions up to the number of layers."""
    matrices = {"fc1": (48, 32), "fc2": (32, 48), "final_layer_norm": (32,), "self_attn_layer_norm": (32,)}
    matrices |= {f"self_attn.{part}_proj": (32, 32) for part in ("out", "q", "v")}
    layer = {f"{name}.weight": shape for name, shape in matrices.items()}
    layer |= {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    layer["self_attn.k_proj.weight"] = (32, 32)
    ends: dict[str, tuple[int, ...]] = {
        "conv1.weight": (32, mel, 3),
        "conv1.bias": (32,),
        "conv2.weight": (32, 32, 3),
        "conv2.bias": (32,),
        "layer_norm.weight": (32,),
        "layer_norm.bias": (32,),
    }
    if positions is not None:
        ends["embed_positions.weight"] = (positions, 32)
    return {f"{prefix}.{name}": shape for name, shape in ends.items()} | layers(
        count, layer, f"{prefix}.layers"
    )


_QWEN2_AUDIO = Case(
    "qwen2-audio",
    {
        "architectures": ["Qwen2AudioForConditionalGeneration"],
        "audio_config": WHISPER,
        "audio_token_index": 90,
        "model_type": "qwen2_audio",
        "text_config": QWEN2,
    },
    tensors={
        **whisper(),
        "multi_modal_projector.linear.weight": (64, 32),
        "multi_modal_projector.linear.bias": (64,),
        **decoder("language_model.model", bias=True, head="language_model.lm_head"),
    },
    mmproj=True,
)
_AUDIO_FLAMINGO = Case(
    "audio-flamingo-3",
    {
        "architectures": ["AudioFlamingo3ForConditionalGeneration"],
        "audio_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "max_source_positions": 1500,
            "model_type": "audioflamingo3_encoder",
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "num_mel_bins": 16,
        },
        "model_type": "audioflamingo3",
        "text_config": QWEN2,
    },
    tensors={
        **whisper(),
        "multi_modal_projector.linear_1.weight": (64, 32),
        "multi_modal_projector.linear_1.bias": (64,),
        "multi_modal_projector.linear_2.weight": (64, 64),
        "multi_modal_projector.linear_2.bias": (64,),
        **decoder("language_model.model", bias=True, head="language_model.lm_head"),
    },
    mmproj=True,
)
LLAMA: dict[str, Any] = {**QWEN2, "head_dim": 16, "model_type": "llama", "rms_norm_eps": 1e-05}
_VOXTRAL = Case(
    "voxtral",
    {
        "architectures": ["VoxtralForConditionalGeneration"],
        "audio_config": {
            "head_dim": 16,
            "hidden_size": 32,
            "intermediate_size": 128,
            "max_source_positions": 1500,
            "model_type": "voxtral_encoder",
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "num_mel_bins": 16,
        },
        "audio_token_id": 24,
        "hidden_size": 64,
        "model_type": "voxtral",
        "text_config": LLAMA,
    },
    tensors={
        **{name: tuple(128 if size == 48 else size for size in shape) for name, shape in whisper().items()},
        "multi_modal_projector.linear_1.weight": (64, 128),
        "multi_modal_projector.linear_2.weight": (64, 64),
        **decoder("language_model.model", head="language_model.lm_head"),
    },
    mmproj=True,
)


def ultravox(name: str, stored: Shapes, **settings: Any) -> Case:
    config = {
        "architectures": ["UltravoxModel"],
        "audio_config": {**WHISPER, "model_type": "whisper", "num_hidden_layers": 3},
        "hidden_size": 96,
        "model_type": "ultravox",
        "projector_act": "swiglu",
        "stack_factor": 8,
        "text_config": {**LLAMA, "architectures": ["LlamaForCausalLM"]},
    }
    tensors = {
        **whisper(),
        "multi_modal_projector.linear_1.weight": (96, 256),
        "multi_modal_projector.linear_2.weight": (64, 48),
        "multi_modal_projector.ln_pre.weight": (256,),
        **stored,
    }
    return Case(name, {**config, **settings}, tensors=tensors, mmproj=True, text=False)


_ULTRAVOX = ultravox("ultravox-0.5", {"multi_modal_projector.ln_mid.weight": (48,)}, projector_ln_mid=True)
# With a stack of which 1500 frames hold a whole number.
_ULTRAVOX_4 = ultravox(
    "ultravox-stack-of-4",
    {
        "multi_modal_projector.linear_1.weight": (96, 128),
        "multi_modal_projector.ln_mid.weight": (48,),
        "multi_modal_projector.ln_pre.weight": (128,),
    },
    projector_ln_mid=True,
    stack_factor=4,
)
_MERALION = Case(
    "meralion-2",
    {
        "architectures": ["MERaLiON2ForConditionalGeneration"],
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 96,
        "model_type": "meralion2",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "sliding_window": 64,
        "speech_config": {**WHISPER, "model_type": "whisper", "num_hidden_layers": 3},
        "speech_mlp_scale_factor": 15,
        "text_config": {
            "architectures": ["Gemma2ForCausalLM"],
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "head_dim": 16,
            "hidden_size": 64,
            "intermediate_size": 96,
            "max_position_embeddings": 256,
            "model_type": "gemma2",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "query_pre_attn_scalar": 16,
            "rms_norm_eps": 1e-06,
            "sliding_window": 64,
            "vocab_size": 96,
        },
        "vocab_size": 96,
    },
    tensors={
        **whisper("speech_encoder"),
        "ln_speech.weight": (32,),
        "ln_speech.bias": (32,),
        "speech_audio_adapter.mlp_adapter.0.weight": (32, 480),
        "speech_audio_adapter.mlp_adapter.0.bias": (32,),
        "speech_audio_adapter.gate_proj.weight": (80, 32),
        "speech_audio_adapter.gate_proj.bias": (80,),
        "speech_audio_adapter.pool_proj.weight": (80, 32),
        "speech_audio_adapter.pool_proj.bias": (80,),
        "speech_audio_adapter.out_proj.weight": (64, 80),
        "speech_audio_adapter.out_proj.bias": (64,),
        **decoder("text_decoder.model", head=None),
        **layers(
            2,
            {
                "post_feedforward_layernorm.weight": (64,),
                "pre_feedforward_layernorm.weight": (64,),
            },
            "text_decoder.model.layers",
        ),
    },
    mmproj=True,
    text=False,
)
_GLM_ASR = Case(
    "glm-asr",
    {
        "adapter_type": "mlp",
        "architectures": ["GlmasrModel"],
        "hidden_size": 64,
        "lm_config": {**LLAMA, "architectures": ["LlamaForCausalLM"]},
        "merge_factor": 4,
        "mlp_adapter_act": "gelu",
        "model_type": "Glmasr",
        "spec_aug": False,
        "use_rope": True,
        "whisper_config": {**WHISPER, "model_type": "whisper", "num_hidden_layers": 3},
    },
    tensors={
        **{name: s for name, s in whisper("audio_encoder.whisper").items() if ".layer_norm." not in name},
        "audio_encoder.layer_norm.weight": (32,),
        "audio_encoder.layer_norm.bias": (32,),
        "audio_encoder.adapting.0.weight": (80, 128),
        "audio_encoder.adapting.0.bias": (80,),
        "audio_encoder.adapting.2.weight": (64, 80),
        "audio_encoder.adapting.2.bias": (64,),
        "audio_encoder.audio_bos_eos_token.weight": (2, 64),
        **decoder("model"),
    },
    mmproj=True,
)


def _paired(shapes: Shapes) -> Shapes:
    return {
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in shapes.items()
        for part in ("weight", "bias")
    }


def granite_speech(name: str, kind: str, architecture: str, heard: int = 32, **encoder: Any) -> Case:
    layer = {
        **_paired(
            {
                "attn.pre_norm": (32,),
                "attn.to_out": (32, 32),
                "conv.down_conv": (32, 64, 1),
                "conv.norm": (32,),
                "conv.up_conv": (128, 32, 1),
                "ff1.down_proj": (32, 128),
                "ff1.pre_norm": (32,),
                "ff1.up_proj": (128, 32),
                "ff2.down_proj": (32, 128),
                "ff2.pre_norm": (32,),
                "ff2.up_proj": (128, 32),
                "post_norm": (32,),
            }
        ),
        "attn.rel_pos_emb.weight": (33, 16),
        "attn.to_kv.weight": (64, 32),
        "attn.to_q.weight": (32, 32),
        **{f"conv.batch_norm.{part}": (64,) for part in ("bias", "running_mean", "running_var", "weight")},
        "conv.batch_norm.num_batches_tracked": (),
        "conv.depth_conv.conv.weight": (64, 1, 15),
    }
    asked = {
        f"{kind}.{part}": (32, width)
        for kind, width in (("attention", 32), ("crossattention", heard))
        for part, width in (
            ("attention.key", width),
            ("attention.query", 32),
            ("attention.value", width),
            ("output.dense", 32),
        )
    }
    asked |= {f"{kind}.output.LayerNorm": (32,) for kind in ("attention", "crossattention")}
    asked |= {
        "intermediate_query.dense": (48, 32),
        "output_query.LayerNorm": (32,),
        "output_query.dense": (32, 48),
    }
    config = {
        "architectures": [architecture],
        "audio_token_index": 95,
        "downsample_rate": 5,
        "encoder_config": {
            "context_size": 12,
            "conv_expansion_factor": 2,
            "conv_kernel_size": 15,
            "dim_head": 16,
            "feedforward_mult": 4,
            "hidden_dim": 32,
            "input_dim": 16,
            "max_pos_emb": 16,
            "model_type": f"{kind}_encoder",
            "num_heads": 2,
            "num_layers": 2,
            "output_dim": 12,
            **encoder,
        },
        "has_lora_adapter": False,
        "model_type": kind,
        "projector_config": {
            "cross_attention_frequency": 1,
            "encoder_hidden_size": heard,
            "hidden_size": 32,
            "intermediate_size": 48,
            "model_type": "blip_2_qformer",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        },
        "text_config": {
            **LLAMA,
            "architectures": ["GraniteForCausalLM"],
            "attention_multiplier": 0.0625,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "model_type": "granite",
            "residual_multiplier": 0.22,
        },
        "window_size": 15,
    }
    tensors = {
        **layers(2, layer, "encoder.layers"),
        **_paired({"encoder.input_linear": (32, 16), "encoder.out": (12, 32), "encoder.out_mid": (32, 12)}),
        **_paired({"projector.linear": (64, 32), "projector.qformer.layernorm": (32,)}),
        **layers(2, _paired(asked), "projector.qformer.encoder.layer"),
        "projector.query": (1, 3, 32),
        **decoder("language_model.model", head="language_model.lm_head"),
    }
    types = {f"encoder.layers.{i}.conv.batch_norm.num_batches_tracked": "I64" for i in range(2)}
    return Case(name, config, tensors, dtypes=types, mmproj=True, raw_config=True)


_GRANITE = granite_speech("granite-speech", "granite_speech", "GraniteSpeechForConditionalGeneration")
_GRANITE_PLUS = granite_speech(
    "granite-speech-plus",
    "granite_speech_plus",
    "GraniteSpeechPlusForConditionalGeneration",
    heard=64,
    cat_hidden_layers=[1],
)


def lfm2_audio() -> Case:
    """A conformer before a small LFM2. llama.cpp takes a width of 512 for granted, and its converter as many layers as
    there are steps before them."""
    layer = {
        **_paired(
            {
                "conv.batch_norm": (512,),
                "conv.depthwise_conv": (512, 1, 9),
                "conv.pointwise_conv1": (1024, 512, 1),
                "conv.pointwise_conv2": (512, 512, 1),
                "feed_forward1.linear1": (512, 512),
                "feed_forward1.linear2": (512, 512),
                "feed_forward2.linear1": (512, 512),
                "feed_forward2.linear2": (512, 512),
                **{f"norm_{part}": (512,) for part in ("conv", "feed_forward1", "feed_forward2", "out")},
                "norm_self_att": (512,),
                **{f"self_attn.linear_{part}": (512, 512) for part in ("k", "out", "q", "v")},
            }
        ),
        "conv.batch_norm.num_batches_tracked": (),
        "conv.batch_norm.running_mean": (512,),
        "conv.batch_norm.running_var": (512,),
        "self_attn.linear_pos.weight": (512, 512),
        "self_attn.pos_bias_u": (8, 64),
        "self_attn.pos_bias_v": (8, 64),
    }
    of = next(case for case in import_module("family_cases.seeing").CASES if case.name == "lfm2-vl-vision")
    prefix = "model.language_model."
    text = {
        f"lfm.{name.removeprefix(prefix)}": shape
        for name, shape in (of.tensors or {}).items()
        if name.startswith(prefix)
    }
    config = {
        "architectures": ["Lfm2AudioForConditionalGeneration"],
        "codebook_weight": "log",
        "codebooks": 8,
        "depthformer": {"dim": 32, "layers": 1, "tie": True},
        "encoder": {
            "att_context_size": [-1, -1],
            "causal_downsampling": False,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "d_model": 512,
            "feat_in": 16,
            "feat_out": -1,
            "ff_expansion_factor": 1,
            "n_heads": 8,
            "n_layers": 7,
            "pos_emb_max_len": 5000,
            "self_attention_model": "rel_pos",
            "subsampling": "dw_striding",
            "subsampling_conv_channels": 32,
            "subsampling_factor": 8,
            "untie_biases": True,
            "xscaling": False,
        },
        "interleaved_n_audio": 12,
        "interleaved_n_text": 6,
        "lfm": of.config["text_config"],
        "preprocessor": {"features": 16, "n_fft": 512, "sample_rate": 16000},
        "semantic_codebook_factor": 100,
        "tie_audio_embeddings": False,
    }
    convolutions = {
        0: (32, 1, 3, 3),
        2: (32, 1, 3, 3),
        3: (32, 32, 1, 1),
        5: (32, 1, 3, 3),
        6: (32, 32, 1, 1),
    }
    heard = {f"conformer.pre_encode.conv.{i}": shape for i, shape in convolutions.items()}
    adapter = {
        f"audio_adapter.model.{i}": shape for i, shape in {0: (512,), 1: (80, 512), 3: (64, 80)}.items()
    }
    tensors = {
        **text,
        **_paired({**heard, **adapter, "conformer.pre_encode.out": (512, 64)}),
        **layers(7, layer, "conformer.layers"),
        "audio_embedding.embedding.weight": (1000, 64),
        "audio_embedding.embedding_norm.weight": (64,),
        "audio_embedding.to_logits.weight": (1000, 64),
        "audio_loss_weights": (8,),
        "codebook_offsets": (8,),
        "depth_embeddings.0.embedding.weight": (125, 32),
        "depth_embeddings.0.embedding_norm.weight": (32,),
        "depth_embeddings.0.to_logits.weight": (125, 32),
        "depth_linear.weight": (256, 64),
        "depth_linear.bias": (256,),
        "depthformer.layers.0.operator.qkv_proj.weight": (48, 32),
        "depthformer.layers.0.feed_forward.w1.weight": (48, 32),
    }
    types = {f"conformer.layers.{i}.conv.batch_norm.num_batches_tracked": "I64" for i in range(7)}
    types |= {"audio_loss_weights": "F32", "codebook_offsets": "I64"}
    return Case("lfm2-audio", config, tensors, dtypes=types, mmproj=True, raw_config=True)


_LFM2_AUDIO = lfm2_audio()

CASES = (
    _LFM2_AUDIO,
    _GRANITE,
    _GRANITE_PLUS,
    _QWEN2_AUDIO,
    _AUDIO_FLAMINGO,
    _VOXTRAL,
    _ULTRAVOX,
    _ULTRAVOX_4,
    _MERALION,
    _GLM_ASR,
)
