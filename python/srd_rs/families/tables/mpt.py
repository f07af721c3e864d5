"""The tables of MPT."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows

MPT: Final = FamilyTable(
    arch="mpt",
    classes=("MPTForCausalLM",),
    defaults={
        "vocab_size": 50368,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "max_position_embeddings": 2048,
        "attn_config": {},
    },
    spellings={"hidden_size": ("d_model",), "max_position_embeddings": ("max_seq_len",)},
    n_head_kv="first(attn_config['kv_n_heads'], n_head)",
    sizes={"qkv": "q + 2 * k"},
    n_ff="4 * d",
    layer_prefix="transformer.blocks",
    embedding="transformer.wte.weight",
    top=(
        "transformer.wte > token_embd | v d",
        "transformer.wpe > position_embd | max_position_embeddings d | ?",
        "transformer.norm_f > output_norm | d | bias?",
    ),
    layer=(
        Rows(
            (
                "norm_1 > attn_norm | d | bias?",
                "attn.Wqkv > attn_qkv | qkv d | bias?",
                "attn.out_proj > attn_output | d d | bias?",
                "attn.q_ln > attn_q_norm | d | bias? ?",
                "attn.k_ln > attn_k_norm | k | bias? ?",
                "norm_2 > ffn_norm | d | bias?",
                "ffn.up_proj > ffn_up | f d | bias?",
                "ffn.down_proj > ffn_down | d f | bias?",
                "ffn.act.scales! > ffn_act=.scales | f | ?",
            )
        ),
    ),
    metadata=(
        "u32 ~attention.head_count_kv = attn_config['kv_n_heads']",
        "f32 ~attention.layer_norm_epsilon = 0.00001",
        "f32 ~attention.clamp_kqv = attn_config['clip_qkv']",
        "f32 ~attention.max_alibi_bias = first(attn_config['alibi_bias_max'], 8) if attn_config['alibi'] else 0.0",
    ),
    without=("~attention.head_count_kv",),
    rope_theta=None,
    refusals=(
        Refusal("expansion_ratio != None and expansion_ratio != 4", "expansion_ratio is not 4"),
        Refusal("attn_config['softmax_scale'] != None", "scores are scaled (attn_config.softmax_scale)"),
        Refusal("attn_config['rope']", "positions are rotated (attn_config.rope)"),
    ),
    square_output=True,
)

SPELLINGS: Final = {"MptForCausalLM": "MPTForCausalLM"}
"""The class of transformers, and that of the code beside the published files."""
