"""The tables of ruGPT-3."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows

RUGPT3XL: Final = FamilyTable(
    arch="gpt2",
    classes=("RuGPT3XLForCausalLM",),
    top=(
        "model.embed_tokens > token_embd | v d",
        "model.embed_positions > position_embd | max_position_embeddings d",
        "model.norm > output_norm | d | bias",
    ),
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d | bias",
                "self_attn.q_proj + self_attn.k_proj + self_attn.v_proj > attn_qkv | d d | bias",
                "self_attn.o_proj > attn_output | d d | bias",
                "post_attention_layernorm > ffn_norm | d | bias",
                "mlp.up_proj > ffn_up | f d | bias",
                "mlp.down_proj > ffn_down | d f | bias",
            )
        ),
    ),
    without=("~attention.head_count_kv",),
    rope_theta=None,
    square_output=True,
)
