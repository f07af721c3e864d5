"""The tables of T5 and its relatives: an encoder, and mostly a decoder that attends to the output of the encoder."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Rows, Stack


def _attention(source: str, target: str) -> tuple[str, ...]:
    """Return the four projections of an attention, whose heads have `d_kv` values each."""
    return (
        f"{source}.q > {target}_q | q d",
        f"{source}.k > {target}_k | q d",
        f"{source}.v > {target}_v | q d",
        f"{source}.o > {target}_o | d q",
    )


def _layer(ffn: str) -> tuple[Rows, ...]:
    """Return the rows of a layer whose feed-forward part is the sub-layer `ffn`."""
    return (
        Rows(
            (
                "layer.0.layer_norm > attn_norm | d",
                *_attention("layer.0.SelfAttention", "attn"),
                # Only the first layer has the bias in T5, and every layer in UMT5.
                "layer.0.SelfAttention.relative_attention_bias > attn_rel_b | buckets n_head | ?",
                f"{ffn}.layer_norm > ffn_norm | d",
                f"{ffn}.DenseReluDense.wo > ffn_down | d f",
            )
        ),
        Rows((f"{ffn}.DenseReluDense.wi > ffn_up | f d",), when="not gated"),
        Rows(
            (
                f"{ffn}.DenseReluDense.wi_0 > ffn_gate | f d",
                f"{ffn}.DenseReluDense.wi_1 > ffn_up | f d",
            ),
            when="gated",
        ),
    )


_DEFAULTS: Final = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": 1e-6,
    "n_positions": 512,
}
_SPELLINGS: Final = {
    "hidden_size": ("d_model",),
    "num_attention_heads": ("num_heads",),
    "intermediate_size": ("d_ff",),
}
_SIZES: Final = {
    "h": "d_kv",
    "buckets": "relative_attention_num_buckets",
    "gated": "has('encoder.block.0.layer.1.DenseReluDense.wi_0.weight')",
}
_ENCODER_TOP: Final = ("shared > token_embd | v d", "encoder.final_layer_norm > enc.output_norm | d")
_METADATA: Final = (
    "u32 ~context_length = first(config['n_positions'], 512)",
    "f32 ~attention.layer_norm_rms_epsilon = layer_norm_epsilon",
    "u32 ~attention.relative_buckets_count = buckets",
)
_RENAMES: Final = ((r"^(encoder|decoder)\.embed_tokens\.", "shared."),)
"""The embedding has one of three names, and some files hold copies under the others."""
_COPIES: Final = (
    (r"^(encoder|decoder)\.embed_tokens\.", names.COPY, "stored('shared.weight')"),
    (r"^encoder\.embed_tokens\.", names.COPY, "stored('decoder.embed_tokens.weight')"),
)

T5: Final = FamilyTable(
    arch="t5",
    classes=(
        "T5ForConditionalGeneration",
        "T5WithLMHeadModel",
        "MT5ForConditionalGeneration",
        "UMT5ForConditionalGeneration",
        "UMT5Model",
    ),
    class_defaults={
        name: {"vocab_size": 250112}
        for name in ("MT5ForConditionalGeneration", "UMT5ForConditionalGeneration", "UMT5Model")
    },
    defaults={**_DEFAULTS, "decoder_start_token_id": 0},
    spellings=_SPELLINGS,
    sizes=_SIZES,
    top=(*_ENCODER_TOP, "decoder.final_layer_norm > dec.output_norm | d"),
    layer_prefix="encoder.block",
    layer_target="enc.blk",
    embedding="shared.weight",
    layer=_layer("layer.1"),
    stacks=(
        Stack(
            "decoder.block",
            "dec.blk",
            "first(num_decoder_layers, num_layers, num_hidden_layers)",
            (
                *_layer("layer.2"),
                Rows(
                    (
                        "layer.1.layer_norm > cross_attn_norm | d",
                        *_attention("layer.1.EncDecAttention", "cross_attn"),
                    )
                ),
            ),
        ),
    ),
    head_dim="d_kv",
    tied="1",  # transformers 5 ties the output matrix whatever config.json says
    metadata=(
        *_METADATA,
        "u32 ~decoder_block_count = first(num_decoder_layers, num_layers, num_hidden_layers)",
        "u32 ~decoder_start_token_id = decoder_start_token_id",
    ),
    without=("~attention.head_count_kv",),
    renames=_RENAMES,
    skip=_COPIES,
    rope_theta=None,
)

T5_ENCODER: Final = FamilyTable(
    arch="t5encoder",
    classes=("T5EncoderModel",),
    defaults=_DEFAULTS,
    spellings=_SPELLINGS,
    sizes=_SIZES,
    top=_ENCODER_TOP,
    output=None,
    layer_prefix="encoder.block",
    layer_target="enc.blk",
    embedding="shared.weight",
    layer=_layer("layer.1"),
    head_dim="d_kv",
    metadata=_METADATA,
    without=("~attention.head_count_kv",),
    renames=_RENAMES,
    skip=_COPIES,
    rope_theta=None,
)
