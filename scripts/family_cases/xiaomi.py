"""Models of Xiaomi."""

from __future__ import annotations

from typing import Any

from family_cases import Case, Shapes
from family_cases.deepseek import at, ends, experts, gated

_V2: dict[str, Any] = {
    "add_full_attention_sink_bias": False,
    "add_swa_attention_sink_bias": True,
    "architectures": ["MiMoV2FlashForCausalLM"],
    "attention_bias": False,
    "attention_chunk_size": 128,
    "attention_dropout": 0.0,
    "attention_value_scale": 0.707,
    "auto_map": {"AutoConfig": "configuration_mimo_v2_flash.MiMoV2FlashConfig"},
    "head_dim": 48,
    "hidden_act": "silu",
    "hidden_size": 64,
    "hybrid_block_size": None,
    "hybrid_layer_pattern": [0, 1, 1],
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layernorm_epsilon": 1e-05,
    "max_position_embeddings": 262144,
    "model_type": "mimo_v2_flash",
    "moe_intermediate_size": 32,
    "moe_layer_freq": [0, 1, 1],
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": None,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "partial_rotary_factor": 0.334,
    "rope_theta": 5000000,
    "routed_scaling_factor": None,
    "scoring_func": "sigmoid",
    "sliding_window": 128,
    "sliding_window_size": 128,
    "swa_head_dim": 48,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_rope_theta": 10000,
    "swa_v_head_dim": 32,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 32,
    "vocab_size": 96,
}


def _attention(groups: int, sink: bool, norms: bool = True, fused: bool = False) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {"self_attn.o_proj.weight": (64, 128)}
    if fused:
        shapes["self_attn.qkv_proj.weight"] = (192 + groups * 80, 64)
    else:
        shapes |= {
            "self_attn.k_proj.weight": (groups * 48, 64),
            "self_attn.q_proj.weight": (192, 64),
            "self_attn.v_proj.weight": (groups * 32, 64),
        }
    if sink:
        shapes["self_attn.attention_sink_bias"] = (4,)
    if norms:
        shapes |= {"input_layernorm.weight": (64,), "post_attention_layernorm.weight": (64,)}
    return shapes


_MOE = {
    "mlp.gate.e_score_correction_bias": (4,),
    "mlp.gate.weight": (4, 64),
    **experts("mlp.experts", 4, 64, 32),
}


def _nextn(fused: bool = False) -> Shapes:
    layer = {
        **_attention(2, True, False, fused),
        **gated("mlp", 64, 96),
        "eh_proj.weight": (64, 128),
        "enorm.weight": (64,),
        "final_layernorm.weight": (64,),
        "hnorm.weight": (64,),
        "input_layernorm.weight": (64,),
        "pre_mlp_layernorm.weight": (64,),
    }
    return {name: shape for index in range(3) for name, shape in at(index, layer, "model.mtp.layers").items()}


def _layers(fused: bool) -> Shapes:
    return {
        **ends(),
        **at(0, {**_attention(1, False, fused=fused), **gated("mlp", 64, 96)}),
        **at(1, {**_attention(2, True, fused=fused), **_MOE}),
        **at(2, {**_attention(2, True, fused=fused), **_MOE}),
        **_nextn(fused),
    }


_V25 = {
    **_V2,
    "architectures": ["MiMoV2ForCausalLM"],
    "model_type": "mimo_v2",
    "auto_map": {"AutoConfig": "configuration_mimo_v2.MiMoV2Config"},
}

CASES = (
    Case("mimo-v2-flash", _V2, _layers(False), raw_config=True),
    Case(
        "mimo-v2.5",
        _V25,
        {
            **_layers(True),
            "visual.patch_embed.proj.weight": (32, 3, 2, 14, 14),
            "speech_embeddings.0.weight": (8, 64),
        },
        raw_config=True,
    ),
)
