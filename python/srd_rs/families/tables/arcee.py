"""The tables of the Arcee models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import LLAMA_ATTENTION, LLAMA_METADATA, NORMS
from srd_rs.vocab.rules import LLAMA

ARCEE: Final = FamilyTable(
    arch="arcee",
    classes=("ArceeForCausalLM",),
    vocabulary=LLAMA,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 2560,
        "intermediate_size": 18432,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                *NORMS[:1],
                *LLAMA_ATTENTION,
                *NORMS[1:],
                "mlp.up_proj > ffn_up | f d",
                "mlp.down_proj > ffn_down | d f",
            )
        ),
    ),
    metadata=LLAMA_METADATA,
    head_dim="head_dim",
    llama3_rope=True,
    pooling=True,
)
