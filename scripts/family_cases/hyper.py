"""Models with hyper-connections, delta attention or two kinds of latent attention."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes
from family_cases.deepseek import at, ends, experts, gated, mla, nextn, under
from family_cases.minimax import mixtral

_HY4: dict[str, Any] = {
    "architectures": ["HYV4ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "enable_lm_head_fp32": True,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "hc_eps": 1e-06,
    "hc_magnitude": 2.0,
    "hc_mult": 4,
    "hidden_act": "silu",
    "hidden_size": 64,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 32,
    "indexer_types": ["full", "full", "shared"],
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "max_position_embeddings": 262144,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "model_type": "hy_v4",
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "pad_token_id": 3,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 10000000.0, "rope_type": "default"},
    "routed_scaling_factor": 2.827,
    "swiglu_limit": 10.0,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "v_head_dim": 32,
    "vocab_size": 96,
}
_INDEXER = {
    "self_attn.indexer.k_norm.bias": (16,),
    "self_attn.indexer.k_norm.weight": (16,),
    "self_attn.indexer.weights_proj.weight": (2, 64),
    "self_attn.indexer.wk.weight": (16, 64),
    "self_attn.indexer.wq_b.weight": (32, 48),
}
_IHC = {
    f"hc_{part}_layer.hc_pre.hc_{name}": shape
    for part in ("attn", "mlp")
    for name, shape in {"base": (8,), "fn": (8, 256), "scale": (2,)}.items()
}
_HY4_ATTENTION = {
    **mla(),
    **_IHC,
    "self_attn.learnable_sink_param": (4,),
    "self_attn.linear_gate.weight": (128, 64),
}
_HY4_MOE = {
    "mlp.experts.down_proj": (4, 64, 32),
    "mlp.experts.gate_up_proj": (4, 64, 64),
    "mlp.gate.e_score_correction_bias": (4,),
    "mlp.gate.weight": (4, 64),
    **gated("mlp.shared_experts", 64, 32),
}
_HY4_LAYERS = {
    **ends(),
    "model.hc_head.hc_head_base": (4,),
    "model.hc_head.hc_head_fn": (4, 256),
    "model.hc_head.hc_head_scale": (1,),
    **at(0, {**_HY4_ATTENTION, **_INDEXER, **gated("mlp", 64, 96)}),
    **at(1, {**_HY4_ATTENTION, **_INDEXER, **_HY4_MOE}),
    **at(2, {**_HY4_ATTENTION, **_HY4_MOE}),
    **at(0, {**mla(), **gated("mlp", 64, 96)}, "model.mtp_layers"),
}
_GLM53: dict[str, Any] = {
    "architectures": ["Glm5NextForConditionalGeneration"],
    "model_type": "glm5_next",
    "text_config": {
        "attention_bias": False,
        "eos_token_id": [1, 2],
        "first_k_dense_replace": 1,
        "hc_eps": 1e-06,
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 64,
        "index_head_dim": 16,
        "index_kpool": 16,
        "index_n_heads": 2,
        "index_topk": 32,
        "indexer_types": ["full", "full"],
        "intermediate_size": 96,
        "kv_lora_rank": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_attn_config": {
            "gate_lower_bound": -5.0,
            "head_dim": 32,
            "num_heads": 4,
            "safe_gate": True,
            "short_conv_kernel_size": 4,
        },
        "max_position_embeddings": 1048576,
        "mhc": True,
        "mla_use_nope": True,
        "model_type": "glm5_next_text",
        "moe_intermediate_size": 32,
        "n_group": 1,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 48,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 0,
        "rms_norm_eps": 1e-05,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "swiglu_limit": 10.0,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "v_head_dim": 32,
        "vocab_size": 96,
    },
    "tie_word_embeddings": False,
    "vision_config": {"depth": 1, "hidden_size": 32, "model_type": "glm5_next_vision"},
}
_MHC = {
    "hc_attn_base": (24,),
    "hc_attn_fn": (24, 256),
    "hc_attn_scale": (3,),
    "hc_ffn_base": (24,),
    "hc_ffn_fn": (24, 256),
    "hc_ffn_scale": (3,),
}
_MOE = {
    "mlp.gate.e_score_correction_bias": (4,),
    "mlp.gate.weight": (4, 64),
    **experts("mlp.experts", 4, 64, 32),
    **gated("mlp.shared_experts", 64, 32),
}
_NORMS = {"input_layernorm.weight": (64,), "post_attention_layernorm.weight": (64,)}
_KDA = {
    **_NORMS,
    "self_attn.A_log": (4,),
    "self_attn.b_proj.weight": (4, 64),
    "self_attn.dt_bias": (128,),
    "self_attn.f_a_proj.weight": (32, 64),
    "self_attn.f_b_proj.weight": (128, 32),
    "self_attn.g_a_proj.weight": (32, 64),
    "self_attn.g_b_proj.weight": (128, 32),
    "self_attn.k_conv1d.weight": (128, 1, 4),
    "self_attn.k_proj.weight": (128, 64),
    "self_attn.o_norm.weight": (32,),
    "self_attn.o_proj.weight": (64, 128),
    "self_attn.q_conv1d.weight": (128, 1, 4),
    "self_attn.q_proj.weight": (128, 64),
    "self_attn.v_conv1d.weight": (128, 1, 4),
    "self_attn.v_proj.weight": (128, 64),
}
_KPOOL = {
    "self_attn.indexer.index_kpool_compress_ape": (16, 16),
    "self_attn.indexer.index_kpool_compress_gate": (16, 64),
}
_NOPE = mla(rope=0)
_GLM53_LAYERS = {
    **ends(),
    **at(0, {**_KDA, **_MHC, **gated("mlp", 64, 96)}),
    **at(1, {**_NOPE, **_MHC, **_INDEXER, **_KPOOL, **_MOE}),
    **at(2, {**_NOPE, **_MHC, **_INDEXER, **_KPOOL, **_MOE, **nextn()}),
}
_K3_TEXT: dict[str, Any] = {
    "activation_situ_beta": 1.0,
    "activation_situ_linear_beta": 0.5,
    "architectures": ["KimiLinearForCausalLM"],
    "attn_res_block_size": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "head_dim": 32,
    "hidden_act": "situ",
    "hidden_size": 64,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "linear_attn_config": {
        "full_attn_layers": [2],
        "gate_lower_bound": -5.0,
        "head_dim": 32,
        "kda_layers": [1],
        "num_heads": 4,
        "short_conv_kernel_size": 4,
    },
    "mla_use_nope": True,
    "model_max_length": 1048576,
    "model_type": "kimi_linear",
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "num_attention_heads": 4,
    "num_expert_group": 1,
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "num_shared_experts": 1,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "routed_expert_hidden_size": 32,
    "routed_scaling_factor": 2.5,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_grouped_topk": True,
    "v_head_dim": 32,
    "vocab_size": 96,
}
_K3 = {
    "architectures": ["KimiK3ForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_kimi_k3.KimiK3Config"},
    "model_type": "kimi_k3",
    "text_config": _K3_TEXT,
    "vision_config": {"vt_hidden_size": 32},
}
_RES = {
    "mlp_res_norm.weight": (64,),
    "mlp_res_proj.weight": (1, 64),
    "self_attention_res_norm.weight": (64,),
    "self_attention_res_proj.weight": (1, 64),
}
_K3_KDA = {k: v for k, v in _KDA.items() if ".g_a_" not in k and ".g_b_" not in k} | {
    "self_attn.g_proj.weight": (128, 64)
}
_K3_MLA = {**mla(), "self_attn.g_proj.weight": (128, 64)}
_K3_MOE = {
    "block_sparse_moe.gate.e_score_correction_bias": (4,),
    "block_sparse_moe.gate.weight": (4, 64),
    **mixtral("block_sparse_moe.experts", 4, 32, 32),
    "block_sparse_moe.routed_expert_down_proj.weight": (32, 64),
    "block_sparse_moe.routed_expert_norm.weight": (32,),
    "block_sparse_moe.routed_expert_up_proj.weight": (64, 32),
    **gated("block_sparse_moe.shared_experts", 64, 32),
}
_K3_LAYERS = {
    **ends(),
    "model.output_attn_res_norm.weight": (64,),
    "model.output_attn_res_proj.weight": (1, 64),
    **at(0, {**_K3_KDA, **_RES, **gated("mlp", 64, 96)}),
    **at(1, {**_K3_MLA, **_RES, **_K3_MOE}),
}
_LING3: dict[str, Any] = {
    "architectures": ["BailingMoeV3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_bailing_moe_v3.BailingMoeV3Config"},
    "eos_token_id": 2,
    "expert_swiglu_limit_list": [None, 10.0],
    "first_k_dense_replace": 1,
    "gated_attention_proj_granularity_type": "head_wise",
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "kda_lower_bound": -5.0,
    "kda_safe_gate": True,
    "kv_lora_rank": 32,
    "layer_group_size": 2,
    "max_position_embeddings": 131072,
    "model_type": "bailing_moe_v3",
    "moe_intermediate_size": 32,
    "moe_router_enable_expert_bias": True,
    "moe_shared_expert_intermediate_size": 32,
    "n_group": 2,
    "no_kda_lora": True,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "num_shared_experts": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_theta": 6000000.0,
    "routed_scaling_factor": 2.5,
    "score_function": "sigmoid",
    "share_expert_swiglu_limit_list": [10.0, 10.0],
    "short_conv_kernel_size": 4,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "v_head_dim": 32,
    "vocab_size": 96,
}


def _attention(shapes: Shapes) -> Shapes:
    return {
        name.replace("self_attn.", "attention.").replace("attention.o_proj", "attention.dense"): shape
        for name, shape in shapes.items()
    }


_LING3_KDA = {
    **_NORMS,
    "attention.A_log": (4,),
    "attention.b_proj.weight": (4, 64),
    "attention.dt_bias": (128,),
    "attention.f_proj.weight": (128, 64),
    "attention.g_proj.weight": (128, 64),
    "attention.k_conv1d.weight": (128, 1, 4),
    "attention.k_proj.weight": (128, 64),
    "attention.o_norm.weight": (32,),
    "attention.o_proj.weight": (64, 128),
    "attention.q_conv1d.weight": (128, 1, 4),
    "attention.q_proj.weight": (128, 64),
    "attention.v_conv1d.weight": (128, 1, 4),
    "attention.v_proj.weight": (128, 64),
}
_LING3_MLA = {**_attention(mla(query=None)), "attention.g_proj.weight": (4, 64)}
_LING3_TINY = {**_attention(mla()), "attention.g_proj.weight": (4, 64)}
_LING3_MOE = {
    "mlp.gate.expert_bias": (4,),
    "mlp.gate.weight": (4, 64),
    **experts("mlp.experts", 4, 64, 32),
    **gated("mlp.shared_experts", 64, 32),
}
_LING3_NEXTN = {
    "eh_proj.weight": (64, 128),
    "enorm.weight": (64,),
    "hnorm.weight": (64,),
    "final_layernorm.weight": (64,),
}


def _ling3(latent: Shapes) -> Shapes:
    return {
        "lm_head.weight": (96, 64),
        "model.norm.weight": (64,),
        "model.word_embeddings.weight": (96, 64),
        **at(0, {**_LING3_KDA, **gated("mlp", 64, 96)}),
        **at(1, {**latent, **_LING3_MOE}),
        **at(2, {**latent, **_LING3_MOE, **_LING3_NEXTN}),
    }


_LING3_VL = {
    "architectures": ["BailingMoeV3VLForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_bailing_moe_v3_vl.BailingMoeV3VLConfig"},
    "model_type": "bailing_moe_v3_vl",
    "text_config": {
        **{k: v for k, v in _LING3.items() if k not in ("architectures", "auto_map")},
        "mrope_section": [4, 2, 2],
    },
    "vision_config": {"depth": 1, "hidden_size": 32},
}
_DOTS3: dict[str, Any] = {
    "apply_mla_qkv_lora_rescale": True,
    "architectures": ["Dots3NoteForCausalLM"],
    "attention_bias": False,
    "attention_gate_type": "headwise",
    "auto_map": {"AutoConfig": "configuration_dots3_note.Dots3NoteConfig"},
    "eos_token_id": 2,
    "final_norm": "RMSNorm",
    "first_k_dense_replace": 1,
    "head_dim": 48,
    "hidden_act": "silu",
    "hidden_size": 64,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 32,
    "intermediate_size": 96,
    "k_rope_only_layernorm": True,
    "kv_lora_rank": 32,
    "layer_types": ["full_attention", "sliding_attention"],
    "max_position_embeddings": 524288,
    "model_type": "dots3_note_prev",
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "normalization": "RMSNorm",
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-05,
    "rope_theta": 80000000.0,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "sliding_window_size": 512,
    "swa_attention_gate_type": "headwise",
    "swa_head_dim": 64,
    "swa_kv_lora_rank": 64,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_q_lora_rank": 48,
    "swa_qk_nope_head_dim": 48,
    "swa_qk_rope_head_dim": 16,
    "swa_rope_theta": 50000.0,
    "swa_v_head_dim": 32,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "use_dsa": True,
    "v_head_dim": 32,
    "vocab_size": 96,
}
_DOTS3_FULL = {
    **mla(),
    **_INDEXER,
    "self_attn.g_proj.weight": (4, 64),
    "self_attn.k_rope_only_layernorm.weight": (16,),
}
_DOTS3_SLIDING = {
    **mla(heads=2, lora=64, nope=48),
    "self_attn.g_proj.weight": (2, 64),
    "self_attn.k_rope_only_layernorm.weight": (16,),
}
_DOTS3_LAYERS = {
    **ends(),
    **at(0, {**_DOTS3_FULL, **gated("mlp", 64, 96)}),
    **at(1, {**_DOTS3_SLIDING, **_MOE}),
}
_DOTS3_NEXTN = {
    "model.mtp.embed_tokens.weight": (96, 64),
    **at(
        2,
        {
            **_DOTS3_SLIDING,
            **_MOE,
            **{
                k: v
                for k, v in nextn().items()
                if k not in ("embed_tokens.weight", "shared_head.head.weight")
            },
        },
    ),
}

_NOTE = {
    **_DOTS3,
    "audio_config": {
        "audio_token_id": 5,
        "chunk_seconds": 60,
        "downsample_hidden_size": 24,
        "merge_factor": 1,
        "model_type": "dots3_note_audio_encoder",
        "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_type": "default"},
        "use_causal": False,
        "use_conv2d_stem": True,
        "use_rms_norm": True,
        "use_rope": True,
        "whisper_adapter_in_dim": 32,
        "whisper_adapter_out_dim": 64,
        "whisper_config": {
            "activation_function": "swiglu",
            "d_model": 32,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "encoder_layers": 2,
            "num_mel_bins": 16,
        },
    },
    "vision_config": {
        "adapter_in_dim": 32,
        "adapter_out_dim": 64,
        "adapter_type": "patch_merger",
        "capacity_factor": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 48,
        "model_type": "dots3_note_vision_encoder",
        "num_channels": 3,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "patch_size": 14,
        "pre_pixel_shuffle": True,
        "pyramid_num_routed": [-1, -1, 4, 3],
        "rms_norm_eps": 1e-05,
        "router_scale": 1.0,
        "router_scoring_func": "sigmoid",
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "use_bias": False,
        "use_qk_norm": True,
    },
}


def _with_bias(shapes: Shapes) -> Shapes:
    return {
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in shapes.items()
        for part in ("weight", "bias")
    }


_NOTE_SEEING: dict[str, Any] = {
    **_with_bias(
        {
            "vision_encoder.patch_embed.proj": (32, 3, 14, 14),
            "vision_encoder.adapter.ln_q": (32,),
            "vision_encoder.adapter.mlp.0": (128, 128),
            "vision_encoder.adapter.mlp.2": (64, 128),
        }
    ),
    "vision_encoder.patch_embed.norm.weight": (32,),
    "vision_encoder.post_trunk_norm.weight": (32,),
}
for _layer in range(4):
    _block = {
        "attn.k_norm.weight": (16,),
        "attn.proj.weight": (32, 32),
        "attn.q_norm.weight": (16,),
        "attn.qkv.weight": (96, 32),
        "norm_1.weight": (32,),
        "norm_2.weight": (32,),
    }
    if _layer < 2:
        _block |= {"mlp.fc1.weight": (48, 32), "mlp.fc2.weight": (32, 48), "mlp.fc3.weight": (48, 32)}
    else:
        _count = 6 - _layer
        _block |= {"mlp.gate_weight": (_count, 32), "mlp.router_bias": (_count,)}
        for _expert in range(_count):
            _block |= {
                f"mlp.experts.{_expert}.fc1.weight": (24, 32),
                f"mlp.experts.{_expert}.fc2.weight": (32, 24),
                f"mlp.experts.{_expert}.fc3.weight": (24, 32),
            }
    _NOTE_SEEING |= {f"vision_encoder.blocks.{_layer}.{name}": shape for name, shape in _block.items()}
_SPEECH = "audio_encoder.dots_encoder.speech_encoder"
_NOTE_HEARING: dict[str, Any] = {
    **_with_bias(
        {
            f"{_SPEECH}.conv2d1": (24, 1, 3, 3),
            f"{_SPEECH}.conv2d2": (24, 24, 3, 3),
            f"{_SPEECH}.conv2d3": (24, 24, 3, 3),
            "audio_encoder.audio_adapter.proj.0": (32,),
            "audio_encoder.audio_adapter.proj.1": (64, 32),
            "audio_encoder.audio_adapter.proj.3": (64, 64),
            **{
                f"{_SPEECH}.layers.{i}.{name}": shape
                for i in range(2)
                for name, shape in {
                    "fc1": (96, 32),
                    "fc2": (32, 48),
                    "self_attn.out_proj": (32, 32),
                    "self_attn.q_proj": (32, 32),
                    "self_attn.v_proj": (32, 32),
                }.items()
            },
        }
    ),
    **{
        f"{_SPEECH}.layers.{i}.{name}.weight": shape
        for i in range(2)
        for name, shape in {
            "final_layer_norm": (32,),
            "self_attn.k_proj": (32, 32),
            "self_attn_layer_norm": (32,),
        }.items()
    },
    f"{_SPEECH}.conv_out.weight": (32, 48),
    f"{_SPEECH}.layer_norm.weight": (32,),
}

CASES = (
    Case(
        "dots3-note-senses",
        _NOTE,
        {**_DOTS3_LAYERS, **_NOTE_SEEING, **_NOTE_HEARING},
        {
            "preprocessor_config.json": {
                "image_mean": [0.48, 0.46, 0.41],
                "image_std": [0.27, 0.26, 0.28],
                "max_pixels": 12544,
                "min_pixels": 3136,
            }
        },
        mmproj=True,
        raw_config=True,
    ),
    Case("hy4", {**_HY4, "num_nextn_predict_layers": 1}, _HY4_LAYERS),
    Case(
        "glm-5.3-flash",
        _GLM53,
        {
            **under("model.language_", {}),
            **{
                k.replace("model.", "model.language_model.") if k.startswith("model.") else k: v
                for k, v in _GLM53_LAYERS.items()
            },
        },
        raw_config=True,
    ),
    Case(
        "kimi-k3",
        _K3,
        {
            **under("language_model.", _K3_LAYERS),
            "vision_tower.patch_embed.proj.weight": (32, 3, 14, 14),
            "mm_projector.pre_norm.weight": (32,),
        },
    ),
    Case("ling-3-flash", _LING3, _ling3(_LING3_MLA)),
    Case("ling-3-tiny", {**_LING3, "q_lora_rank": 48}, _ling3(_LING3_TINY)),
    Case(
        "ling-3-vl",
        _LING3_VL,
        {
            **_ling3(_LING3_MLA),
            "linear_proj.0.weight": (64, 32),
            "model.visual.patch_embed.proj.weight": (32, 3, 2, 14, 14),
        },
    ),
    Case(
        "dots3-note",
        _DOTS3,
        {**_DOTS3_LAYERS, **_DOTS3_NEXTN, "vision_encoder.patch_embed.proj.weight": (32, 3, 14, 14)},
        raw_config=True,
    ),
    Case(
        "dots3-note-text",
        {**_DOTS3, "architectures": ["Dots3NoteTextForCausalLM"], "apply_mla_qkv_lora_rescale": False},
        _DOTS3_LAYERS,
        raw_config=True,
    ),
)
