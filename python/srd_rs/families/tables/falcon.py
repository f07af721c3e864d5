"""The tables of the first two generations of Falcon."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import OTHER_BASE

FALCON: Final = FamilyTable(
    arch="falcon",
    classes=("FalconForCausalLM", "RWForCausalLM"),
    defaults={
        "vocab_size": 65024,
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "layer_norm_epsilon": 1e-5,
        "multi_query": True,
    },
    n_head_kv="config['n_head_kv'] if config['n_head_kv'] != None"
    " else first(num_key_value_heads, n_head) if new_decoder_architecture else 1 if multi_query else n_head",
    sizes={"qkv": "q + 2 * k"},
    n_ff="4 * d",
    head_dim="None",
    layer_prefix="transformer.h",
    embedding="transformer.word_embeddings.weight",
    top=(
        "transformer.word_embeddings > token_embd | v d",
        "transformer.ln_f > output_norm | d | bias",
    ),
    layer=(
        Rows(
            (
                "self_attention.query_key_value > attn_qkv | qkv d | by_kind(n_head_kv, q // n_head_kv, h, h)",
                "self_attention.dense > attn_output | d d",
                "mlp.dense_h_to_4h > ffn_up | f d",
                "mlp.dense_4h_to_h > ffn_down | d f",
            )
        ),
        Rows(
            ("ln_attn > attn_norm_2 | d | bias", "ln_mlp > attn_norm | d | bias"),
            "layer_has('ln_mlp.weight')",
        ),
        Rows(("input_layernorm > attn_norm | d | bias",), "not layer_has('ln_mlp.weight')"),
    ),
    metadata=("u32 ~context_length = 2048", "str ~tensor_data_layout = 'jploski'", OTHER_BASE),
    without=("~rope.freq_base",),
    refusals=(
        Refusal("alibi", "positions are biases (alibi)"),
        Refusal("bias", "linear layers have biases (bias)"),
        Refusal("parallel_attn == False", "attention and feed-forward are not side by side (parallel_attn)"),
        Refusal("first(ffn_hidden_size, 4 * d) != 4 * d", "ffn_hidden_size is not four times hidden_size"),
    ),
    square_output=True,
)
