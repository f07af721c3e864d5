"""The tables of the models of Databricks."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows

DBRX: Final = FamilyTable(
    arch="dbrx",
    classes=("DbrxForCausalLM",),
    defaults={"tie_word_embeddings": False},
    spellings={"hidden_size": ("d_model",), "max_position_embeddings": ("max_seq_len",)},
    n_head_kv="attn_config['kv_n_heads']",
    n_ff="ffn_config['ffn_hidden_size']",
    n_expert="ffn_config['moe_num_experts']",
    n_expert_used="ffn_config['moe_top_k']",
    sizes={"qkv": "(n_head + 2 * n_head_kv) * h", "rows_of_experts": "n_expert * n_ff"},
    top=("transformer.wte > token_embd | v d", "transformer.norm_f > output_norm | d"),
    layer_prefix="transformer.blocks",
    embedding="transformer.wte.weight",
    layer=(
        Rows(
            (
                "norm_attn_norm.norm_1 > attn_norm | d",
                "norm_attn_norm.attn.Wqkv > attn_qkv | qkv d",
                "norm_attn_norm.attn.out_proj > attn_output | d q",
                "norm_attn_norm.norm_2 > attn_output_norm | d",
                "ffn.router.layer > ffn_gate_inp | e d | auto",
                "ffn.experts.mlp.w1! > ffn_gate_exps | rows_of_experts d | reshape(e, f, d)",
                "ffn.experts.mlp.v1! > ffn_up_exps | rows_of_experts d | reshape(e, f, d)",
                "ffn.experts.mlp.w2! > ffn_down_exps | rows_of_experts d | reshape(e, f, d) axes(0, 2, 1)",
            )
        ),
    ),
    metadata=(
        "f32 ~rope.freq_base = first(attn_config['rope_theta'], 10000.0)",
        "f32 ~attention.clamp_kqv = attn_config['clip_qkv']",
        "f32 ~attention.layer_norm_epsilon = 1e-5",
    ),
    output_needed=True,
    square_output=True,
)
