"""Models of vendors with one or two classes each."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers

_BASE: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
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
_ATTENTION = {k: v for k, v in _LAYER.items() if not k.startswith("mlp")}
_TOP = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,), "lm_head.weight": (96, 64)}
_PHIMOE: dict[str, Any] = {
    **_BASE,
    "architectures": ["PhiMoEForCausalLM"],
    "attention_bias": True,
    "input_jitter_noise": 0.01,
    "lm_head_bias": True,
    "model_type": "phimoe",
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "original_max_position_embeddings": 128,
    "output_router_logits": False,
    "rope_scaling": {
        "long_factor": [1.0 + i for i in range(8)],
        "long_mscale": 1.243163121016122,
        "original_max_position_embeddings": 128,
        "short_factor": [1.0 + 0.1 * i for i in range(8)],
        "short_mscale": 1.243163121016122,
        "type": "longrope",
    },
    "router_jitter_noise": 0.01,
    "sliding_window": 131072,
}
_PHIMOE_TENSORS = {
    **_TOP,
    "lm_head.bias": (96,),
    "model.norm.bias": (64,),
    **layers(
        2,
        {
            **_ATTENTION,
            "block_sparse_moe.gate.weight": (4, 64),
            "input_layernorm.bias": (64,),
            "post_attention_layernorm.bias": (64,),
            **{f"self_attn.{p}_proj.bias": (64 if p in "qo" else 32,) for p in "qkvo"},
            **{
                f"block_sparse_moe.experts.{i}.{w}.weight": ((64, 96) if w == "w2" else (96, 64))
                for i in range(4)
                for w in ("w1", "w2", "w3")
            },
        },
    ),
}
_COHERE_MOE: dict[str, Any] = {
    **{k: v for k, v in _BASE.items() if k not in ("rms_norm_eps",)},
    "architectures": ["Cohere2MoeForCausalLM"],
    "expert_selection_fn": "sigmoid",
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "intermediate_size": 32,
    "layer_norm_eps": 1e-05,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "logit_scale": 0.25,
    "model_type": "cohere2_moe",
    "norm_topk_prob": True,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_shared_experts": 2,
    "prefix_dense_intermediate_size": 96,
    "rope_theta": 50000,
    "shared_expert_combination_strategy": "average",
    "sliding_window": 64,
    "tie_word_embeddings": True,
}
_COHERE_ATTENTION = {k: v for k, v in _ATTENTION.items() if "post" not in k}
_COHERE_EXPERTS = {
    "mlp.gate.weight": (4, 64),
    **{
        f"mlp.experts.{i}.{w}_proj.weight": ((64, 32) if w == "down" else (32, 64))
        for i in range(4)
        for w in ("down", "gate", "up")
    },
    "mlp.shared_experts.down_proj.weight": (64, 64),
    "mlp.shared_experts.gate_proj.weight": (64, 64),
    "mlp.shared_experts.up_proj.weight": (64, 64),
}
_APERTUS: dict[str, Any] = {
    **_BASE,
    "architectures": ["ApertusForCausalLM"],
    "hidden_act": "xielu",
    "mlp_bias": False,
    "model_type": "apertus",
    "post_norm": False,
    "qk_norm": True,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    },
    "rope_theta": 12000000,
}
_BITNET: dict[str, Any] = {
    **_BASE,
    "architectures": ["BitNetForCausalLM"],
    "hidden_act": "relu2",
    "model_type": "bitnet",
    "tie_word_embeddings": True,
}
_BITNET_LAYER = {
    **_LAYER,
    "mlp.ffn_layernorm.weight": (96,),
    "self_attn.inner_attn_ln.weight": (64,),
}
_LLADA: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 64,
    "embedding_size": 96,
    "eos_token_id": 80,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 90,
    "max_sequence_length": 256,
    "mlp_hidden_size": 96,
    "mlp_ratio": 4,
    "model_type": "llada",
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "pad_token_id": 80,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "use_cache": False,
    "vocab_size": 96,
    "weight_tying": False,
}
_LLADA_MOE: dict[str, Any] = {
    **{k: v for k, v in _BASE.items() if k not in ("intermediate_size", "attention_bias")},
    "architectures": ["LLaDAMoEModelLM"],
    "dense_intermediate_size": 96,
    "expert_intermediate_size": 32,
    "expert_num": 4,
    "head_dim": 16,
    "intermediate_size": 96,
    "model_type": "llada_moe",
    "moe_layer_freq": [1, 1],
    "norm_topk_prob": None,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "rope_scaling": None,
    "rope_theta": 50000,
    "router_aux_loss_coef": 0.01,
    "shared_expert_intermediate_size": None,
}
_DREAM: dict[str, Any] = {
    **{k: v for k, v in _BASE.items() if k != "attention_bias"},
    "architectures": ["DreamModel"],
    "mask_token_id": 90,
    "max_window_layers": 2,
    "model_type": "Dream",
    "pad_token_id": 80,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
_TALKIE: dict[str, Any] = {
    "architectures": ["TalkieForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "model_type": "talkie",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "rope_theta": 1000000,
    "torch_dtype": "bfloat16",
    "vocab_size": 96,
}
_HRM: dict[str, Any] = {
    **{k: v for k, v in _BASE.items() if k != "num_key_value_heads"},
    "H_cycles": 2,
    "L_bp_cycles": [2],
    "L_cycles": 3,
    "architectures": ["HrmTextForCausalLM"],
    "embedding_scale": 8.0,
    "head_dim": 16,
    "model_type": "hrm_text",
    "prefix_lm": True,
}
_HRM_LAYER = {
    "attn.gqkv_proj.weight": (256, 64),
    "attn.o_proj.weight": (64, 64),
    "mlp.down_proj.weight": (64, 96),
    "mlp.gate_up_proj.weight": (192, 64),
}
_CHAMELEON: dict[str, Any] = {
    **_BASE,
    "architectures": ["ChameleonForConditionalGeneration"],
    "mlp_bias": False,
    "model_parallel_size": 1,
    "model_type": "chameleon",
    "num_key_value_heads": 2,
    "rope_scaling": None,
    "swin_norm": False,
    "vq_config": {"base_channels": 32, "embed_dim": 8, "model_type": "chameleon_vqgan"},
}
_CHAMELEON_LAYER = {
    **_LAYER,
    "self_attn.k_norm.bias": (2, 16),
    "self_attn.k_norm.weight": (2, 16),
    "self_attn.q_norm.bias": (4, 16),
    "self_attn.q_norm.weight": (4, 16),
}
_JAIS2: dict[str, Any] = {
    **{k: v for k, v in _BASE.items() if k != "rms_norm_eps"},
    "architectures": ["Jais2ForCausalLM"],
    "attention_bias": True,
    "head_dim": 16,
    "hidden_act": "relu2",
    "layer_norm_eps": 1e-05,
    "mlp_bias": True,
    "model_type": "jais2",
    "rope_theta": 500000.0,
}

CASES = (
    Case("phimoe", _PHIMOE, _PHIMOE_TENSORS),
    Case(
        "phimoe-short",
        {
            **{k: v for k, v in _PHIMOE.items() if k != "num_key_value_heads"},
            "num_key_value_heads": 2,
            "rope_scaling": None,
            "sliding_window": None,
        },
        _PHIMOE_TENSORS,
    ),
    Case(
        "cohere2-moe",
        _COHERE_MOE,
        {
            **{k: v for k, v in _TOP.items() if k != "lm_head.weight"},
            **layers(4, _COHERE_ATTENTION),
            **{f"model.layers.0.{k}": v for k, v in _LAYER.items() if k.startswith("mlp")},
            **{f"model.layers.{i}.{k}": v for i in (1, 2, 3) for k, v in _COHERE_EXPERTS.items()},
        },
    ),
    Case(
        "cohere2-moe-mtp",
        {
            **{
                k: v
                for k, v in _COHERE_MOE.items()
                if k not in ("first_k_dense_replace", "num_shared_experts")
            },
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "num_nextn_predict_layers": 1,
            "tie_word_embeddings": False,
        },
        {
            **_TOP,
            **layers(5, _COHERE_ATTENTION),
            **{f"model.layers.0.{k}": v for k, v in _LAYER.items() if k.startswith("mlp")},
            **{
                f"model.layers.{i}.{k}": v
                for i in (1, 2, 3, 4)
                for k, v in _COHERE_EXPERTS.items()
                if "shared" not in k
            },
            "model.layers.4.eh_proj.weight": (64, 128),
            "model.layers.4.enorm.weight": (64,),
            "model.layers.4.hnorm.weight": (64,),
            "model.layers.4.shared_head.norm.weight": (64,),
        },
    ),
    Case("apertus", _APERTUS),
    Case(
        "bitnet",
        {**_BITNET, "hidden_act": "silu"},
        {**{k: v for k, v in _TOP.items() if k != "lm_head.weight"}, **layers(2, _BITNET_LAYER)},
    ),
    Case(
        "bitnet-old",
        {
            **_BITNET,
            "architectures": ["BitnetForCausalLM"],
            "model_type": "llama",
            "num_key_value_heads": 4,
            "hidden_act": "silu",
            "weight_bits": 1,
            "input_bits": 8,
        },
        {
            **{k: v for k, v in _TOP.items() if k != "lm_head.weight"},
            **layers(
                2,
                {
                    **_LAYER,
                    "mlp.ffn_layernorm.weight": (96,),
                    "self_attn.inner_attn_ln.weight": (64,),
                    "self_attn.k_proj.weight": (64, 64),
                    "self_attn.v_proj.weight": (64, 64),
                },
            ),
        },
    ),
    Case(
        "llada",
        _LLADA,
        {
            "model.transformer.ff_out.weight": (96, 64),
            "model.transformer.ln_f.weight": (64,),
            "model.transformer.wte.weight": (96, 64),
            **layers(
                2,
                {
                    "attn_norm.weight": (64,),
                    "attn_out.weight": (64, 64),
                    "ff_norm.weight": (64,),
                    "ff_out.weight": (64, 96),
                    "ff_proj.weight": (96, 64),
                    "k_proj.weight": (32, 64),
                    "q_proj.weight": (64, 64),
                    "up_proj.weight": (96, 64),
                    "v_proj.weight": (32, 64),
                },
                "model.transformer.blocks",
            ),
        },
    ),
    Case(
        "llada-moe",
        _LLADA_MOE,
        {
            **_TOP,
            **layers(
                2,
                {
                    **_ATTENTION,
                    "mlp.gate.weight": (4, 64),
                    "self_attn.k_norm.weight": (16,),
                    "self_attn.q_norm.weight": (16,),
                    **{
                        f"mlp.experts.{i}.{w}_proj.weight": ((64, 32) if w == "down" else (32, 64))
                        for i in range(4)
                        for w in ("down", "gate", "up")
                    },
                },
            ),
        },
    ),
    Case(
        "llada-moe-base",
        {**_LLADA_MOE, "architectures": ["LLaDAMoEModel"]},
        {
            **_TOP,
            **layers(
                2,
                {
                    **_ATTENTION,
                    "mlp.gate.weight": (4, 64),
                    "self_attn.k_norm.weight": (16,),
                    "self_attn.q_norm.weight": (16,),
                    **{
                        f"mlp.experts.{i}.{w}_proj.weight": ((64, 32) if w == "down" else (32, 64))
                        for i in range(4)
                        for w in ("down", "gate", "up")
                    },
                },
            ),
        },
    ),
    Case(
        "dream",
        _DREAM,
        {
            **_TOP,
            **layers(2, {**_LAYER, **{f"self_attn.{p}_proj.bias": (64 if p == "q" else 32,) for p in "qkv"}}),
        },
    ),
    Case(
        "talkie",
        _TALKIE,
        {
            "lm_head": (96, 64),
            "lm_head_gain.w_g": (1,),
            "model.embed.weight": (96, 64),
            **layers(
                2,
                {
                    "attn.attn_key.weight": (64, 64),
                    "attn.attn_query.weight": (64, 64),
                    "attn.attn_resid.weight": (64, 64),
                    "attn.attn_value.weight": (64, 64),
                    "attn.head_gain.head_g": (4,),
                    "attn_gain.a_g": (1,),
                    "embed_skip.a_g": (1,),
                    "mlp.mlp_gate.weight": (96, 64),
                    "mlp.mlp_linear.weight": (96, 64),
                    "mlp.mlp_resid.weight": (64, 96),
                    "mlp_gain.a_g": (1,),
                },
                "model.blocks",
            ),
        },
        dtypes={"lm_head_gain.w_g": "F32"},
    ),
    Case(
        "hrm-text",
        _HRM,
        {
            "lm_head.weight": (96, 64),
            "model.embed_tokens.weight": (96, 64),
            "model.z_L_init": (64,),
            **layers(2, _HRM_LAYER, "model.L_module.layers"),
            **layers(2, _HRM_LAYER, "model.H_module.layers"),
        },
    ),
    Case(
        "chameleon",
        {**_CHAMELEON, "num_key_value_heads": 4},
        {
            **_TOP,
            "model.vqmodel.quant_conv.weight": (8, 8, 1, 1),
            **layers(
                2,
                {
                    **_CHAMELEON_LAYER,
                    **{f"self_attn.k_norm.{p}": (4, 16) for p in ("weight", "bias")},
                    **{f"self_attn.{p}_proj.weight": (64, 64) for p in "kv"},
                },
            ),
        },
    ),
    Case(
        "chameleon-old",
        {
            **_CHAMELEON,
            "architectures": ["ChameleonForCausalLM"],
            "num_key_value_heads": 4,
            "swin_norm": True,
        },
        {
            **_TOP,
            **layers(
                2,
                {
                    **_CHAMELEON_LAYER,
                    "self_attn.k_norm.bias": (4, 16),
                    "self_attn.k_norm.weight": (4, 16),
                    "self_attn.k_proj.weight": (64, 64),
                    "self_attn.q_norm.bias": (4, 16),
                    "self_attn.q_norm.weight": (4, 16),
                    "self_attn.v_proj.weight": (64, 64),
                },
            ),
        },
    ),
    Case("jais2", _JAIS2),
    Case(
        "rnd1",
        {
            **{k: v for k, v in _BASE.items() if k != "attention_bias"},
            "architectures": ["RND1"],
            "decoder_sparse_step": 1,
            "head_dim": 32,
            "mlp_only_layers": [],
            "model_type": "rnd1",
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "rope_theta": 1000000.0,
        },
        {
            **_TOP,
            **layers(
                2,
                {
                    "input_layernorm.weight": (64,),
                    "mlp.gate.weight": (4, 64),
                    "post_attention_layernorm.weight": (64,),
                    "self_attn.k_norm.weight": (32,),
                    "self_attn.k_proj.weight": (64, 64),
                    "self_attn.o_proj.weight": (64, 128),
                    "self_attn.q_norm.weight": (32,),
                    "self_attn.q_proj.weight": (128, 64),
                    "self_attn.v_proj.weight": (64, 64),
                    **{
                        f"mlp.experts.{i}.{w}_proj.weight": ((64, 32) if w == "down" else (32, 64))
                        for i in range(4)
                        for w in ("down", "gate", "up")
                    },
                },
            ),
        },
    ),
)
