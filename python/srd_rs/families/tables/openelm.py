"""The tables of OpenELM, whose layers have numbers of heads and widths of their own."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows

_WIDTH = "max(ffn_dim_divisor, int(wanted + ffn_dim_divisor / 2) // ffn_dim_divisor * ffn_dim_divisor)"

OPENELM: Final = FamilyTable(
    arch="openelm",
    classes=("OpenELMForCausalLM",),
    spellings={
        "hidden_size": ("model_dim",),
        "num_hidden_layers": ("num_transformer_layers",),
        "max_position_embeddings": ("max_context_length",),
        "rope_theta": ("rope_freq_constant",),
    },
    sizes={
        "wanted": "ffn_multipliers[layer] * d",
        "rounded": _WIDTH,
        "qkv": "q + 2 * k",
    },
    n_head="num_query_heads[layer]",
    n_head_kv="num_kv_heads[layer]",
    n_ff="rounded + (ffn_dim_divisor if rounded < 0.9 * wanted else 0) + 0 * layer",
    layer_prefix="transformer.layers",
    embedding="transformer.token_embeddings.weight",
    output=None,
    top=("transformer.token_embeddings > token_embd | v d", "transformer.norm > output_norm | d"),
    layer=(
        Rows(
            (
                "attn_norm > attn_norm | d",
                "attn.qkv_proj > attn_qkv | qkv d",
                "attn.q_norm > attn_q_norm | h",
                "attn.k_norm > attn_k_norm | h",
                "attn.out_proj > attn_output | d q",
                "ffn_norm > ffn_norm | d",
                "ffn.proj_1 > ffn_gate | 2*f d | rows(0, f)",
                "ffn.proj_1 > ffn_up | 2*f d | rows(f, f)",
                "ffn.proj_2 > ffn_down | d f",
            )
        ),
    ),
    metadata=("f32 ~attention.layer_norm_rms_epsilon = 0.000001", "u32 ~rope.dimension_count = head_dim"),
)
