"""The table of XVERSE."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import GATED_FFN, NORMS
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, STATED_HEADS_KV

XVERSE: Final = FamilyTable(
    arch="xverse",
    classes=("XverseForCausalLM",),
    defaults=LLAMA_DEFAULTS,
    # The rows of keys are grouped as if each group of heads were one head, as llama.cpp's converter does it.
    sizes={"groups": "n_head if n_head == n_head_kv else n_head // n_head_kv"},
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.q_proj > attn_q | q d | permute_q",
                "self_attn.k_proj > attn_k | k d | permute_k",
                "self_attn.v_proj > attn_v | k d",
                "self_attn.o_proj > attn_output | d q",
                *GATED_FFN,
            )
        ),
    ),
    metadata=(
        "str ~tensor_data_layout = 'Meta AI original pth'",
        "u32 ~rope.dimension_count = hidden_size // n_head",
        STATED_HEADS_KV,
    ),
    without=("~attention.head_count_kv",),
    rope_theta=None,
    output_needed=True,
    square_output=True,
)
