"""Models that draft several tokens at once for another model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from family_cases import TARGET, Case, Shapes, layers

_TARGET = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "model_type": "qwen3",
    "num_hidden_layers": 8,
    "tie_word_embeddings": False,
    "vocab_size": 96,
}
_MROPE = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "text_config": {
        **_TARGET,
        "rope_parameters": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
    },
}
# As z-lab/Qwen3-8B-DFlash-b16 has it.
_DFLASH = {
    "architectures": ["DFlashDraftModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "block_size": 16,
    "dflash_config": {"mask_token_id": 95, "target_layer_ids": [1, 3, 6]},
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "layer_types": ["full_attention", "full_attention"],
    "max_position_embeddings": 256,
    "max_window_layers": 2,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_target_layers": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 96,
}
_LAYER = {
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
    "self_attn.q_proj.weight": (128, 64),
    "self_attn.k_proj.weight": (64, 64),
    "self_attn.v_proj.weight": (64, 64),
    "self_attn.o_proj.weight": (64, 128),
    "self_attn.q_norm.weight": (32,),
    "self_attn.k_norm.weight": (32,),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96),
}
_TOP = {"norm.weight": (64,), "hidden_norm.weight": (64,), "fc.weight": (64, 192)}
_TENSORS = {**_TOP, **layers(2, _LAYER, "layers")}
_CONVOLUTIONS = {
    "attention_conv.base_kernel": (2, 4, 64),
    "attention_conv.kernel_projection.weight": (64, 64),
    "mlp_conv.base_kernel": (2, 4, 64),
    "mlp_conv.kernel_projection.weight": (64, 64),
}
_SINKS = layers(2, {"self_attn.sinks": (4,)}, "layers")
_MARKOV = {"markov_head.markov_w1.weight": (96, 16), "markov_head.markov_w2.weight": (96, 16)}
_CONFIDENCE = {"confidence_head.proj.weight": (1, 80), "confidence_head.proj.bias": (1,)}


# As the drafts of EAGLE-3 for Llama 3.1 and gpt-oss have it.
_OWN = {"draft_vocab_size": 48}
_TABLES = {"d2t": (48,), "t2d": (96,)}
_INTEGERS = {"d2t": "I64", "t2d": "BOOL"}
_EAGLE = {
    "architectures": ["LlamaForCausalLMEagle3"],
    **_OWN,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 96,
}
_EAGLE_TENSORS = {"fc.weight": (64, 144), "norm.weight": (64,), "lm_head.weight": (48, 64), **_TABLES}
_EAGLE_LAYER = {
    "hidden_norm.weight": (64,),
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
    "self_attn.q_proj.weight": (64, 128),
    "self_attn.k_proj.weight": (32, 128),
    "self_attn.v_proj.weight": (32, 128),
    "self_attn.o_proj.weight": (64, 64),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96),
}


def _draft(
    name: str,
    config: Mapping[str, Any],
    tensors: Shapes,
    target: Mapping[str, Any] = _TARGET,
    dtypes: Mapping[str, str] | None = None,
) -> Case:
    return Case(
        name, config, tensors, {f"{TARGET}/config.json": target}, dtypes=dtypes or {}, raw_config=True
    )


_NO_CONFIG = {key: value for key, value in _DFLASH.items() if key != "dflash_config"}
CASES = (
    _draft("dflash", _DFLASH, _TENSORS),
    _draft(
        "dflash-swa",
        {
            **_DFLASH,
            "is_causal": False,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 32,
            "use_sliding_window": True,
            "dflash_config": {
                "block_size": 8,
                "final_logit_softcapping": 30.0,
                "input_embedding_scale": 8.0,
                "mask_token_id": 95,
                "output_multiplier": 0.5,
                "target_layer_ids": [1, 3, 6],
            },
        },
        {**_TENSORS, "embed_tokens.weight": (96, 64), "lm_head.weight": (96, 64)},
        _MROPE,
    ),
    _draft(
        "dflash-2",
        {
            **_DFLASH,
            "architectures": ["DFlash2DraftModel"],
            "rope_is_neox_style": False,
            "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_type": "default"},
            "dflash_config": {
                "attention_value_scale": 0.7,
                "causal": False,
                "conv_group_size": 8,
                "conv_kernel_size": 4,
                "mask_token_id": 95,
                "selector_rank": 16,
                "selector_top_k": 4,
                "swa_window_size": 64,
                "target_layer_ids": [1, 3, 6],
                "use_swa": True,
            },
        },
        {
            **_TENSORS,
            **_SINKS,
            **layers(2, _CONVOLUTIONS, "layers"),
            "candidate_selector.predecessor_codebook": (96, 16),
            "candidate_selector.successor_codebook": (96, 16),
            "candidate_selector.hidden_projection.weight": (16, 64),
        },
    ),
    _draft(
        "dspark",
        {
            **_NO_CONFIG,
            "architectures": ["Qwen3DSparkModel"],
            "mask_token_id": 95,
            "markov_head_type": "vanilla",
            "target_layer_ids": [1, 3, 6],
        },
        {**_TENSORS, **_MARKOV, **_CONFIDENCE, "lm_head.weight": (96, 64)},
    ),
    _draft(
        "dspark-speculator",
        {
            "architectures": ["DSparkSpeculator"],
            "aux_hidden_state_layer_ids": [2, 4, 7],
            "draft_vocab_size": 96,
            "mask_token_id": 95,
            "transformer_layer_config": {
                key: value for key, value in _NO_CONFIG.items() if key != "architectures"
            },
        },
        {**_TENSORS, **_MARKOV},
    ),
    _draft(
        "dspark-own-vocabulary",
        {
            **_NO_CONFIG,
            "architectures": ["DSparkDraftModel"],
            **_OWN,
            "mask_token_id": 95,
            "target_layer_ids": [1, 3],
        },
        {
            **_TENSORS,
            "fc.weight": (64, 128),
            "markov_head.markov_w1.weight": (96, 16),
            "markov_head.markov_w2.weight": (48, 16),
            "lm_head.weight": (48, 64),
            **_TABLES,
        },
        dtypes=_INTEGERS,
    ),
    _draft(
        "eagle-3",
        {**_EAGLE, "eagle_aux_hidden_state_layer_ids": [1, 3, 5], "target_hidden_size": 48},
        {
            **_EAGLE_TENSORS,
            **{f"midlayer.{name}": shape for name, shape in _EAGLE_LAYER.items()},
        },
        dtypes=_INTEGERS,
    ),
    _draft(
        "eagle-3-1",
        {
            **_EAGLE,
            "architectures": ["Eagle3DraftModel"],
            "norm_before_fc": True,
            "norm_before_residual": True,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
        },
        {
            **_EAGLE_TENSORS,
            "fc.weight": (64, 192),
            "input_norm.weight": (192,),
            "embed_tokens.weight": (96, 64),
            **layers(1, _EAGLE_LAYER, "layers"),
        },
        dtypes=_INTEGERS,
    ),
    _draft(
        "gemma-4-dspark",
        {
            "architectures": ["Gemma4DSparkModel"],
            "attention_bias": False,
            "attention_k_eq_v": True,
            "block_size": 8,
            "enable_moe_block": False,
            "final_logit_softcapping": None,
            "global_head_dim": 32,
            "head_dim": 16,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 64,
            "intermediate_size": 96,
            "layer_types": ["full_attention", "full_attention"],
            "markov_head_type": "vanilla",
            "mask_token_id": 95,
            "max_position_embeddings": 256,
            "model_type": "gemma4_text",
            "num_attention_heads": 4,
            "num_global_key_value_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06,
            "rope_parameters": {
                "full_attention": {
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 1000000.0,
                    "rope_type": "proportional",
                }
            },
            "sliding_window": 512,
            "target_layer_ids": [1, 3, 6],
            "tie_word_embeddings": True,
            "vocab_size": 96,
        },
        {
            **_TOP,
            **layers(
                2,
                {name: shape for name, shape in _LAYER.items() if "v_proj" not in name}
                | {
                    "layer_scalar": (1,),
                    "pre_feedforward_layernorm.weight": (64,),
                    "post_feedforward_layernorm.weight": (64,),
                },
                "layers",
            ),
            "embed_tokens.weight": (96, 64),
            **_MARKOV,
            "confidence_proj.weight": (1, 80),
            "confidence_proj.bias": (1,),
        },
        {**_TARGET, "architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4"},
    ),
    _draft(
        "muse-glimmer-assistant",
        {
            "architectures": ["MuseGlimmerAssistantModel"],
            "block_size": 8,
            "head_dim": 32,
            "hidden_act": "silu",
            "hidden_size": 64,
            "intermediate_size": 96,
            "layer_types": ["sliding_attention", "full_attention"],
            "mask_token_id": 95,
            "max_position_embeddings": 256,
            "model_type": "muse_glimmer_assistant",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
            "sliding_window": 32,
            "target_layer_ids": [1, 3, 6],
        },
        {
            "norm.weight": (64,),
            "encoder.fc.weight": (64, 192),
            "encoder.output_norm_enc.weight": (64,),
            **layers(2, _LAYER, "layers"),
        },
    ),
)
