"""The tables of PLM."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import NORMS

PLM: Final = FamilyTable(
    arch="plm",
    classes=("PLMForCausalLM",),
    defaults={"rms_norm_eps": 1e-6},
    sizes={
        "qk": "qk_nope_head_dim + qk_rope_head_dim",
        "kr": "kv_lora_rank + qk_rope_head_dim",
        "kvb": "n_head * (qk_nope_head_dim + v_head_dim)",
    },
    output=None,
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.q_proj > attn_q | n_head*qk d",
                "self_attn.kv_a_proj_with_mqa > attn_kv_a_mqa | kr d",
                "self_attn.kv_a_layernorm > attn_kv_a_norm | kv_lora_rank",
                "self_attn.kv_b_proj > attn_kv_b | kvb kv_lora_rank",
                "self_attn.o_proj > attn_output | d n_head*v_head_dim",
                "mlp.up_proj > ffn_up | f d",
                "mlp.down_proj > ffn_down | d f",
            )
        ),
    ),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.kv_lora_rank = kv_lora_rank",
        "u32 ~attention.key_length = qk",
        "u32 ~attention.value_length = v_head_dim",
        "u32 ~rope.dimension_count = qk_rope_head_dim",
    ),
)
