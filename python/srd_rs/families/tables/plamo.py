"""The table of PLaMo."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import GATED_FFN

PLAMO: Final = FamilyTable(
    arch="plamo",
    classes=("PlamoForCausalLM",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 13312,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
        "n_shared_head": 8,
        "tie_word_embeddings": False,
    },
    # Query head i uses key head i % n_head_kv. ggml wants the queries of one key head side by side.
    sizes={"s": "n_shared_head"},
    n_head_kv="(num_attention_heads + n_shared_head - 1) // n_shared_head",
    layer_prefix="model.layers.layers",
    layer=(
        Rows(
            (
                "norm > attn_norm | d",
                "self_attn.q_proj > attn_q | q d | reshape(s, n_head_kv, h, d) axes(1, 0, 2, 3) reshape(q, d)",
                "self_attn.k_proj > attn_k | k d",
                "self_attn.v_proj > attn_v | k d",
                "self_attn.o_proj > attn_output | d q"
                " | reshape(d, s, n_head_kv, h) axes(0, 2, 1, 3) reshape(d, q)",
                *GATED_FFN,
            )
        ),
    ),
    skip=((r"rotary_emb\.", names.BUFFER),),
    metadata=("u32 ~context_length = 4096",),
    rope_theta=None,
    output_needed=True,
    square_output=True,
)
