"""Models of LG AI Research: EXAONE 3 and the text part of EXAONE 4.5."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers

_EXAONE: dict[str, Any] = {
    "activation_function": "silu",
    "architectures": ["ExaoneForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embed_dropout": 0.0,
    "eos_token_id": 50,
    "head_dim": 16,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 256,
    "model_type": "exaone3",  # not "exaone", of which the newest transformers drops a key that llama.cpp reads
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_layers": 2,
    "pad_token_id": 0,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    },
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 96,
}
_LAYER = {
    "attn.attention.k_proj.weight": (32, 64),
    "attn.attention.out_proj.weight": (64, 64),
    "attn.attention.q_proj.weight": (64, 64),
    "attn.attention.v_proj.weight": (32, 64),
    "ln_1.weight": (64,),
    "ln_2.weight": (64,),
    "mlp.c_fc_0.weight": (96, 64),
    "mlp.c_fc_1.weight": (96, 64),
    "mlp.c_proj.weight": (64, 96),
}
_TOP = {"transformer.ln_f.weight": (64,), "transformer.wte.weight": (96, 64)}
_TEXT45: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 53,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "max_position_embeddings": 256,
    "model_type": "exaone4_5_text",
    "mtp_share_layers": False,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {
        "factor": 16.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
        "rope_theta": 1000000,
        "rope_type": "llama3",
    },
    "sliding_window": 64,
    "sliding_window_pattern": "LLLG",
    "tie_word_embeddings": False,
    "vocab_size": 96,
}
_LAYER45 = {
    "mlp.down_proj.weight": (64, 96),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "post_attention_layernorm.weight": (64,),
    "post_feedforward_layernorm.weight": (64,),
    "self_attn.k_norm.weight": (16,),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "self_attn.q_norm.weight": (16,),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.v_proj.weight": (32, 64),
}
_MTP = {
    "mtp.fc.weight": (64, 128),
    "mtp.norm.weight": (64,),
    "mtp.pre_fc_norm_embedding.weight": (64,),
    "mtp.pre_fc_norm_hidden.weight": (64,),
    **layers(1, _LAYER45, "mtp.layers"),
}
_45: dict[str, Any] = {
    "architectures": ["Exaone4_5_ForConditionalGeneration"],
    "dtype": "bfloat16",
    "image_token_id": 67,
    "model_type": "exaone4_5",
    "text_config": _TEXT45,
    "tie_word_embeddings": False,
    "vision_config": {"depth": 1, "hidden_size": 32, "model_type": "exaone4_5_vision"},
}


def _text45(count: int) -> dict[str, tuple[int, ...]]:
    return {
        "lm_head.weight": (96, 64),
        "model.language_model.embed_tokens.weight": (96, 64),
        "model.language_model.norm.weight": (64,),
        "model.visual.blocks.0.norm1.weight": (32,),
        **layers(count, _LAYER45, "model.language_model.layers"),
    }


CASES = (
    Case("exaone-tied", _EXAONE, {**_TOP, **layers(2, _LAYER, "transformer.h")}),
    Case(
        "exaone-plain",
        {
            **{
                k: v
                for k, v in _EXAONE.items()
                if k not in ("head_dim", "rope_scaling", "num_key_value_heads")
            },
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "tie_word_embeddings": False,
        },
        {
            **_TOP,
            "lm_head.weight": (96, 64),
            **layers(
                2,
                {
                    **_LAYER,
                    "attn.attention.k_proj.weight": (64, 64),
                    "attn.attention.v_proj.weight": (64, 64),
                },
                "transformer.h",
            ),
        },
    ),
    Case("exaone4-5", _45, {**_text45(4), **_MTP}),
    Case(
        "exaone4-5-no-mtp",
        {**_45, "text_config": {**_TEXT45, "num_nextn_predict_layers": 0}},
        _text45(4),
    ),
)
