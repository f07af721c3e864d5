"""Models of Google: Gemma 3n, EmbeddingGemma, Gemma 4 Unified and its assistants."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers

_BASE: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 32,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "use_cache": True,
    "vocab_size": 96,
}

_GEMMA3N: dict[str, Any] = {
    **_BASE,
    "activation_sparsity_pattern": [0.95, 0.5, 0.75, 0.0],
    "altup_active_idx": 0,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_lr_multiplier": 1.0,
    "altup_num_inputs": 4,
    "final_logit_softcapping": 30.0,
    "hidden_size_per_layer_input": 32,
    "intermediate_size": [128, 128, 128, 128],
    "laurel_rank": 32,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "model_type": "gemma3n_text",
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 64,
    "torch_dtype": "bfloat16",
    "vocab_size_per_layer_input": 96,
}


def _gemma3n(prefix: str, vocab: int, vocab_per_layer: int) -> Shapes:
    return {
        f"{prefix}.embed_tokens.weight": (vocab, 64),
        f"{prefix}.embed_tokens_per_layer.weight": (vocab_per_layer, 4 * 32),
        f"{prefix}.per_layer_model_projection.weight": (4 * 32, 64),
        f"{prefix}.per_layer_projection_norm.weight": (32,),
        f"{prefix}.norm.weight": (64,),
        **{f"{prefix}.altup_projections.{i}.weight": (64, 64) for i in range(3)},
        **{f"{prefix}.altup_unembed_projections.{i}.weight": (64, 64) for i in range(3)},
        **layers(
            4,
            {
                "altup.correct_output_scale": (64,),
                "altup.correction_coefs.weight": (4, 4),
                "altup.modality_router.weight": (4, 64),
                "altup.prediction_coefs.weight": (16, 4),
                "altup.router_norm.weight": (64,),
                "input_layernorm.weight": (64,),
                "laurel.linear_left.weight": (32, 64),
                "laurel.linear_right.weight": (64, 32),
                "laurel.post_laurel_norm.weight": (64,),
                "mlp.down_proj.weight": (64, 128),
                "mlp.gate_proj.weight": (128, 64),
                "mlp.up_proj.weight": (128, 64),
                "per_layer_input_gate.weight": (32, 64),
                "per_layer_projection.weight": (64, 32),
                "post_attention_layernorm.weight": (64,),
                "post_feedforward_layernorm.weight": (64,),
                "post_per_layer_input_norm.weight": (64,),
                "pre_feedforward_layernorm.weight": (64,),
                "self_attn.k_norm.weight": (32,),
                "self_attn.k_proj.weight": (64, 64),
                "self_attn.o_proj.weight": (64, 128),
                "self_attn.q_norm.weight": (32,),
                "self_attn.q_proj.weight": (128, 64),
                "self_attn.v_proj.weight": (64, 64),
            },
            f"{prefix}.layers",
        ),
    }


_ASSISTANT: dict[str, Any] = {
    "architectures": ["Gemma4AssistantForCausalLM"],
    "backbone_hidden_size": 96,
    "centroid_intermediate_top_k": 32,
    "dtype": "bfloat16",
    "model_type": "gemma4_assistant",
    "num_centroids": 16,
    "text_config": {},
    "tie_word_embeddings": True,
    "use_ordered_embeddings": False,
}

_EMBEDDING: dict[str, Any] = {
    **_BASE,
    "_sliding_window_pattern": 6,
    "architectures": ["Gemma3TextModel"],
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "intermediate_size": 96,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "model_type": "gemma3_text",
    "num_hidden_layers": 6,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 64,
    "torch_dtype": "float32",
    "use_bidirectional_attention": True,
}
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
_TOKENIZER = {
    "model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(96)}, "merges": []},
    "added_tokens": [],
}

_GEMMA4: dict[str, Any] = {
    **_BASE,
    "attention_k_eq_v": True,
    "enable_moe_block": False,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 96,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "max_position_embeddings": 256,
    "moe_intermediate_size": None,
    "num_experts": None,
    "num_global_key_value_heads": 1,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 0,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 64,
    "tie_word_embeddings": True,
    "top_k_experts": None,
    "use_bidirectional_attention": "vision",
    "use_double_wide_mlp": False,
    "vocab_size_per_layer_input": 96,
}


_ASSISTANT_TEXT = {
    **_GEMMA4,
    "model_type": "gemma4_text",
    "num_kv_shared_layers": 4,
    "vocab_size_per_layer_input": 0,
}


def _gemma4_layer(layer: int) -> Shapes:
    full = layer == 3
    head, kv = (64, 1) if full else (32, 2)
    shapes = {
        "input_layernorm.weight": (64,),
        "layer_scalar": (1,),
        "mlp.down_proj.weight": (64, 96),
        "mlp.gate_proj.weight": (96, 64),
        "mlp.up_proj.weight": (96, 64),
        "post_attention_layernorm.weight": (64,),
        "post_feedforward_layernorm.weight": (64,),
        "pre_feedforward_layernorm.weight": (64,),
        "self_attn.k_norm.weight": (head,),
        "self_attn.k_proj.weight": (kv * head, 64),
        "self_attn.o_proj.weight": (64, 4 * head),
        "self_attn.q_norm.weight": (head,),
        "self_attn.q_proj.weight": (4 * head, 64),
    }
    return shapes if full else {**shapes, "self_attn.v_proj.weight": (kv * head, 64)}


def _gemma4(prefix: str) -> Shapes:
    blocks = {
        f"{prefix}.layers.{i}.{name}": shape for i in range(4) for name, shape in _gemma4_layer(i).items()
    }
    return {f"{prefix}.embed_tokens.weight": (96, 64), f"{prefix}.norm.weight": (64,), **blocks}


_SOUND3N = {
    "attention.attn.k_proj.weight": (32, 32),
    "attention.attn.per_dim_scale": (16,),
    "attention.attn.q_proj.weight": (32, 32),
    "attention.attn.relative_position_embedding.pos_proj.weight": (32, 32),
    "attention.attn.v_proj.weight": (32, 32),
    "attention.post.weight": (32, 32),
    "attention.post_norm.weight": (32,),
    "attention.pre_attn_norm.weight": (32,),
    **{
        f"ffw_layer_{part}.{name}.weight": shape
        for part in ("end", "start")
        for name, shape in (
            ("ffw_layer_1", (128, 32)),
            ("ffw_layer_2", (32, 128)),
            ("post_layer_norm", (32,)),
            ("pre_layer_norm", (32,)),
        )
    },
    "lconv1d.conv_norm.weight": (32,),
    "lconv1d.depthwise_conv1d.weight": (32, 1, 5),
    "lconv1d.linear_end.weight": (32, 32),
    "lconv1d.linear_start.weight": (64, 32),
    "lconv1d.pre_layer_norm.weight": (32,),
    "norm.weight": (32,),
}
_MOBILENET = {
    "conv_stem.bn.weight": (16,),
    "conv_stem.conv.bias": (16,),
    "conv_stem.conv.weight": (16, 3, 3, 3),
    "blocks.0.0.bn1.weight": (32,),
    "blocks.0.0.bn2.weight": (24,),
    "blocks.0.0.conv_exp.weight": (32, 16, 3, 3),
    "blocks.0.0.conv_pwl.weight": (24, 32, 1, 1),
    "blocks.1.0.dw_mid.bn.weight": (48,),
    "blocks.1.0.dw_mid.conv.weight": (48, 1, 5, 5),
    "blocks.1.0.dw_start.bn.weight": (24,),
    "blocks.1.0.dw_start.conv.weight": (24, 1, 3, 3),
    "blocks.1.0.layer_scale.gamma": (32,),
    "blocks.1.0.pw_exp.bn.weight": (48,),
    "blocks.1.0.pw_exp.conv.weight": (48, 24, 1, 1),
    "blocks.1.0.pw_proj.bn.weight": (32,),
    "blocks.1.0.pw_proj.conv.weight": (32, 48, 1, 1),
    "blocks.2.1.attn.key.down_conv.weight": (32, 1, 3, 3),
    "blocks.2.1.attn.key.norm.weight": (32,),
    "blocks.2.1.attn.key.proj.weight": (16, 32, 1, 1),
    "blocks.2.1.attn.output.proj.weight": (32, 64, 1, 1),
    "blocks.2.1.attn.query.proj.weight": (64, 32, 1, 1),
    "blocks.2.1.attn.value.down_conv.weight": (32, 1, 3, 3),
    "blocks.2.1.attn.value.norm.weight": (32,),
    "blocks.2.1.attn.value.proj.weight": (16, 32, 1, 1),
    "blocks.2.1.layer_scale.gamma": (32,),
    "blocks.2.1.norm.weight": (32,),
    "msfa.ffn.pw_exp.bn.weight": (64,),
    "msfa.ffn.pw_exp.conv.weight": (64, 64, 1, 1),
    "msfa.ffn.pw_proj.bn.weight": (48,),
    "msfa.ffn.pw_proj.conv.weight": (48, 64, 1, 1),
    "msfa.norm.weight": (48,),
}
# llama.cpp's converter has no name for the norms of the convolutions over sound, which published files have.
_GEMMA3N_SEES = Case(
    "gemma3n-vision-audio",
    {
        "architectures": ["Gemma3nForConditionalGeneration"],
        "audio_config": {
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 2,
            "hidden_size": 32,
            "input_feat_size": 16,
            "model_type": "gemma3n_audio",
            "sscp_conv_channel_size": [16, 8],
        },
        "boi_token_id": 90,
        "eoi_token_id": 91,
        "model_type": "gemma3n",
        "text_config": {**_GEMMA3N, "vocab_size_per_layer_input": 80},
        "torch_dtype": "bfloat16",
        "vision_config": {
            "architecture": "mobilenetv5_300m_enc",
            "hidden_size": 48,
            "model_type": "gemma3n_vision",
        },
    },
    {
        **{f"model.vision_tower.timm_model.{name}": shape for name, shape in _MOBILENET.items()},
        **{
            f"model.audio_tower.conformer.{i}.{name}": shape
            for i in range(2)
            for name, shape in _SOUND3N.items()
        },
        "model.audio_tower.subsample_conv_projection.conv_0.conv.weight": (16, 1, 3, 3),
        "model.audio_tower.subsample_conv_projection.conv_1.conv.weight": (8, 16, 3, 3),
        "model.audio_tower.subsample_conv_projection.input_proj_linear.weight": (32, 32),
        **{
            f"model.embed_{kind}.{name}.weight": shape
            for kind, width in (("audio", 32), ("vision", 48))
            for name, shape in (
                ("embedding", (8, width)),
                ("embedding_projection", (64, width)),
                ("hard_embedding_norm", (width,)),
                ("soft_embedding_norm", (width,)),
            )
        },
    },
    {
        "preprocessor_config.json": {
            "image_seq_length": 256,
            "size": {"height": 768, "width": 768},
        }
    },
    mmproj=True,
    text=False,
)


CASES = (
    _GEMMA3N_SEES,
    Case(
        "gemma3n-text",
        {**_GEMMA3N, "architectures": ["Gemma3nForCausalLM"]},
        _gemma3n("model", 96, 96),
        {"tokenizer.json": _TOKENIZER},
    ),
    Case(
        "gemma3n-conditional",
        {
            "architectures": ["Gemma3nForConditionalGeneration"],
            "audio_config": {"model_type": "gemma3n_audio"},
            "boi_token_id": 90,
            "eoi_token_id": 91,
            "model_type": "gemma3n",
            "text_config": {**_GEMMA3N, "vocab_size_per_layer_input": 80},
            "torch_dtype": "bfloat16",
            "vision_config": {"model_type": "gemma3n_vision", "architecture": "mobilenetv5_300m_enc"},
        },
        {
            **_gemma3n("model.language_model", 96, 80),
            "model.embed_audio.embedding.weight": (8, 64),
            "model.embed_vision.embedding.weight": (8, 64),
            "model.vision_tower.timm_model.conv_stem.bn.weight": (64,),
        },
        {"tokenizer.json": _TOKENIZER},
    ),
    Case(
        "embeddinggemma",
        _EMBEDDING,
        files={
            "modules.json": _MODULES,
            "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True},
            "tokenizer.json": _TOKENIZER,
        },
    ),
    Case(
        "gemma4-unified",
        {
            "architectures": ["Gemma4UnifiedForConditionalGeneration"],
            "audio_config": {"audio_embed_dim": 640, "model_type": "gemma4_unified_audio"},
            "dtype": "bfloat16",
            "model_type": "gemma4_unified",
            "text_config": {**_GEMMA4, "model_type": "gemma4_unified_text"},
            "tie_word_embeddings": True,
            "vision_config": {
                "mm_embed_dim": 48,
                "mm_posemb_size": 96,
                "model_patch_size": 12,
                "model_type": "gemma4_unified_vision",
                "num_soft_tokens": 280,
                "output_proj_dims": 48,
                "patch_size": 4,
                "pooling_kernel_size": 3,
            },
        },
        {
            **_gemma4("model.language_model"),
            "model.embed_audio.embedding_projection.weight": (64, 640),
            "model.embed_vision.embedding_projection.weight": (64, 48),
            **{
                f"model.vision_embedder.{name}.{part}": shape if part == "weight" else shape[:1]
                for name, shape in {
                    "patch_dense": (48, 432),
                    "patch_ln1": (432,),
                    "patch_ln2": (48,),
                    "pos_norm": (48,),
                }.items()
                for part in ("weight", "bias")
            },
            "model.vision_embedder.pos_embedding": (96, 2, 48),
        },
        {
            "processor_config.json": {"image_processor": {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}},
            "tokenizer.json": _TOKENIZER,
            "generation_config.json": {
                "bos_token_id": 2,
                "eos_token_id": [1, 50],
                "suppress_tokens": [70, 71],
            },
        },
        mmproj=True,
    ),
    Case(
        "gemma4-assistant",
        {**_ASSISTANT, "text_config": _ASSISTANT_TEXT},
        files={"tokenizer.json": _TOKENIZER},
    ),
    Case(
        "gemma4-unified-assistant",
        {
            **_ASSISTANT,
            "architectures": ["Gemma4UnifiedAssistantForCausalLM"],
            "model_type": "gemma4_unified_assistant",
            "text_config": {**_ASSISTANT_TEXT, "model_type": "gemma4_unified_text"},
            "use_ordered_embeddings": True,
        },
        files={"tokenizer.json": _TOKENIZER},
        dtypes={"masked_embedding.token_ordering": "I64"},
    ),
)
