"""Models of MiniMax."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes, layers
from family_cases.deepseek import at, ends, gated, under


def mixtral(prefix: str, count: int, width: int, size: int) -> Shapes:
    """The matrices of experts with Mixtral's names: w1 is the gate, w2 goes down, w3 goes up."""
    return {
        f"{prefix}.{index}.{name}.weight": shape
        for index in range(count)
        for name, shape in {"w1": (size, width), "w2": (width, size), "w3": (size, width)}.items()
    }


_M2: dict[str, Any] = {
    "architectures": ["MiniMaxM2ForCausalLM"],
    "attention_dropout": 0.0,
    "attn_type_list": [1, 1],
    "auto_map": {"AutoConfig": "configuration_minimax_m2.MiniMaxM2Config"},
    "bos_token_id": None,
    "eos_token_id": None,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_beta": 1.0,
    "max_position_embeddings": 196608,
    "mlp_intermediate_size": 96,
    "model_type": "minimax_m2",
    "mtp_transformer_layers": 1,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_mtp_modules": 3,
    "output_router_logits": False,
    "qk_norm_type": "per_layer",
    "rms_norm_eps": 1e-06,
    "rope_theta": 5000000,
    "rotary_dim": 16,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "shared_moe_mode": "sigmoid",
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_mtp": True,
    "use_qk_norm": True,
    "use_routing_bias": True,
    "vocab_size": 96,
}
_M2_LAYER = {
    "block_sparse_moe.e_score_correction_bias": (4,),
    "block_sparse_moe.gate.weight": (4, 64),
    **mixtral("block_sparse_moe.experts", 4, 64, 32),
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
    "self_attn.k_norm.weight": (64,),
    "self_attn.k_proj.weight": (64, 64),
    "self_attn.o_proj.weight": (64, 128),
    "self_attn.q_norm.weight": (128,),
    "self_attn.q_proj.weight": (128, 64),
    "self_attn.v_proj.weight": (64, 64),
}
_M3_TEXT: dict[str, Any] = {
    **{k: v for k, v in _M2.items() if k not in ("auto_map", "architectures", "mlp_intermediate_size")},
    "dense_intermediate_size": 96,
    "model_type": "minimax_m3_vl_text",
    "moe_layer_freq": [0, 1],
    "n_shared_experts": 1,
    "qk_norm_type": "per_head",
    "routed_scaling_factor": 2.0,
    "shared_intermediate_size": 32,
    "sparse_attention_config": {
        "sparse_block_size": 16,
        "sparse_index_dim": 16,
        "sparse_init_block": 1,
        "sparse_local_block": 1,
        "sparse_num_index_heads": 2,
        "sparse_topk_blocks": 4,
        "use_sparse_attention": True,
    },
    "swiglu_limit": 7.0,
    "use_gemma_norm": True,
}
_M3_DENSE = {
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
    "self_attn.k_norm.weight": (32,),
    "self_attn.k_proj.weight": (64, 64),
    "self_attn.o_proj.weight": (64, 128),
    "self_attn.q_norm.weight": (32,),
    "self_attn.q_proj.weight": (128, 64),
    "self_attn.v_proj.weight": (64, 64),
}
_M3_SPARSE = {
    **_M3_DENSE,
    "block_sparse_moe.e_score_correction_bias": (4,),
    "block_sparse_moe.gate.weight": (4, 64),
    **mixtral("block_sparse_moe.experts", 4, 64, 32),
    **gated("block_sparse_moe.shared_experts", 64, 32),
    "self_attn.index_k_norm.weight": (16,),
    "self_attn.index_k_proj.weight": (16, 64),
    "self_attn.index_q_norm.weight": (16,),
    "self_attn.index_q_proj.weight": (32, 64),
}
_M3_LAYERS = {**ends(), **at(0, {**_M3_DENSE, **gated("mlp", 64, 96)}), **at(1, _M3_SPARSE)}
_M3 = {
    "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_minimax_m3_vl.MiniMaxM3VLConfig"},
    "model_type": "minimax_m3_vl",
    "text_config": _M3_TEXT,
    "vision_config": {"hidden_size": 32, "num_hidden_layers": 1},
}
_TEXT01: dict[str, Any] = {
    "architectures": ["MiniMaxText01ForCausalLM"],
    "attention_dropout": 0.0,
    "attn_type_list": [0, 1],
    "auto_map": {"AutoConfig": "configuration_minimax_text_01.MiniMaxText01Config"},
    "bos_token_id": None,
    "eos_token_id": None,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "layernorm_full_attention_alpha": 3.5565588200778455,
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_alpha": 3.5565588200778455,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_alpha": 3.5565588200778455,
    "layernorm_mlp_beta": 1.0,
    "max_position_embeddings": 10240000,
    "model_type": "minimax_text_01",
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "output_router_logits": False,
    "postnorm": True,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000000,
    "rotary_dim": 16,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "shared_intermediate_size": 0,
    "shared_moe_mode": "sigmoid",
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 96,
}
_COMMON = {
    "block_sparse_moe.gate.weight": (4, 64),
    **mixtral("block_sparse_moe.experts", 4, 64, 32),
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
}
_TEXT01_LAYERS = {
    **ends(),
    **at(
        0,
        {
            **_COMMON,
            "self_attn.norm.weight": (128,),
            "self_attn.out_proj.weight": (64, 128),
            "self_attn.output_gate.weight": (128, 64),
            "self_attn.qkv_proj.weight": (384, 64),
        },
    ),
    **at(
        1,
        {
            **_COMMON,
            "self_attn.k_proj.weight": (64, 64),
            "self_attn.o_proj.weight": (64, 128),
            "self_attn.q_proj.weight": (128, 64),
            "self_attn.v_proj.weight": (64, 64),
        },
    ),
}

CASES = (
    Case("minimax-m2", _M2, {**ends(), **layers(2, _M2_LAYER)}),
    Case(
        "minimax-m3",
        _M3,
        {**under("language_model.", _M3_LAYERS), "vision_tower.vision_model.pre_layrnorm.weight": (32,)},
        raw_config=True,
    ),
    Case(
        "minimax-m3-text",
        {**_M3_TEXT, "architectures": ["MiniMaxM3SparseForCausalLM"]},
        _M3_LAYERS,
        raw_config=True,
    ),
    Case("minimax-text-01", _TEXT01, _TEXT01_LAYERS),
    Case(
        "minimax-m1",
        {**_TEXT01, "architectures": ["MiniMaxM1ForCausalLM"], "model_type": "minimax_m1"},
        _TEXT01_LAYERS,
    ),
)
