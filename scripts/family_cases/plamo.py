"""PLaMo 2 and 3."""

from __future__ import annotations

from family_cases import Case

_PLAMO2 = {
    "architectures": ["Plamo2ForCausalLM"],
    "attention_window_size": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "full_attention_idx": [],
    "hidden_size": 64,
    "hidden_size_per_head": 16,
    "image_feature_size": None,
    "intermediate_size": 96,
    "mamba_chunk_size": 256,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_enabled": True,
    "mamba_num_heads": 8,
    "mamba_step": 2,
    "max_position_embeddings": 256,
    "model_type": "plamo2",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 3,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
    "vocab_size": 96,
}
_NORMS = {f"{name}_norm.weight": (64,) for name in ("pre_mixer", "post_mixer", "pre_mlp", "post_mlp")}
_MLP = {"mlp.gate_up_proj.weight": (192, 64), "mlp.down_proj.weight": (64, 96)}
_MAMBA = {
    "mixer.in_proj.weight": (256, 64),
    "mixer.conv1d.weight": (128, 1, 4),
    "mixer.bcdt_proj.weight": (96, 128),
    "mixer.dt_proj.weight": (8, 64),
    "mixer.dt_bias": (8,),
    "mixer.A_log": (8,),
    "mixer.D": (8,),
    "mixer.dt_norm_weight": (64,),
    "mixer.B_norm_weight": (16,),
    "mixer.C_norm_weight": (16,),
    "mixer.out_proj.weight": (64, 128),
}
_ATTENTION = {
    "mixer.qkv_proj.weight": (128, 64),
    "mixer.q_weight": (4, 16),
    "mixer.k_weight": (2, 16),
    "mixer.o_proj.weight": (64, 64),
}


def _layers(*kinds: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    found = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,)}
    for index, kind in enumerate(kinds):
        for name, shape in {**_NORMS, **_MLP, **kind}.items():
            found[f"model.layers.layers.{index}.{name}"] = shape
    return found


_PLAMO3 = {
    "architectures": ["Plamo3ForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 96,
    "interleaved_sliding_window": [128, 128, 128, None],
    "max_position_embeddings": 256,
    "model_type": "plamo3",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_local_theta": 10000,
    "rope_theta": 1000000,
    "sliding_window_pattern": 8,
    "tie_word_embeddings": False,
    "vocab_size": 96,
    "window_size": 2048,
}
_NORMED = {
    "mixer.qkv_proj.weight": (128, 64),
    "mixer.q_norm.weight": (16,),
    "mixer.k_norm.weight": (16,),
    "mixer.o_proj.weight": (64, 64),
}

CASES = (
    Case("plamo2-as-published", _PLAMO2, _layers(_MAMBA, _ATTENTION, _MAMBA, _ATTENTION)),
    Case(
        "plamo3-as-published",
        _PLAMO3,
        {**_layers(_NORMED, _NORMED), "lm_head.weight": (96, 64)},
    ),
    Case(
        "plamo3-yarn",
        {**_PLAMO3, "rope_scaling_factor": 8, "initial_context_length": 128, "tie_word_embeddings": True},
        _layers(_NORMED, _NORMED),
    ),
)
