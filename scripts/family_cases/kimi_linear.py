"""Kimi-Linear: delta attention and multi-head latent attention."""

from __future__ import annotations

from family_cases import Case

_KIMI = {
    "architectures": ["KimiLinearForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "head_dim": 72,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "linear_attn_config": {
        "full_attn_layers": [2],
        "head_dim": 16,
        "kda_layers": [1, 3],
        "num_heads": 4,
        "short_conv_kernel_size": 4,
    },
    "mla_use_nope": True,
    "model_max_length": 256,
    "model_type": "kimi_linear_published",
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "num_attention_heads": 4,
    "num_expert_group": 1,
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 0,
    "num_shared_experts": 1,
    "pad_token_id": 3,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 2.446,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_grouped_topk": True,
    "v_head_dim": 16,
    "vocab_size": 96,
}
_NORMS = {"input_layernorm.weight": (64,), "post_attention_layernorm.weight": (64,)}
_DELTA = {
    **{f"self_attn.{part}_proj.weight": (64, 64) for part in "qkv"},
    **{f"self_attn.{part}_conv1d.weight": (64, 1, 4) for part in "qkv"},
    "self_attn.A_log": (1, 1, 4, 1),
    "self_attn.dt_bias": (64,),
    "self_attn.b_proj.weight": (4, 64),
    **{f"self_attn.{part}_a_proj.weight": (16, 64) for part in "fg"},
    **{f"self_attn.{part}_b_proj.weight": (64, 16) for part in "fg"},
    "self_attn.o_norm.weight": (16,),
    "self_attn.o_proj.weight": (64, 64),
}
_LATENT = {
    "self_attn.q_proj.weight": (96, 64),
    "self_attn.kv_a_proj_with_mqa.weight": (40, 64),
    "self_attn.kv_a_layernorm.weight": (32,),
    "self_attn.kv_b_proj.weight": (128, 32),
    "self_attn.o_proj.weight": (64, 64),
}
_DENSE = {
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96),
}
_EXPERTS = {
    "gate.weight": (4, 64),
    "gate.e_score_correction_bias": (4,),
    **{f"experts.{i}.w1.weight": (32, 64) for i in range(4)},
    **{f"experts.{i}.w2.weight": (64, 32) for i in range(4)},
    **{f"experts.{i}.w3.weight": (32, 64) for i in range(4)},
    "shared_experts.gate_proj.weight": (32, 64),
    "shared_experts.up_proj.weight": (32, 64),
    "shared_experts.down_proj.weight": (64, 32),
}
_MOE = {f"block_sparse_moe.{name}": shape for name, shape in _EXPERTS.items()}
_LAYERS = ({**_DELTA, **_DENSE}, {**_LATENT, **_MOE}, {**_DELTA, **_MOE})
_TENSORS = {
    "model.embed_tokens.weight": (96, 64),
    "model.norm.weight": (64,),
    "lm_head.weight": (96, 64),
    **{
        f"model.layers.{index}.{name}": shape
        for index, layer in enumerate(_LAYERS)
        for name, shape in {**_NORMS, **layer}.items()
    },
}

CASES = (Case("kimi-linear-as-published", _KIMI, _TENSORS, dtypes={"model.layers.0.self_attn.A_log": "F32"}),)
