"""The tables of the models of Snowflake."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION

ARCTIC: Final = FamilyTable(
    arch="arctic",
    classes=("ArcticForCausalLM",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_experts": 8,
        "num_experts_per_tok": 1,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                "self_attn.q_proj > attn_q | q d | permute_q",
                "self_attn.k_proj > attn_k | k d | permute_k",
                *ATTENTION[2:],
                "residual_layernorm > ffn_norm | d",
                "residual_mlp.w1 > ffn_gate | d d",
                "residual_mlp.w3 > ffn_up | d d",
                "residual_mlp.w2 > ffn_down | d d",
                "post_attention_layernorm > ffn_norm_exps | d",
                "block_sparse_moe.gate > ffn_gate_inp | e d",
            )
        ),
    ),
    experts=StackedExperts(
        "block_sparse_moe.experts",
        "num_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps f d", "w2 ffn_down_exps d f", "w3 ffn_up_exps f d"),
    ),
    metadata=("u32 ~vocab_size = n_vocab", "u32 ~rope.dimension_count = n_embd // n_head"),
    refusals=(
        Refusal("first(moe_layer_frequency, 1) != 1", "not every layer has experts (moe_layer_frequency)"),
        Refusal("parallel_attn_mlp_res == 0", "experts do not run beside attention (parallel_attn_mlp_res)"),
    ),
    square_output=True,
)
