"""The tables of models of NVIDIA that grew from Llama."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import GATED_FFN, LLAMA_ATTENTION, LLAMA_METADATA
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import LLAMA

LLAMA_EMBED: Final = FamilyTable(
    arch="llama-embed",
    classes=("LlamaBidirectionalModel",),
    vocabulary=LLAMA,
    defaults=LLAMA_DEFAULTS,
    layer=LLAMA_LAYER,
    head_dim="h",
    metadata=LLAMA_METADATA,
    llama3_rope=True,
    pooling=True,
)

DECI: Final = FamilyTable(
    arch="deci",
    classes=("DeciLMForCausalLM",),
    defaults=LLAMA_DEFAULTS,
    sizes={
        "blocks": "block_configs",
        "per_head": "hidden_size // num_attention_heads",
        "group": "blocks[layer]['attention']['n_heads_in_group'] if blocks != None else None",
        "linear": "blocks != None and group == None and blocks[layer]['attention']['replace_with_linear'] == True",
        "none": "blocks != None and group == None and not linear",
        "mult": "blocks[layer]['ffn']['ffn_mult'] if blocks != None else None",
        "wide": "int(2 * first(mult, 0) * hidden_size / 3)",
        "no_ffn": "blocks != None and mult == None",
    },
    n_head="0 if none else num_attention_heads + 0 * layer",
    n_head_kv="(num_attention_heads // group if group != None else 0) if blocks != None"
    " else num_key_value_heads_per_layer[layer] if num_key_value_heads_per_layer != None"
    " else first(num_key_value_heads, num_attention_heads) + 0 * layer",
    n_ff="(wide + 255) // 256 * 256 if blocks != None else intermediate_size + 0 * layer",
    layer=(
        Rows(("input_layernorm > attn_norm | d",), "not none"),
        Rows(LLAMA_ATTENTION, "not none and not linear"),
        Rows(("self_attn.linear_attn > attn_output | d d",), "linear"),
        Rows(("post_attention_layernorm > ffn_norm | d", *GATED_FFN), "not no_ffn"),
    ),
    head_dim="per_head if blocks != None else config['head_dim']",
    metadata=(
        *LLAMA_METADATA,
        "u32 ~attention.head_count = None if blocks != None else num_attention_heads",
        "u32 ~feed_forward_length = None if blocks != None else intermediate_size",
    ),
    llama3_rope=True,
)
