"""DeepSeek V4: FP4 experts, hyper-connections, compressed attention, and layers that route by the id of the token."""

from __future__ import annotations

from typing import Any

from family_cases import TARGET, Case, Shapes

_CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "compress_ratios": [0, 4, 128, 0],
    "compress_rope_theta": 160000.0,
    "eos_token_id": 1,
    "expert_dtype": "fp4",
    "hc_eps": 1e-06,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 64,
    "index_head_dim": 32,
    "index_n_heads": 2,
    "index_topk": 16,
    "max_position_embeddings": 65536,
    "model_type": "deepseek_v4",
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hash_layers": 1,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 1,
    "o_groups": 2,
    "o_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 16,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "sliding_window": 128,
    "swiglu_limit": 10.0,
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "vocab_size": 96,
}


def _tensors() -> tuple[Shapes, dict[str, str]]:
    """The shapes of all tensors, and the types of those that are not BF16."""
    shapes: dict[str, tuple[int, ...]] = {
        "embed.weight": (96, 64),
        "norm.weight": (64,),
        "head.weight": (96, 64),
        "hc_head_fn": (4, 256),
        "hc_head_base": (4,),
        "hc_head_scale": (1,),
        "mtp.0.attn_norm.weight": (64,),
    }
    kinds = dict.fromkeys((name for name in shapes if name.startswith("hc_")), "F32")
    for layer, ratio in enumerate((0, 4, 128)):
        layers: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (64,),
            "ffn_norm.weight": (64,),
            "attn.wq_a.weight": (32, 64),
            "attn.q_norm.weight": (32,),
            "attn.wq_b.weight": (256, 32),
            "attn.wkv.weight": (64, 64),
            "attn.kv_norm.weight": (64,),
            "attn.wo_a.weight": (64, 128),
            "attn.wo_b.weight": (64, 64),
            "ffn.gate.weight": (4, 64),
            "ffn.shared_experts.w1.weight": (32, 64),
            "ffn.shared_experts.w2.weight": (64, 32),
            "ffn.shared_experts.w3.weight": (32, 64),
        }
        floats: dict[str, tuple[int, ...]] = {"attn.attn_sink": (4,)}
        for part in ("attn", "ffn"):
            floats |= {f"hc_{part}_fn": (24, 256), f"hc_{part}_base": (24,), f"hc_{part}_scale": (3,)}
        if ratio:
            width = 128 if ratio == 4 else 64
            floats["attn.compressor.ape"] = (ratio, width)
            layers |= {f"attn.compressor.{part}.weight": (width, 64) for part in ("wkv", "wgate")}
            layers["attn.compressor.norm.weight"] = (64,)
        if ratio == 4:
            floats["attn.indexer.compressor.ape"] = (4, 64)
            layers |= {f"attn.indexer.compressor.{part}.weight": (64, 64) for part in ("wkv", "wgate")}
            layers["attn.indexer.compressor.norm.weight"] = (32,)
            layers["attn.indexer.wq_b.weight"] = (64, 32)
            layers["attn.indexer.weights_proj.weight"] = (2, 64)
        codes, scales, integers = {}, {}, {}
        if layer == 0:
            integers["ffn.gate.tid2eid"] = (96, 2)
        else:
            floats["ffn.gate.bias"] = (4,)
        for expert in range(4):
            for part, (rows, columns) in {"w1": (32, 64), "w2": (64, 32), "w3": (32, 64)}.items():
                codes[f"ffn.experts.{expert}.{part}.weight"] = (rows, columns // 2)
                scales[f"ffn.experts.{expert}.{part}.scale"] = (rows, columns // 32)
        groups = ((layers, "BF16"), (floats, "F32"), (codes, "I8"), (scales, "F8_E8M0"), (integers, "I32"))
        for found, kind in groups:
            for name, shape in found.items():
                shapes[f"layers.{layer}.{name}"] = shape
                if kind != "BF16":
                    kinds[f"layers.{layer}.{name}"] = kind
    return shapes, kinds


_SHAPES, _KINDS = _tensors()

_BLOCKS = {f"layers.{layer}.": f"mtp.{stage}." for stage, layer in enumerate((2, 1))}


def _of_draft(named: dict[str, Any]) -> dict[str, Any]:
    """What layers 2 and 1 have, as the two layers of a draft."""
    found = {}
    for name, value in named.items():
        if any(part in name for part in ("compressor", "indexer")):
            continue
        if name.startswith(tuple(_BLOCKS)):
            found[_BLOCKS[name[:9]] + name[9:]] = value
        if name.startswith(("norm.", "hc_head_")):
            found[f"mtp.1.{name}"] = value
    return found


_DSPARK: Shapes = {
    **_of_draft(dict(_SHAPES)),
    "embed.weight": (96, 64),
    "layers.0.attn_norm.weight": (64,),
    "mtp.0.main_proj.weight": (64, 192),
    "mtp.0.main_norm.weight": (64,),
    "mtp.1.markov_head.markov_w1.weight": (96, 16),
    "mtp.1.markov_head.markov_w2.weight": (96, 16),
    "mtp.1.confidence_head.proj.weight": (1, 80),
    "mtp.1.ffn.gate.bias_vl": (4,),
}

CASES = [
    Case("deepseek-v4", _CONFIG, _SHAPES, dtypes=_KINDS, raw_config=True),
    Case(
        "deepseek-v4-dspark",
        {
            **_CONFIG,
            "architectures": ["DeepseekV4DSparkModel"],
            "dspark_block_size": 6,
            "dspark_noise_token_id": 95,
            "dspark_target_layer_ids": [0, 1, 2],
            "num_nextn_predict_layers": 2,
        },
        _DSPARK,
        {f"{TARGET}/config.json": _CONFIG},
        dtypes={**_of_draft(_KINDS), "mtp.1.ffn.gate.bias_vl": "F32"},
        raw_config=True,
    ),
]
