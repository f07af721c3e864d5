"""The tables of GPT-2 and GPT-NeoX (Pythia), which have fused query-key-value projections with biases."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import OTHER_BASE

# GPT-2 stores its linear layers input by output.
GPT2: Final = FamilyTable(
    arch="gpt2",
    classes=("GPT2LMHeadModel",),
    defaults={
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
        "layer_norm_epsilon": 1e-5,
    },
    top=(
        "wte > token_embd | v d",
        "wpe > position_embd | max_position_embeddings d",
        "ln_f > output_norm | d | bias",
    ),
    layer_prefix="h",
    embedding="wte.weight",
    layer=(
        Rows(
            (
                "ln_1 > attn_norm | d | bias",
                "attn.c_attn > attn_qkv | d 3*d | transpose bias",
                "attn.c_proj > attn_output | d d | transpose bias",
                "ln_2 > ffn_norm | d | bias",
                "mlp.c_fc > ffn_up | d f | transpose bias",
                "mlp.c_proj > ffn_down | f d | transpose bias",
            )
        ),
    ),
    n_ff="first(n_inner, 4 * n_embd)",
    head_dim="None",
    without=("~attention.head_count_kv", "~rope.freq_base", "~rope.scaling.type", "~rope.scaling.factor"),
    renames=((r"^transformer\.", ""),),
    skip=((r"\.attn\.(masked_)?bias$", names.BUFFER),),
    rope_theta=None,
    square_output=True,
)

GPT_NEOX: Final = FamilyTable(
    arch="gptneox",
    classes=("GPTNeoXForCausalLM",),
    defaults={
        "vocab_size": 50432,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
    },
    top=("gpt_neox.embed_in > token_embd | v d", "gpt_neox.final_layer_norm > output_norm | d | bias"),
    output="embed_out > output | v d",
    layer_prefix="gpt_neox.layers",
    embedding="gpt_neox.embed_in.weight",
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d | bias",
                "attention.query_key_value > attn_qkv | 3*d d | by_kind(n_head, h, h, h) bias",
                "attention.dense > attn_output | d d | bias",
                "post_attention_layernorm > ffn_norm | d | bias",
                "mlp.dense_h_to_4h > ffn_up | f d | bias",
                "mlp.dense_4h_to_h > ffn_down | d f | bias",
            )
        ),
    ),
    head_dim="None",
    metadata=(
        "u32 ~rope.dimension_count = int(rope_fraction * head_dim)",
        "bool ~use_parallel_residual = first(use_parallel_residual, 1) == 1",
        OTHER_BASE,
    ),
    without=("~attention.head_count_kv", "~rope.freq_base"),
    output_needed=True,
    square_output=True,
)
