"""The tables of the StarCoder models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, NORMS, WINDOW, flagged

STARCODER2: Final = FamilyTable(
    arch="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    defaults={
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
    },
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | bias"),
    layer=(
        Rows(
            (
                *flagged(NORMS, "bias"),
                *flagged(ATTENTION, "bias"),
                "mlp.c_fc > ffn_up | f d | bias",
                "mlp.c_proj > ffn_down | d f | bias",
            )
        ),
    ),
    refusals=(WINDOW,),
    square_output=True,
)

BIGCODE: Final = FamilyTable(
    arch="starcoder",
    classes=("GPTBigCodeForCausalLM",),
    defaults={
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
        "layer_norm_epsilon": 1e-5,
        "multi_query": True,
    },
    sizes={"qkv": "q + 2 * k"},
    n_head_kv="1",
    n_ff="4 * d",
    layer_prefix="transformer.h",
    embedding="transformer.wte.weight",
    top=(
        "transformer.wte > token_embd | v d",
        "transformer.wpe > position_embd | max_position_embeddings d",
        "transformer.ln_f > output_norm | d | bias",
    ),
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
    rope_theta=None,
    refusals=(
        Refusal("multi_query == False", "each head has keys and values of its own (multi_query is false)"),
        Refusal("first(n_inner, 4 * d) != 4 * d", "n_inner is not four times n_embd"),
    ),
    square_output=True,
)
