"""The projectors of Granite Speech: a conformer that hears, and a Q-Former that asks it."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.sound import sound_head
from srd_rs.families.schema import FamilyTable, Refusal, Rows, Stack


def _feed_forward(source: str, end: str) -> tuple[str, ...]:
    return (
        f"{source}.pre_norm > ffn_norm{end} | a | bias",
        f"{source}.up_proj > ffn_up{end} | ai a | bias",
        f"{source}.down_proj > ffn_down{end} | a ai | bias",
    )


def _attention(source: str, kind: str, width: str) -> tuple[str, ...]:
    """Return the rows of an attention of the Q-Former, whose keys and values come from inputs of `width`."""
    return (
        f"{source}.attention.query > {kind}_attn_q | pw pw | bias",
        f"{source}.attention.key > {kind}_attn_k | pw {width} | bias",
        f"{source}.attention.value > {kind}_attn_v | pw {width} | bias",
        f"{source}.output.dense > {kind}_attn_out | pw pw | bias",
        f"{source}.output.LayerNorm > {kind}_attn_norm | pw | bias",
    )


_NORM: Final = "conv.batch_norm.weight! + conv.batch_norm.running_var!"
_SHIFT: Final = "conv.batch_norm.bias! + conv.batch_norm.running_mean!"
_CONVOLUTION: Final = (
    "conv.norm > norm_conv | a | bias f32",
    "conv.up_conv > conv_pw1 | 2*wide a 1 | reshape(2*wide, a) f32",
    "conv.up_conv.bias! > conv_pw1=.bias | 2*wide",
    "conv.depth_conv.conv > conv_dw | wide 1 kernel | reshape(wide, kernel) f32",
    f"{_NORM} > conv_norm | wide | norm_factor(1e-5)",
    f"{_NORM} + {_SHIFT} > conv_norm=.bias | wide | norm_summand(1e-5)",
    "conv.down_conv > conv_pw2 | a wide 1 | reshape(a, wide) f32",
    "conv.down_conv.bias! > conv_pw2=.bias | a",
)

GRANITE_SPEECH: Final = FamilyTable(
    arch="clip",
    classes=("GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration"),
    defaults={
        "input_dim": 160,
        "num_layers": 10,
        "hidden_dim": 1024,
        "feedforward_mult": 4,
        "num_heads": 8,
        "output_dim": 42,
        "context_size": 200,
        "max_pos_emb": 512,
        "conv_kernel_size": 15,
        "conv_expansion_factor": 2,
    },
    sizes={
        "t": "text['hidden_size']",
        "a": "hidden_dim",
        "ai": "hidden_dim * feedforward_mult",
        "one": "first(dim_head, hidden_dim // num_heads)",
        "inner": "one * num_heads",
        "wide": "hidden_dim * conv_expansion_factor",
        "kernel": "conv_kernel_size",
        "asker": "whole['projector_config']",
        "pw": "first(asker['hidden_size'], 768)",
        "pi": "first(asker['intermediate_size'], 3072)",
        "pe": "first(asker['encoder_hidden_size'], 1408)",
        "queries": "whole['window_size'] // whole['downsample_rate']",
    },
    n_layer="num_layers",
    n_head="num_heads",
    n_head_kv="num_heads",
    skip=((r"num_batches_tracked|attention_dists", "of buffers, which are computed anew"),),
    layer_prefix="encoder.layers",
    layer_target="a.blk",
    output=None,
    top=(
        "encoder.input_linear > a.input_projection | a input_dim | bias",
        "encoder.out > a.enc_ctc_out | output_dim a | bias",
        "encoder.out_mid > a.enc_ctc_out_mid | a output_dim | bias",
        "projector.query! > a.proj_query= | 1 queries pw",
        "projector.qformer.layernorm > a.proj_norm | pw | bias",
        "projector.linear > a.proj_linear | t pw | bias",
    ),
    layer=(
        Rows(
            (
                "attn.pre_norm > ln1 | a | bias",
                "post_norm > ln2 | a | bias",
                "attn.to_q > attn_q | inner a",
                "attn.to_kv > attn_k | 2*inner a | rows(0, inner)",
                "attn.to_kv > attn_v | 2*inner a | rows(inner, inner)",
                "attn.to_out > attn_out | a inner | bias",
                "attn.rel_pos_emb > attn_rel_pos_emb= | 2*max_pos_emb+1 one",
                *_feed_forward("ff1", ""),
                *_feed_forward("ff2", "_1"),
                *_CONVOLUTION,
            )
        ),
    ),
    stacks=(
        Stack(
            "projector.qformer.encoder.layer",
            "a.proj_blk",
            "first(asker['num_hidden_layers'], 12)",
            (
                Rows(
                    (
                        *_attention("attention", "self", "pw"),
                        *_attention("crossattention", "cross", "pe"),
                        "intermediate_query.dense > ffn_up | pi pw | bias",
                        "output_query.dense > ffn_down | pw pi | bias",
                        "output_query.LayerNorm > ffn_norm | pw | bias",
                    )
                ),
            ),
        ),
    ),
    metadata=(
        *sound_head(),
        "str ~projector_type = 'granite_speech'",
        "u32 ~audio.num_mel_bins = input_dim",
        "f32 ~audio.attention.layer_norm_epsilon = 1e-5",
        "u32 ~audio.chunk_size = context_size",
        "u32 ~audio.conv_kernel_size = kernel",
        "u32 ~audio.max_pos_emb = max_pos_emb",
        "u32 ~audio.projector.window_size = whole['window_size']",
        "u32 ~audio.projector.downsample_rate = whole['downsample_rate']",
        "u32 ~audio.projector.head_count = first(asker['num_attention_heads'], 12)",
        "i32s ~audio.feature_layer = cat_hidden_layers",
    ),
    refusals=(
        Refusal(
            "cat_hidden_layers != None and pe != hidden_dim * (len(cat_hidden_layers) + 1)",
            "encoder_hidden_size of the projector is not that of the layers that are put together",
            "Correct projector_config in config.json",
        ),
    ),
)
