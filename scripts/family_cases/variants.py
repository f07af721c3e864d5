"""Variants of config.json that published files have: null where a key may be absent, old and new spellings of RoPE,
heads of another size, and keys that are left out."""

from __future__ import annotations

from typing import Any

from family_cases import Case

_BASE: dict[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "vocab_size": 96,
}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 1024, "rope_type": "yarn"}
_QWEN2: dict[str, Any] = {
    **_BASE,
    "architectures": ["Qwen2ForCausalLM"],
    "max_window_layers": 1,
    "model_type": "qwen2",
    "num_key_value_heads": None,
    "rope_theta": 1000000.0,
    "sliding_window": 1024,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
_OLMO3: dict[str, Any] = {
    **_BASE,
    "architectures": ["Olmo3ForCausalLM"],
    "model_type": "olmo3",
    "num_hidden_layers": 4,
    "sliding_window": 1024,
    "tie_word_embeddings": False,
}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DEEPSEEK: dict[str, Any] = {
    **_BASE,
    "architectures": ["DeepseekV3ForCausalLM"],
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "topk_group": 1,
    "v_head_dim": 16,
}
_LABELS = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}

CASES = (
    Case("qwen2-null-kv-heads", _QWEN2),
    Case("olmo3", {**_OLMO3, "rope_theta": 500000, "rope_scaling": {**_YARN, "attention_factor": 1.2}}),
    Case("olmo3-without-theta", _OLMO3),
    Case(
        "mistral-odd-heads-yarn",
        {
            **_BASE,
            "architectures": ["MistralForCausalLM"],
            "head_dim": 24,
            "model_type": "mistral",
            "rope_parameters": {**_YARN, "beta_fast": 16.0, "beta_slow": 2.0, "rope_theta": 1000000.0},
            "sliding_window": None,
            "tie_word_embeddings": True,
        },
    ),
    Case(
        "qwen3moe-short",
        {
            **_BASE,
            **_EXPERTS,
            "architectures": ["Qwen3MoeForCausalLM"],
            "head_dim": 32,
            "model_type": "qwen3_moe",
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 1024, "type": "yarn"},
            "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
        },
    ),
    Case(
        "qwen3-coder",
        {
            **_BASE,
            **_EXPERTS,
            "architectures": ["Qwen3MoeForCausalLM"],
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "head_dim": 32,
            "hidden_act": "silu",
            "max_window_layers": 28,
            "mlp_only_layers": [],
            "model_type": "qwen3_moe",
            "norm_topk_prob": True,
            "output_router_logits": False,
            "qkv_bias": False,
            "rope_scaling": None,
            "rope_theta": 10000000,
            "router_aux_loss_coef": 0.0,
            "shared_expert_intermediate_size": 0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_qk_norm": True,
            "use_sliding_window": False,
        },
    ),
    Case("deepseek-v3-without-q-lora", _DEEPSEEK),
    Case(
        "modernbert-three-labels",
        {
            **{k: v for k, v in _BASE.items() if k not in ("num_key_value_heads", "rms_norm_eps")},
            **_LABELS,
            "architectures": ["ModernBertForSequenceClassification"],
            "classifier_pooling": "cls",
            "cls_token_id": 1,
            "global_attn_every_n_layers": 2,
            "local_attention": 128,
            "model_type": "modernbert",
            "sep_token_id": 2,
        },
    ),
)
