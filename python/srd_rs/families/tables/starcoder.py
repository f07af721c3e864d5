"""The tables of the StarCoder models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import ATTENTION, NORMS, flagged

STARCODER2: Final = FamilyTable(
    arch="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    defaults={
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
    },
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | bias"),
    layer=(
        Rows(
            (
                *flagged(NORMS, "bias"),
                *flagged(ATTENTION, "bias"),
                "mlp.c_fc > ffn_up | f d | bias",
                "mlp.c_proj > ffn_down | d f | bias",
            )
        ),
    ),
)
