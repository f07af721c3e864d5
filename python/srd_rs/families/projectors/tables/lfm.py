"""The projectors of LFM2."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIGLIP_DEFAULTS, SIGLIP_LAYER, SIZES, VISION_MODEL, head
from srd_rs.families.projectors.tables.sound import sound_head
from srd_rs.families.schema import FamilyTable, Rows

LFM2_VL: Final = FamilyTable(
    arch="clip",
    classes=("Lfm2VlForConditionalGeneration",),
    defaults={**SIGLIP_DEFAULTS, "layer_norm_eps": 1e-6, "num_patches": 256},
    sizes={
        **SIZES,
        "n_image": "256",
        "factor": "first(whole['downsample_factor'], 2)",
        "fold": "factor * factor * w",
        "o": "first(whole['projector_hidden_size'], 2560)",
    },
    renames=VISION_MODEL,
    skip=((r"vision_model\.head\.", "of the head of the encoder, which is not used"),),
    layer_prefix="vision_tower.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.vision_model.embeddings.patch_embedding > v.patch_embd"
        " | w p*p*c | reshape(w,p,p,c) axes(0,3,1,2)",
        "vision_tower.vision_model.embeddings.patch_embedding.bias! > v.patch_embd=.bias | w",
        "vision_tower.vision_model.embeddings.position_embedding > v.position_embd | num_patches w | f32",
        "vision_tower.vision_model.post_layernorm > v.post_ln | w | bias",
        "multi_modal_projector.layer_norm > mm.input_norm | fold | ? bias?",
        "multi_modal_projector.linear_1 > mm.1 | o fold | bias?",
        "multi_modal_projector.linear_2 > mm.2 | t o | bias?",
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'lfm2'",
        "f32 ~vision.attention.layer_norm_epsilon = layer_norm_eps",
        "u32 ~vision.projector.scale_factor = factor",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.block_count = n_layer + first(whole['vision_feature_layer'], -1) + 1",
    ),
)

_NORM: Final = "conv.batch_norm.weight! + conv.batch_norm.running_var!"
_SHIFT: Final = "conv.batch_norm.bias! + conv.batch_norm.running_mean!"


def _before(index: int, channels: str, side: int) -> tuple[str, ...]:
    """Return the rows of a convolution before the layers. llama.cpp adds the bias to planes."""
    source, target = f"conformer.pre_encode.conv.{index}", f"a.conv1d.{index}"
    return (
        f"{source} > {target} | many {channels} {side} {side} | f32",
        f"{source}.bias! > {target}=.bias | many | reshape(many, 1, 1) f32",
    )


def _pointwise(source: str, target: str, rows: str) -> tuple[str, ...]:
    return (
        f"{source} > {target} | {rows} a 1 | reshape({rows}, a) f32",
        f"{source}.bias! > {target}=.bias | {rows} | ?",
    )


LFM2_AUDIO: Final = FamilyTable(
    arch="clip",
    classes=("Lfm2AudioForConditionalGeneration",),
    defaults={
        "feat_in": 128,
        "n_layers": 17,
        "d_model": 512,
        "n_heads": 8,
        "conv_kernel_size": 9,
        "subsampling_conv_channels": 256,
    },
    sizes={
        "a": "d_model",
        "ai": "d_model",
        "inner": "d_model * first(ff_expansion_factor, 4)",
        "t": "text['hidden_size']",
        "many": "subsampling_conv_channels",
        "kernel": "conv_kernel_size",
        "codes": "rows_of('audio_embedding.embedding.weight')",
        "wide": "rows_of('audio_adapter.model.1.weight')",
    },
    n_layer="n_layers",
    n_head="n_heads",
    n_head_kv="n_heads",
    skip=(
        (r"num_batches_tracked$", "of buffers, which are computed anew"),
        (r"^audio_loss_weights?$", "of training"),
        (r"^(codebook_offsets|depth_embeddings\.|depth_linear\.|depthformer\.)", "of the speech output"),
    ),
    layer_prefix="conformer.layers",
    layer_target="a.blk",
    output=None,
    top=(
        # The encoder halves the frames three times, and so the mel bins.
        *_before(0, "1", 3),
        *_before(2, "1", 3),
        *_before(3, "many", 1),
        *_before(5, "1", 3),
        *_before(6, "many", 1),
        "conformer.pre_encode.out > a.pre_encode.out | a many*(feat_in//8) | bias",
        "audio_embedding.embedding > a.position_embd | codes t | f32",
        "audio_embedding.embedding_norm > a.position_embd_norm | t",
        "audio_embedding.to_logits > a.embd_to_logits | codes t",
        "audio_adapter.model.0 > mm.a.mlp.0 | a | bias",
        "audio_adapter.model.1 > mm.a.mlp.1 | wide a | bias",
        "audio_adapter.model.3 > mm.a.mlp.3 | t wide | bias",
    ),
    layer=(
        Rows(
            (
                "norm_feed_forward1 > ffn_norm | a | bias",
                "feed_forward1.linear1 > ffn_up | inner a | bias?",
                "feed_forward1.linear2 > ffn_down | a inner | bias?",
                "norm_feed_forward2 > ffn_norm_1 | a | bias",
                "feed_forward2.linear1 > ffn_up_1 | inner a | bias?",
                "feed_forward2.linear2 > ffn_down_1 | a inner | bias?",
                "norm_self_att > ln1 | a | bias",
                "norm_out > ln2 | a | bias",
                "self_attn.linear_q > attn_q | a a | bias?",
                "self_attn.linear_k > attn_k | a a | bias?",
                "self_attn.linear_v > attn_v | a a | bias?",
                "self_attn.linear_out > attn_out | a a | bias?",
                "self_attn.linear_pos > linear_pos | a a",
                "self_attn.pos_bias_u! > pos_bias_u= | n_heads a//n_heads",
                "self_attn.pos_bias_v! > pos_bias_v= | n_heads a//n_heads",
                "norm_conv > norm_conv | a | bias",
                *_pointwise("conv.pointwise_conv1", "conv_pw1", "2*a"),
                "conv.depthwise_conv > conv_dw | a 1 kernel | reshape(a, kernel) f32",
                "conv.depthwise_conv.bias! > conv_dw=.bias | a | ?",
                f"{_NORM} > conv_norm | a | norm_factor(1e-5)",
                f"{_NORM} + {_SHIFT} > conv_norm=.bias | a | norm_summand(1e-5)",
                *_pointwise("conv.pointwise_conv2", "conv_pw2", "a"),
            )
        ),
    ),
    metadata=(
        *sound_head(),
        "str ~projector_type = 'lfm2a'",
        "u32 ~audio.num_mel_bins = feat_in",
        "f32 ~audio.attention.layer_norm_epsilon = 1e-5",
    ),
)
