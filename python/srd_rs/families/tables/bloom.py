"""The tables of BLOOM."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows

BLOOM: Final = FamilyTable(
    arch="bloom",
    classes=("BloomForCausalLM", "BloomModel"),
    defaults={
        "vocab_size": 250880,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "layer_norm_epsilon": 1e-5,
    },
    spellings={"hidden_size": ("n_embed",)},
    n_ff="4 * d",
    layer_prefix="h",
    embedding="word_embeddings.weight",
    renames=((r"^transformer\.", ""),),
    top=(
        "word_embeddings > token_embd | v d",
        "word_embeddings_layernorm > token_embd_norm | d | bias",
        "ln_f > output_norm | d | bias",
    ),
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d | bias",
                "self_attention.query_key_value > attn_qkv | 3*d d | bias by_kind(n_head, h, h, h)",
                "self_attention.dense > attn_output | d d | bias",
                "post_attention_layernorm > ffn_norm | d | bias",
                "mlp.dense_h_to_4h > ffn_up | f d | bias",
                "mlp.dense_4h_to_h > ffn_down | d f | bias",
            )
        ),
    ),
    metadata=("u32 ~context_length = first(seq_length, n_embd)",),
    rope_theta=None,
    square_output=True,
)
