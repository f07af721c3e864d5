"""The groups of rows that several tables share."""

from __future__ import annotations

from typing import Final

NORMS: Final = ("input_layernorm > attn_norm | d", "post_attention_layernorm > ffn_norm | d")

ATTENTION: Final = (
    "self_attn.q_proj > attn_q | q d",
    "self_attn.k_proj > attn_k | k d",
    "self_attn.v_proj > attn_v | k d",
    "self_attn.o_proj > attn_output | d q",
)

HEAD_NORMS: Final = ("self_attn.q_norm > attn_q_norm | h", "self_attn.k_norm > attn_k_norm | h")

GATED_FFN: Final = (
    "mlp.gate_proj > ffn_gate | f d",
    "mlp.up_proj > ffn_up | f d",
    "mlp.down_proj > ffn_down | d f",
)

GATED_EXPERTS: Final = (
    "down_proj ffn_down_exps d x",
    "gate_proj ffn_gate_exps x d",
    "up_proj ffn_up_exps x d",
)

LLAMA_ATTENTION: Final = (
    "self_attn.q_proj > attn_q | q d | bias? permute_q",
    "self_attn.k_proj > attn_k | k d | bias? permute_k",
    "self_attn.v_proj > attn_v | k d | bias?",
    "self_attn.o_proj > attn_output | d q | bias?",
)

LLAMA_METADATA: Final = ("u32 ~vocab_size = n_vocab", "u32 ~rope.dimension_count = head_dim")


def flagged(rows: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """Return the rows with one more flag each."""
    return tuple(f"{row} {flag}" if row.count("|") == 2 else f"{row} | {flag}" for row in rows)
