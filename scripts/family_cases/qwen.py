"""Models of the Qwen team."""

from __future__ import annotations

from family_cases import Case, layers
from family_cases.vision import SEES

_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "max_window_layers": 2,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 96,
}

CASES = (Case("qwen3-as-published", _QWEN3),)

_ROPE = {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"}
_QWEN2_MOE = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "max_window_layers": 21,
    "model_type": "qwen2_moe",
    "moe_intermediate_size": 32,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "shared_expert_intermediate_size": 96,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 96,
}
_VISION_2 = {
    "depth": 1,
    "embed_dim": 32,
    "hidden_size": 64,
    "mlp_ratio": 2,
    "num_heads": 2,
    "in_chans": 3,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "spatial_patch_size": 4,
    "temporal_patch_size": 2,
}
_QWEN2_VL = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
    "image_token_id": 5,
    "video_token_id": 6,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vision_config": _VISION_2,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vocab_size": 96,
}
_VISION_25 = {
    "depth": 2,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "in_chans": 3,
    "out_hidden_size": 64,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "spatial_patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
}
_QWEN25_VL = {
    **_QWEN2_VL,
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": False,
    "vision_config": _VISION_25,
}
_VISION_3 = {
    "deepstack_visual_indexes": [0],
    "depth": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "intermediate_size": 48,
    "model_type": "qwen3_vl",
    "num_heads": 2,
    "num_position_embeddings": 16,
    "out_hidden_size": 64,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_QWEN3_TEXT = {
    "attention_bias": False,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 5000000,
    "vocab_size": 96,
}
_QWEN3_VL = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": 5,
    "model_type": "qwen3_vl",
    "text_config": {
        **_QWEN3_TEXT,
        "model_type": "qwen3_vl_text",
        "rope_scaling": _ROPE,
        "tie_word_embeddings": True,
    },
    "tie_word_embeddings": True,
    "video_token_id": 6,
    "vision_config": _VISION_3,
    "vision_end_token_id": 4,
    "vision_start_token_id": 3,
}
_EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
_QWEN3_VL_MOE = {
    **_QWEN3_VL,
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "model_type": "qwen3_vl_moe",
    "text_config": {
        **_QWEN3_TEXT,
        **_EXPERTS,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "model_type": "qwen3_vl_moe_text",
        "rope_scaling": _ROPE,
        "tie_word_embeddings": False,
    },
    "tie_word_embeddings": False,
    "vision_config": {**_VISION_3, "model_type": "qwen3_vl_moe"},
}
_ATTENTION = {
    "input_layernorm.weight": (64,),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.v_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "self_attn.q_norm.weight": (16,),
    "self_attn.k_norm.weight": (16,),
    "post_attention_layernorm.weight": (64,),
}
_PACKED = {
    "mlp.gate.weight": (4, 64),
    "mlp.experts.gate_up_proj": (4, 64, 64),
    "mlp.experts.down_proj": (4, 32, 64),
}
_SINGLE = {
    "mlp.gate.weight": (4, 64),
    **{f"mlp.experts.{i}.{part}_proj.weight": (32, 64) for i in range(4) for part in ("gate", "up")},
    **{f"mlp.experts.{i}.down_proj.weight": (64, 32) for i in range(4)},
}
_QWEN3_OMNI = {
    "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
    "model_type": "qwen3_omni_moe",
    "enable_audio_output": False,
    "thinker_config": {
        "model_type": "qwen3_omni_moe_thinker",
        "text_config": {
            **_QWEN3_VL_MOE["text_config"],
            "model_type": "qwen3_omni_moe_text",
            "shared_expert_intermediate_size": 0,
        },
        "vision_config": _VISION_3,
    },
}
_LINEAR = {
    "full_attention_interval": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
}
_QWEN3_NEXT = {
    "architectures": ["Qwen3NextForCausalLM"],
    **_QWEN3_TEXT,
    **_EXPERTS,
    **_LINEAR,
    "decoder_sparse_step": 1,
    "head_dim": 32,
    "mlp_only_layers": [],
    "model_type": "qwen3_next",
    "partial_rotary_factor": 0.25,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "shared_expert_intermediate_size": 32,
    "tie_word_embeddings": False,
}
_FULL_GATED = {
    **_ATTENTION,
    "self_attn.q_proj.weight": (256, 64),
    "self_attn.k_proj.weight": (64, 64),
    "self_attn.v_proj.weight": (64, 64),
    "self_attn.o_proj.weight": (64, 128),
    "self_attn.q_norm.weight": (32,),
    "self_attn.k_norm.weight": (32,),
}
_LINEAR_CORE = {
    "input_layernorm.weight": (64,),
    "linear_attn.A_log": (4,),
    "linear_attn.conv1d.weight": (128, 1, 4),
    "linear_attn.dt_bias": (4,),
    "linear_attn.norm.weight": (16,),
    "linear_attn.out_proj.weight": (64, 64),
    "post_attention_layernorm.weight": (64,),
}
_LINEAR_NEXT = {
    **_LINEAR_CORE,
    "linear_attn.in_proj_ba.weight": (8, 64),
    "linear_attn.in_proj_qkvz.weight": (192, 64),
}
_LINEAR_35 = {
    **_LINEAR_CORE,
    "linear_attn.in_proj_a.weight": (4, 64),
    "linear_attn.in_proj_b.weight": (4, 64),
    "linear_attn.in_proj_qkv.weight": (128, 64),
    "linear_attn.in_proj_z.weight": (64, 64),
}
_SHARED = {
    "mlp.shared_expert.gate_proj.weight": (32, 64),
    "mlp.shared_expert.up_proj.weight": (32, 64),
    "mlp.shared_expert.down_proj.weight": (64, 32),
    "mlp.shared_expert_gate.weight": (1, 64),
}
_DENSE = {
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96),
}
_FUSED = {
    "mlp.gate.weight": (4, 64),
    "mlp.experts.gate_up_proj": (4, 64, 64),
    "mlp.experts.down_proj": (4, 64, 32),
}


def _mtp(block: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors of one block that predicts a further token."""
    return {
        "mtp.fc.weight": (64, 128),
        "mtp.norm.weight": (64,),
        "mtp.pre_fc_norm_embedding.weight": (64,),
        "mtp.pre_fc_norm_hidden.weight": (64,),
        **{f"mtp.layers.0.{name}": shape for name, shape in block.items()},
    }


def _hybrid(
    linear: dict[str, tuple[int, ...]],
    ffn: dict[str, tuple[int, ...]],
    prefix: str = "model",
    *,
    tied: bool = False,
    mtp: bool = True,
) -> dict[str, tuple[int, ...]]:
    """The tensors of a linear and a full attention layer."""
    head = {} if tied else {"lm_head.weight": (96, 64)}
    return {
        f"{prefix}.embed_tokens.weight": (96, 64),
        f"{prefix}.norm.weight": (64,),
        **head,
        **{f"{prefix}.layers.0.{name}": shape for name, shape in {**linear, **ffn}.items()},
        **{f"{prefix}.layers.1.{name}": shape for name, shape in {**_FULL_GATED, **ffn}.items()},
        **(_mtp({**_FULL_GATED, **ffn}) if mtp else {}),
    }


_ROPE_35 = {
    "mrope_interleaved": True,
    "mrope_section": [2, 1, 1],
    "partial_rotary_factor": 0.25,
    "rope_theta": 10000000,
    "rope_type": "default",
}
_QWEN35_TEXT = {
    **{key: value for key, value in _QWEN3_TEXT.items() if key != "rope_theta"},
    **_LINEAR,
    "attn_output_gate": True,
    "head_dim": 32,
    "mamba_ssm_dtype": "float32",
    "model_type": "qwen3_5_text",
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "rope_parameters": _ROPE_35,
    "tie_word_embeddings": False,
}
_QWEN35 = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "image_token_id": 5,
    "model_type": "qwen3_5",
    "text_config": _QWEN35_TEXT,
    "tie_word_embeddings": False,
    "video_token_id": 6,
    "vision_config": {**_VISION_3, "deepstack_visual_indexes": [], "model_type": "qwen3_5"},
    "vision_end_token_id": 4,
    "vision_start_token_id": 3,
}
_QWEN35_MOE = {
    **_QWEN35,
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe",
    "text_config": {
        **{key: value for key, value in _QWEN35_TEXT.items() if key != "intermediate_size"},
        **_EXPERTS,
        "model_type": "qwen3_5_moe_text",
        "shared_expert_intermediate_size": 32,
    },
}
_FROM_TEXT = {"architectures": ["Qwen3_5ForCausalLM"], **_QWEN35_TEXT}
_A_LOG = {"model.layers.0.linear_attn.A_log": "F32", "model.layers.0.linear_attn.norm.weight": "F32"}


def _text(layer: dict[str, tuple[int, ...]], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """The tensors of two equal layers."""
    return {
        f"{prefix}model.embed_tokens.weight": (96, 64),
        f"{prefix}model.norm.weight": (64,),
        f"{prefix}lm_head.weight": (96, 64),
        **layers(2, layer, f"{prefix}model.layers"),
    }


QWEN35 = _QWEN35
QWEN35_TENSORS = _hybrid(_LINEAR_35, _DENSE, "model.language_model")
"""MiniCPM-V 4.6 has the text model of Qwen 3.5."""

CASES = (
    *CASES,
    Case("qwen2moe-as-published", _QWEN2_MOE),
    Case("qwen2vl-as-published", _QWEN2_VL),
    Case("qwen25vl-as-published", _QWEN25_VL),
    Case("qwen3vl-as-published", _QWEN3_VL),
    Case("qwen3vlmoe-as-published", _QWEN3_VL_MOE, _text({**_ATTENTION, **_PACKED}, "")),
    Case("qwen3vlmoe-single-experts", _QWEN3_VL_MOE, _text({**_ATTENTION, **_SINGLE}, "")),
    Case("qwen3omni-as-published", _QWEN3_OMNI, _text({**_ATTENTION, **_SINGLE}, "thinker.")),
    Case("qwen3next-as-published", _QWEN3_NEXT, _hybrid(_LINEAR_NEXT, {**_SINGLE, **_SHARED})),
    Case(
        "qwen35-as-published",
        _QWEN35,
        _hybrid(_LINEAR_35, _DENSE, "model.language_model"),
        dtypes={k.replace("model.", "model.language_model.", 1): v for k, v in _A_LOG.items()},
    ),
    Case("qwen35-text", _FROM_TEXT, _hybrid(_LINEAR_35, _DENSE), dtypes=_A_LOG),
    Case(
        "qwen35-tied-equal-heads",
        {**_FROM_TEXT, "linear_num_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": None},
        {
            name: (shape[0] - 32 if ".in_proj_q" in name or "conv1d" in name else shape[0], *shape[1:])
            for name, shape in _hybrid(_LINEAR_35, _DENSE, tied=True).items()
        }
        | {
            "model.layers.0.linear_attn.A_log": (2,),
            "model.layers.0.linear_attn.dt_bias": (2,),
            "model.layers.0.linear_attn.in_proj_a.weight": (2, 64),
            "model.layers.0.linear_attn.in_proj_b.weight": (2, 64),
            "model.layers.0.linear_attn.in_proj_z.weight": (32, 64),
            "model.layers.0.linear_attn.out_proj.weight": (64, 32),
        },
    ),
    Case(
        "qwen35moe-as-published",
        _QWEN35_MOE,
        _hybrid(_LINEAR_35, {**_FUSED, **_SHARED}, "model.language_model"),
    ),
    Case(
        "qwen35moe-text-single-experts",
        {**_QWEN35_MOE["text_config"], "architectures": ["Qwen3_5MoeForCausalLM"]},
        _hybrid(_LINEAR_35, {**_SINGLE, **_SHARED}),
    ),
)

_QWEN = {
    "architectures": ["QWenLMHeadModel"],
    "attn_dropout_prob": 0.0,
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "kv_channels": 16,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 256,
    "model_type": "qwen",
    "no_bias": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 256,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "vocab_size": 96,
}
_QWEN_LAYER = {
    "ln_1.weight": (64,),
    "ln_2.weight": (64,),
    "attn.c_attn.weight": (192, 64),
    "attn.c_attn.bias": (192,),
    "attn.c_proj.weight": (64, 64),
    "mlp.w1.weight": (96, 64),
    "mlp.w2.weight": (96, 64),
    "mlp.c_proj.weight": (64, 96),
}
_RND1 = {
    **_QWEN3_TEXT,
    **_EXPERTS,
    "architectures": ["RND1"],
    "decoder_sparse_step": 1,
    "is_causal": False,
    "mask_token_id": 5,
    "mlp_only_layers": [],
    "model_type": "rnd1",
    "tie_word_embeddings": False,
}
_POOLING = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_lasttoken": True},
}
_BARE = {
    "embed_tokens.weight": (96, 64),
    "norm.weight": (64,),
    **layers(2, {**_ATTENTION, **_DENSE}, "layers"),
}

CASES = (
    *CASES,
    Case(
        "qwen1-as-published",
        _QWEN,
        {
            "transformer.wte.weight": (96, 64),
            "transformer.ln_f.weight": (64,),
            "lm_head.weight": (96, 64),
            **layers(2, _QWEN_LAYER, "transformer.h"),
        },
    ),
    Case("rnd1-as-published", _RND1, _text({**_ATTENTION, **_SINGLE})),
    Case(
        "qwen3-embedding",
        {**_QWEN3, "head_dim": 16, "tie_word_embeddings": False},
        _BARE,
        files=_POOLING,
    ),
)

_QWEN4 = {
    "architectures": ["Qwen4ExpForConditionalGeneration"],
    "image_token_id": 5,
    "model_type": "qwen4_exp",
    "text_config": {
        **{
            k: v for k, v in _QWEN35_TEXT.items() if k not in ("intermediate_size", "full_attention_interval")
        },
        **_EXPERTS,
        "eos_token_id": 2,
        "hc_count": 2,
        "hc_lowrank": 16,
        "heads_per_ngram": 2,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
        "indexer_head_dim": 16,
        "indexer_kv_heads": 1,
        "indexer_n_heads": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "model_type": "qwen4_exp_text",
        "ngram_size": 3,
        "ngram_vocab_size_base": 32,
        "make_ngram_vocab_size_divisible_by": 8,
        "output_gate_type": "sigmoid",
        "ple_conv_kernel_size": 4,
        "ple_embed_dim": 64,
        "ple_layer_ids": [],
        "shared_expert_intermediate_size": 32,
        "split_ngram_parts": 2,
    },
    "tie_word_embeddings": False,
    "video_token_id": 6,
    "vision_config": {**_VISION_3, "deepstack_visual_indexes": [], "model_type": "qwen4_exp"},
    "vision_end_token_id": 4,
    "vision_start_token_id": 3,
}
_QWEN4_PLE = {**_QWEN4, "text_config": {**_QWEN4["text_config"], "ple_layer_ids": [1]}}
CASES = (
    *CASES,
    Case("qwen4exp", _QWEN4, files=SEES, mmproj=True),
    Case(
        "qwen4exp-ngrams",
        _QWEN4_PLE,
        dtypes={
            f"model.language_model.layers.0.ple.ple_embedding.{name}": "I64"
            for name in ("layer_multipliers", "ngram_heads_offsets", "ngram_heads_vocab_sizes")
        },
    ),
)

_WORDS = ["yes", "no", "|", *(f"w{i}" for i in range(93))]
_TOKENIZER = {
    "tokenizer.json": {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: 95 - index for index, word in enumerate(_WORDS)},
            "unk_token": "w0",
        },
    },
    "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "README.md": "# Qwen3-Reranker-0.6B\n\nA model card.\n",
}
CASES = (
    *CASES,
    Case("qwen3-reranker-tied", _QWEN3, files=_TOKENIZER),
    Case("qwen3-reranker-untied", {**_QWEN3, "tie_word_embeddings": False}, files=_TOKENIZER),
)
