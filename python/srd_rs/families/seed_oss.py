"""Seed-OSS has the Llama skeleton with biases on queries, keys and values. Its rows are not permuted."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from srd_rs.families.base import GATED_FFN, LLAMA_LAYER, Family


class SeedOss(Family):
    arch = "seed_oss"
    classes = ("SeedOssForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 155136,
        "hidden_size": 4096,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 80,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    layer_rows = (
        *(replace(r, target="post_attention_norm") if r.target == "ffn_norm" else r for r in LLAMA_LAYER),
        *GATED_FFN,
    )
