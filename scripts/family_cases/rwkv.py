"""RWKV 6 and 7, and models with its time mixing."""

from __future__ import annotations

from collections.abc import Mapping

from family_cases import Case, Shapes, layers

_RWKV6 = {
    "architectures": ["Rwkv6ForCausalLM"],
    "attention_hidden_size": 64,
    "auto_map": {
        "AutoConfig": "configuration_rwkv6.Rwkv6Config",
        "AutoModelForCausalLM": "modeling_rwkv6.Rwkv6ForCausalLM",
    },
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_size": 32,
    "head_size_divisor": 8,
    "hidden_size": 64,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "model_max_length": 4096,
    "model_type": "rwkv6",
    "num_attention_heads": 64,
    "num_hidden_layers": 3,
    "rescale_every": 2,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 96,
}


def _normed(*names: str) -> Shapes:
    return {f"{name}.{part}": (64,) for name in names for part in ("weight", "bias")}


_VECTOR = (1, 1, 64)
_LAYER6 = {
    **_normed("ln1", "ln2", "attention.ln_x"),
    **{f"attention.time_maa_{part}": _VECTOR for part in "xwkvrg"},
    "attention.time_maa_w1": (64, 160),
    "attention.time_maa_w2": (5, 32, 64),
    "attention.time_decay": _VECTOR,
    "attention.time_decay_w1": (64, 64),
    "attention.time_decay_w2": (64, 64),
    "attention.time_faaaa": (2, 32),
    **{f"attention.{part}.weight": (64, 64) for part in ("receptance", "key", "value", "gate", "output")},
    "feed_forward.time_maa_k": _VECTOR,
    "feed_forward.time_maa_r": _VECTOR,
    "feed_forward.key.weight": (224, 64),
    "feed_forward.receptance.weight": (64, 64),
    "feed_forward.value.weight": (64, 224),
}
_QRWKV6 = {
    "architectures": ["RWKV6Qwen2ForCausalLM"],
    "attention_bias": True,
    "attention_output_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "gate_rank_type": 0,
    "groupnorm_att": False,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "lora_rank_decay": 16,
    "lora_rank_tokenshift": 8,
    "max_position_embeddings": 4096,
    "model_type": "rwkv6qwen2",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "use_rope": False,
    "vocab_size": 96,
}
_FFN = {
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96),
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
}
_TOP = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,), "lm_head.weight": (96, 64)}


def _qwen_layer(mixed: int, decay: int, vector: tuple[int, ...], biases: bool) -> Shapes:
    widths = {"q": 64, "k": 32, "v": 32}
    return {
        **_FFN,
        **{f"self_attn.time_maa_{part}": vector for part in "xrkvwg"},
        "self_attn.time_maa_w1": (64, 5 * mixed),
        "self_attn.time_maa_w2": (5, mixed, 64),
        "self_attn.time_decay": vector,
        "self_attn.time_decay_w1": (64, decay),
        "self_attn.time_decay_w2": (decay, 64),
        **{f"self_attn.{part}_proj.weight": (width, 64) for part, width in widths.items()},
        **({f"self_attn.{part}_proj.bias": (width,) for part, width in widths.items()} if biases else {}),
        "self_attn.gate.weight": (64, 64),
        "self_attn.o_proj.weight": (64, 64),
    }


_RWKV7 = {
    "architectures": ["RWKV7ForCausalLM"],
    "a_low_rank_dim": 16,
    "attn": None,
    "attn_mode": "chunk",
    "bos_token_id": 0,
    "decay_low_rank_dim": 16,
    "eos_token_id": 0,
    "fuse_cross_entropy": True,
    "fuse_norm": False,
    "gate_low_rank_dim": 24,
    "head_dim": 32,
    "hidden_act": "sqrelu",
    "hidden_ratio": 4.0,
    "hidden_size": 64,
    "initializer_range": 0.006,
    "intermediate_size": 256,
    "max_position_embeddings": 2048,
    "model_type": "rwkv7",
    "norm_bias": True,
    "norm_eps": 1e-05,
    "norm_first": True,
    "num_heads": 2,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "use_cache": True,
    "v_low_rank_dim": 8,
    "value_dim": [64, 64],
    "vocab_size": 96,
}
_RANKS = {"w": 16, "a": 16, "v": 8, "g": 24}


def _low_rank(ranks: Mapping[str, int], without: str) -> Shapes:
    """The matrices of low rank as layers, as FLA has them."""
    ranks = {part: rank for part, rank in ranks.items() if part not in without}
    return {
        **{f"attn.{part}_lora.lora.0.weight": (rank, 64) for part, rank in ranks.items()},
        **{f"attn.{part}_lora.lora.2.weight": (64, rank) for part, rank in ranks.items()},
        **{f"attn.{part}_lora.lora.2.bias": (64,) for part in ranks if part != "g"},
    }


def _parameters(ranks: Mapping[str, int], without: str = "") -> Shapes:
    """The same as parameters."""
    ranks = {part: rank for part, rank in ranks.items() if part not in without}
    return {
        **{f"{part}1": (64, rank) for part, rank in ranks.items()},
        **{f"{part}2": (rank, 64) for part, rank in ranks.items()},
        **{f"{part}0": _VECTOR for part in ranks if part != "g"},
    }


def _fla(lerp: Shapes) -> Shapes:
    layer = {
        **_normed("attn_norm", "ffn_norm", "attn.g_norm"),
        **lerp,
        "attn.k_k": (64,),
        "attn.k_a": (64,),
        "attn.r_k": (2, 32),
        **{f"attn.{part}_proj.weight": (64, 64) for part in "rkvo"},
        "ffn.x_k": (64,),
        "ffn.key.weight": (256, 64),
        "ffn.value.weight": (64, 256),
    }
    return {
        "model.embeddings.weight": (96, 64),
        **_normed("model.layers.0.pre_norm", "model.norm"),
        "lm_head.weight": (96, 64),
        **layers(2, layer),
        **{f"model.layers.0.{name}": shape for name, shape in _low_rank(_RANKS, "v").items()},
        **{f"model.layers.1.{name}": shape for name, shape in _low_rank(_RANKS, "").items()},
    }


_RWKV7_PLAIN = {
    "architectures": ["Rwkv7ForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_size": 32,
    "hidden_size": 64,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "lora_rank_decay": None,
    "lora_rank_gate": None,
    "lora_rank_iclr": None,
    "lora_rank_value_residual_mix": None,
    "model_type": "rwkv7",
    "num_hidden_layers": 2,
    "vocab_size": 96,
}
_PLAIN_RANKS = dict.fromkeys("wavg", 32)
_PLAIN_LAYER = {
    **_normed("ln1", "ln2", "attention.ln_x"),
    **{f"attention.x_{part}": _VECTOR for part in "rwkvag"},
    **{f"attention.{name}": shape for name, shape in _parameters(_PLAIN_RANKS).items()},
    "attention.k_k": _VECTOR,
    "attention.k_a": _VECTOR,
    "attention.r_k": (2, 32),
    **{f"attention.{part}.weight": (64, 64) for part in ("receptance", "key", "value", "output")},
    "feed_forward.x_k": _VECTOR,
    "feed_forward.key.weight": (256, 64),
    "feed_forward.value.weight": (64, 256),
}
_ARWKV = {
    "architectures": ["RwkvHybridForCausalLM"],
    "attention_dropout": 0.0,
    "head_size": 32,
    "head_size_divisor": 8,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "model_type": "rwkv_hybrid",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_wkv_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 96,
    "wkv_has_gate": False,
    "wkv_has_group_norm": False,
    "wkv_layers": "all",
    "wkv_version": 7,
}
_ARWKV_RANKS = {"w": 64, "a": 64, "v": 32, "g": 128}


def _arwkv(without: str, group_norm: bool) -> Shapes:
    def mixer(gone: str) -> Shapes:
        lerp = [part for part in "rwkvag" if part not in without]
        return {
            **{f"x_{part}": _VECTOR for part in lerp},
            **_parameters(_ARWKV_RANKS, without + gone),
            "k_k": _VECTOR,
            "k_a": _VECTOR,
            "r_k": (2, 32),
            **{f"{part}.weight": (64, 64) for part in ("receptance", "key", "value", "output")},
            **(_normed("ln_x") if group_norm else {}),
        }

    return {
        **_TOP,
        **layers(2, _FFN),
        **{
            f"model.layers.{layer}.self_attn.time_mixer.{name}": shape
            for layer, gone in enumerate(("v", ""))
            for name, shape in mixer(gone).items()
        },
    }


CASES = [
    Case(
        "rwkv6-finch",
        _RWKV6,
        {
            "rwkv.embeddings.weight": (96, 64),
            **_normed("rwkv.blocks.0.pre_ln", "rwkv.ln_out"),
            "head.weight": (96, 64),
            **layers(3, _LAYER6, "rwkv.blocks"),
        },
    ),
    Case("qrwkv6", _QRWKV6, {**_TOP, **layers(2, _qwen_layer(8, 16, _VECTOR, True))}),
    Case(
        "qrwkv6-flat",
        {k: v for k, v in _QRWKV6.items() if not k.startswith("lora_rank")},
        {**_TOP, **layers(2, _qwen_layer(32, 64, (64,), False))},
    ),
    Case("rwkv7-world", _RWKV7, _fla({f"attn.x_{part}": _VECTOR for part in "rwkvag"})),
    Case("rwkv7-world-fused", _RWKV7, _fla({"attn.x_x": (6, 64)})),
    Case(
        "rwkv7-parameters",
        _RWKV7_PLAIN,
        {
            "model.embeddings.weight": (96, 64),
            **_normed("model.pre_ln", "model.ln_out"),
            "head.weight": (96, 64),
            **layers(2, _PLAIN_LAYER, "model.blocks"),
        },
    ),
    Case("arwkv", _ARWKV, _arwkv("g", group_norm=False)),
    Case(
        "arwkv-gate",
        {**_ARWKV, "wkv_has_gate": True, "wkv_has_group_norm": True},
        _arwkv("", group_norm=True),
    ),
]
