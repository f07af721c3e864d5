"""The tables of the Seed models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import BIASED_QKV, GATED_FFN

SEED_OSS: Final = FamilyTable(
    arch="seed_oss",
    classes=("SeedOssForCausalLM",),
    defaults={
        "attention_bias": True,
        "attention_out_bias": False,
        "mlp_bias": False,
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
    },
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                *BIASED_QKV,
                "post_attention_layernorm > post_attention_norm | d",
                *GATED_FFN,
            )
        ),
    ),
)
