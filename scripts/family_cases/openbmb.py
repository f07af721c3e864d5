"""Models of OpenBMB: MiniCPM."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers
from family_cases.qwen import QWEN35, QWEN35_TENSORS

_LAYER = {
    "input_layernorm.weight": (64,),
    "mlp.down_proj.weight": (64, 96),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "post_attention_layernorm.weight": (64,),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.v_proj.weight": (32, 64),
}
_TOP = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,)}
_MINICPM: dict[str, Any] = {
    "architectures": ["MiniCPMForCausalLM"],
    "bos_token_id": 1,
    "dim_model_base": 32,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.1,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "model_type": "minicpm",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "scale_depth": 1.4,
    "scale_emb": 12,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
_LONG = {
    "long_factor": [1.0 + 0.5 * i for i in range(8)],
    "original_max_position_embeddings": 128,
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
}
_MINICPM3: dict[str, Any] = {
    **_MINICPM,
    "architectures": ["MiniCPM3ForCausalLM"],
    "kv_lora_rank": 32,
    "model_type": "minicpm3",
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "rope_scaling": {**_LONG, "type": "longrope"},
    "v_head_dim": 16,
}
_MLA = {
    **{k: v for k, v in _LAYER.items() if "self_attn" not in k},
    "self_attn.kv_a_layernorm.weight": (32,),
    "self_attn.kv_a_proj_with_mqa.weight": (48, 64),
    "self_attn.kv_b_proj.weight": (128, 32),
    "self_attn.o_proj.weight": (64, 64),
    "self_attn.q_a_layernorm.weight": (48,),
    "self_attn.q_a_proj.weight": (48, 64),
    "self_attn.q_b_proj.weight": (128, 48),
}

CASES = (
    Case("minicpm-tied", _MINICPM, {**_TOP, **layers(2, _LAYER)}),
    Case(
        "minicpm-longrope",
        {**_MINICPM, "rope_scaling": _LONG, "rope_theta": 10000.0, "tie_word_embeddings": False},
        {**_TOP, "lm_head.weight": (96, 64), **layers(2, _LAYER)},
    ),
    Case("minicpm3", _MINICPM3, {**_TOP, **layers(2, _MLA)}),
    Case(
        "minicpm-v-4-6",
        {
            **QWEN35,
            "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
            "insert_layer_id": 6,
            "model_type": "minicpmv4_6",
            "vision_config": {"hidden_size": 32, "model_type": "minicpmv4_6_vision", "num_hidden_layers": 1},
        },
        {
            **{k: v for k, v in QWEN35_TENSORS.items() if not k.startswith(("mtp", "model.visual"))},
            "model.merger.mlp.0.linear_1.weight": (64, 128),
            "model.vision_tower.post_layernorm.weight": (32,),
        },
        dtypes={
            "model.language_model.layers.0.linear_attn.A_log": "F32",
            "model.language_model.layers.0.linear_attn.norm.weight": "F32",
        },
    ),
)
