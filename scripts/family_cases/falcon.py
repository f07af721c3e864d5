"""Models of TII: the first two generations of Falcon."""

from __future__ import annotations

from typing import Any

from family_cases import Case, layers

_7B: dict[str, Any] = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["FalconForCausalLM"],
    "attention_dropout": 0.0,
    "bias": False,
    "bos_token_id": 11,
    "eos_token_id": 11,
    "hidden_dropout": 0.0,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "falcon",
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "parallel_attn": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
_40B: dict[str, Any] = {**_7B, "new_decoder_architecture": True, "num_kv_heads": 2}
_NORMS = {f"{n}.{part}": (64,) for n in ("ln_attn", "ln_mlp") for part in ("weight", "bias")}
_REST = {
    "mlp.dense_4h_to_h.weight": (64, 256),
    "mlp.dense_h_to_4h.weight": (256, 64),
    "self_attention.dense.weight": (64, 64),
}
_TOP = {
    "lm_head.weight": (96, 64),
    "transformer.ln_f.bias": (64,),
    "transformer.ln_f.weight": (64,),
    "transformer.word_embeddings.weight": (96, 64),
}
_MULTI_QUERY = {
    **_TOP,
    **layers(
        2,
        {
            **_REST,
            "input_layernorm.bias": (64,),
            "input_layernorm.weight": (64,),
            "self_attention.query_key_value.weight": (96, 64),
        },
        "transformer.h",
    ),
}

CASES = (
    Case(
        "falcon-7b",
        # not "falcon", for which the newest transformers states as many KV heads as heads
        {**_7B, "model_type": "RefinedWebModel"},
        _MULTI_QUERY,
    ),
    Case(
        "falcon-40b",
        _40B,
        {
            **_TOP,
            **layers(
                2,
                {**_NORMS, **_REST, "self_attention.query_key_value.weight": (128, 64)},
                "transformer.h",
            ),
        },
    ),
    Case(
        "falcon-rw",
        {
            **{
                k: v
                for k, v in _7B.items()
                if k not in ("new_decoder_architecture", "num_attention_heads", "num_hidden_layers")
            },
            "architectures": ["RWForCausalLM"],
            "model_type": "RefinedWebModel",
            "n_head": 4,
            "n_layer": 2,
        },
        _MULTI_QUERY,
    ),
    Case(
        "falcon-11b",
        {**_40B, "ffn_hidden_size": 256, "num_ln_in_parallel_attn": 1, "tie_word_embeddings": True},
    ),
)
