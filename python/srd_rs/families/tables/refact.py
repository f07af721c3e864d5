"""The tables of Refact."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows

REFACT: Final = FamilyTable(
    arch="refact",
    classes=("GPTRefactForCausalLM",),
    n_head_kv="1",
    n_ff="(8 * d // 3 + 255) // 256 * 256",
    layer_prefix="transformer.h",
    embedding="transformer.wte.weight",
    top=("transformer.wte > token_embd | v d", "transformer.ln_f > output_norm | d"),
    layer=(
        Rows(
            (
                "ln_1 > attn_norm | d",
                "attn.q > attn_q | d d",
                "attn.kv > attn_k | 2*h d | rows(0, h)",
                "attn.kv > attn_v | 2*h d | rows(h, h)",
                "attn.c_proj > attn_output | d d",
                "ln_2 > ffn_norm | d",
                "mlp.gate_up_proj > ffn_gate | 2*f d | rows(0, f)",
                "mlp.gate_up_proj > ffn_up | 2*f d | rows(f, f)",
                "mlp.c_proj > ffn_down | d f",
            )
        ),
    ),
    metadata=("f32 ~attention.layer_norm_rms_epsilon = first(layer_norm_epsilon, 0.00001)",),
    without=("~attention.layer_norm_epsilon",),
    rope_theta=None,
)
