"""The tables of CodeShell."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows

CODESHELL: Final = FamilyTable(
    arch="codeshell",
    classes=("CodeShellForCausalLM",),
    n_head_kv="num_query_groups",
    sizes={"qkv": "q + 2 * k"},
    n_ff="4 * d",
    layer_prefix="transformer.h",
    embedding="transformer.wte.weight",
    top=("transformer.wte > token_embd | v d | ?", "transformer.ln_f > output_norm | d | bias"),
    layer=(
        Rows(
            (
                "ln_1 > attn_norm | d | bias",
                "attn.c_attn > attn_qkv | qkv d | bias",
                "attn.c_proj > attn_output | d d | bias",
                "ln_2 > ffn_norm | d | bias",
                "mlp.c_fc > ffn_up | f d | bias",
                "mlp.c_proj > ffn_down | d f | bias",
            )
        ),
    ),
    tied="0",
    metadata=(
        "f32 ~rope.freq_base = 10000.0",
        "str ~rope.scaling.type = 'linear'",
        "f32 ~rope.scaling.factor = 1.0",
    ),
    square_output=True,
)
