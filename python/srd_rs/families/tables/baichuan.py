"""The table of Baichuan."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import GATED_FFN, NORMS
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, STATED_HEADS_KV

BAICHUAN: Final = FamilyTable(
    arch="baichuan",
    classes=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    defaults=LLAMA_DEFAULTS,
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.W_pack > attn_q | 3*d d | rows(0, d) permute_q",
                "self_attn.W_pack > attn_k | 3*d d | rows(d, d) permute_q",
                "self_attn.W_pack > attn_v | 3*d d | rows(2 * d, d)",
                "self_attn.o_proj > attn_output | d d",
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
