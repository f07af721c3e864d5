"""Models of IBM: Granite with experts, with sliding windows, and with adapters inside."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers

_BASE: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.1,
    "attention_multiplier": 0.015625,
    "bos_token_id": 0,
    "embedding_multiplier": 12.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "logits_scaling": 6.0,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
_MOE: dict[str, Any] = {
    **_BASE,
    "architectures": ["GraniteMoeForCausalLM"],
    "model_type": "granitemoe",
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
_ATTENTION = {
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.v_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
}
_TOP = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,)}
_EXPERTS = {
    "block_sparse_moe.input_linear.weight": (4, 128, 64),
    "block_sparse_moe.output_linear.weight": (4, 64, 64),
    "block_sparse_moe.router.layer.weight": (4, 64),
}
_SHARED = {"shared_mlp.input_linear.weight": (64, 64), "shared_mlp.output_linear.weight": (64, 32)}
_SWA: dict[str, Any] = {
    **_BASE,
    "architectures": ["GraniteSWAForCausalLM"],
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"],
    "mlp_bias": False,
    "model_type": "granite_swa",
    "num_hidden_layers": 4,
    "sliding_window": 128,
}
_SINKS = {**_ATTENTION, "self_attn.sinks": (4,)}
_DENSE = {
    "mlp.gate_proj.weight": (64, 64),
    "mlp.up_proj.weight": (64, 64),
    "mlp.down_proj.weight": (64, 64),
}
_LORA = {
    "self_attn.qkv_proj.base_layer.weight": (128, 64),
    **{f"self_attn.qkv_proj.lora_A_slices.{i}": (3, 1, 32, 64) for i in range(3)},
    "self_attn.qkv_proj.lora_B_slices.0": (3, 1, 64, 32),
    "self_attn.qkv_proj.lora_B_slices.1": (3, 1, 32, 32),
    "self_attn.qkv_proj.lora_B_slices.2": (3, 1, 32, 32),
    "self_attn.o_proj.base_layer.weight": (64, 64),
    "self_attn.o_proj.lora_A": (3, 1, 32, 64),
    "self_attn.o_proj.lora_B": (3, 1, 64, 32),
    "shared_mlp.input_linear.base_layer.weight": (128, 64),
    **{f"shared_mlp.input_linear.lora_A_slices.{i}": (3, 1, 32, 64) for i in range(2)},
    **{f"shared_mlp.input_linear.lora_B_slices.{i}": (3, 1, 64, 32) for i in range(2)},
    "shared_mlp.output_linear.base_layer.weight": (64, 64),
    "shared_mlp.output_linear.lora_A": (3, 1, 32, 64),
    "shared_mlp.output_linear.lora_B": (3, 1, 64, 32),
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
}

CASES = (
    Case("granitemoe", _MOE, {**_TOP, **layers(2, {**_ATTENTION, **_EXPERTS})}),
    Case(
        "granitemoeshared",
        {
            **_MOE,
            "architectures": ["GraniteMoeSharedForCausalLM"],
            "model_type": "granitemoeshared",
            "shared_intermediate_size": 32,
            "tie_word_embeddings": False,
        },
        {**_TOP, "lm_head.weight": (96, 64), **layers(2, {**_ATTENTION, **_EXPERTS, **_SHARED})},
    ),
    Case("granite-swa", _SWA, {**_TOP, **layers(4, {**_SINKS, **_DENSE})}),
    Case(
        "granite-swa-nope",
        {
            **{k: v for k, v in _SWA.items() if k != "layer_types"},
            "no_rope_layers": [0, 1, 1, 1],
            "tie_word_embeddings": False,
        },
        {**_TOP, "lm_head.weight": (96, 64), **layers(4, {**_SINKS, **_DENSE})},
    ),
    Case(
        "granitemoe-swa",
        {
            **_SWA,
            "architectures": ["GraniteMoeSWAForCausalLM"],
            "model_type": "granitemoe_swa",
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "shared_intermediate_size": 32,
        },
        {**_TOP, **layers(4, {**_SINKS, **_EXPERTS, **_SHARED})},
    ),
    Case(
        "granitemoe-swa-fused",
        {
            **_SWA,
            "architectures": ["GraniteMoeSWAForCausalLM"],
            "model_type": "granitemoe_swa",
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "shared_intermediate_size": 0,
        },
    ),
    Case(
        "granite-switch",
        {
            **_BASE,
            "adapter_names": ["a", "b", "c"],
            "adapter_substitute_token_ids": [10, 11, 12],
            "adapter_token_ids": [90, 91, 92],
            "architectures": ["GraniteSwitchForCausalLM"],
            "control_token_gain": 15.0,
            "max_lora_rank": 32,
            "model_type": "graniteswitch",
            "num_adapters": 3,
            "num_experts_per_tok": 0,
            "num_hidden_layers": 3,
            "num_local_experts": 0,
            "shared_intermediate_size": 64,
        },
        {**_TOP, **layers(2, _LORA)},
    ),
)
