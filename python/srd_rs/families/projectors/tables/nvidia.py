"""The projectors of Nemotron: a RADIO encoder that sees, and in Omni models a Parakeet encoder that hears."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.projectors.tables.sound import sound_head
from srd_rs.families.schema import FamilyTable, Rows, Stack

_HEARS: Final = "whole['sound_config'] != None"
_SOUND: Final = "sound_encoder.encoder"


def _if_it_hears(*lines: str) -> tuple[str, ...]:
    """Return the lines of metadata for models that have an encoder of sound."""
    parts = (line.split(" = ", 1) for line in lines)
    return tuple(f"{key} = ({value}) if {_HEARS} else None" for key, value in parts)


def _subsampling(index: int, channels: str, side: int) -> tuple[str, ...]:
    """Return the rows of a convolution before the layers. llama.cpp adds the bias to planes."""
    source, target = f"{_SOUND}.subsampling.layers.{index}", f"a.conv1d.{index}"
    return (
        f"{source} > {target} | many {channels} {side} {side} | f32",
        f"{source}.bias! > {target}=.bias | many | ? reshape(1, many, 1, 1) f32",
    )


def _pointwise(index: int, rows: str) -> tuple[str, ...]:
    source, target = f"conv.pointwise_conv{index}", f"conv_pw{index}"
    return (
        f"{source} > {target} | {rows} a 1 | reshape({rows}, a) f32",
        f"{source}.bias! > {target}=.bias | {rows} | ? reshape(1, {rows}, 1, 1) f32",
    )


_PARAKEET_TOP: Final = (
    *_subsampling(0, "1", 3),
    *_subsampling(2, "1", 3),
    *_subsampling(3, "many", 1),
    *_subsampling(5, "1", 3),
    *_subsampling(6, "many", 1),
    f"{_SOUND}.subsampling.linear > a.pre_encode.out | a many*(mel//8) | bias?",
    f"{_SOUND}.feature_extractor.featurizer.fb! > a.mel_filters= | 1 mel bins",
    f"{_SOUND}.feature_extractor.featurizer.window! > a.window= | window",
    "sound_projection.norm > mm.a.norm_pre | a",
    "sound_projection.linear1 > mm.a.mlp.1 | sound_o a | bias?",
    "sound_projection.linear2 > mm.a.mlp.2 | t sound_o | bias?",
)
_PARAKEET_LAYER: Final = (
    Rows(
        (
            "norm_feed_forward1 > ffn_norm | a | bias",
            "feed_forward1.linear1 > ffn_up | ai a | bias?",
            "feed_forward1.linear2 > ffn_down | a ai | bias?",
            "norm_self_att > ln1 | a | bias",
            "self_attn.q_proj > attn_q | a a | bias?",
            "self_attn.k_proj > attn_k | a a | bias?",
            "self_attn.v_proj > attn_v | a a | bias?",
            "self_attn.o_proj > attn_out | a a | bias?",
            "self_attn.relative_k_proj > linear_pos | a a",
            "self_attn.bias_u! > pos_bias_u= | sound_heads a//sound_heads | f32",
            "self_attn.bias_v! > pos_bias_v= | sound_heads a//sound_heads | f32",
            "norm_conv > norm_conv | a | bias",
            *_pointwise(1, "2*a"),
            "conv.depthwise_conv > conv_dw | a 1 kernel | reshape(1, 1, a, kernel) f32",
            "conv.depthwise_conv.bias! > conv_dw=.bias | a | ?",
            "conv.norm > conv_norm | a | bias",
            "conv.norm.running_mean! > conv_norm_mean= | a",
            "conv.norm.running_var! > conv_norm_var= | a",
            *_pointwise(2, "a"),
            "norm_feed_forward2 > ffn_norm_1 | a | bias",
            "feed_forward2.linear1 > ffn_up_1 | ai a | bias?",
            "feed_forward2.linear2 > ffn_down_1 | a ai | bias?",
            "norm_out > ln2 | a | bias",
        )
    ),
)
_GENERATOR: Final = "vision_model.radio_model.model.patch_generator"

NEMOTRON_VL: Final = FamilyTable(
    arch="clip",
    classes=("NemotronH_Nano_VL_V2", "RADIOModel"),
    # config.json names the encoder (ViT-H) without its sizes.
    defaults={
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
        "patch_size": 16,
    },
    sizes={
        **SIZES,
        "n_image": "first(whole['force_image_size'], 512)",
        "side": "n_image // p",
        "stored": "first(max_resolution, max_img_size, 2048) // p",
        "factor": "int(1 / first(whole['downsample_ratio'], 0.5))",
        "fold": "factor * factor * w",
        "o": "rows_of('mlp1.1.weight')",
        "first_tokens": f"rows_of('{_GENERATOR}.cls_token.token')",
        "a": "audio['hidden_size']",
        "ai": "audio['intermediate_size']",
        "mel": "audio['num_mel_bins']",
        "n_sound": f"audio['num_hidden_layers'] if {_HEARS} else 0",
        "sound_heads": "audio['num_attention_heads']",
        "kernel": "audio['conv_kernel_size']",
        "many": "audio['subsampling_conv_channels']",
        "sound_o": "rows_of('sound_projection.linear1.weight')",
        "bins": "first(audio['n_fft'], 512) // 2 + 1",
        "window": f"rows_of('{_SOUND}.feature_extractor.featurizer.window')",
    },
    skip=(
        (r"input_conditioner\.", "of the mean and deviation of pictures, which are written as metadata"),
        (r"\.video_embedder\.", "of videos, which llama.cpp does not read"),
        (r"\.summary_idxs$", "of summaries, which the model does not use"),
        (r"num_batches_tracked$", "of buffers, which are computed anew"),
    ),
    layer_prefix="vision_model.radio_model.model.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        f"{_GENERATOR}.cls_token.token! > v.class_embd= | first_tokens w",
        f"{_GENERATOR}.embedder > v.patch_embd | w c*p*p | reshape(w, c, p, p)",
        f"{_GENERATOR}.pos_embed! > v.position_embd | 1 stored*stored w"
        " | f32 reshape(stored*stored, w) bilinear(stored, stored, side, side) reshape(1, side*side, w)",
        "mlp1.0 > mm.model.mlp.0 | fold",
        "mlp1.1 > mm.model.mlp.1 | o fold",
        "mlp1.3 > mm.model.mlp.3 | t o",
        Rows(_PARAKEET_TOP, when=_HEARS),
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w | bias",
                "norm2 > ln2 | w | bias",
                "attn.qkv > attn_qkv | 3*w w | bias",
                "attn.proj > attn_out | w w | bias",
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    stacks=(Stack(f"{_SOUND}.layers", "a.blk", "n_sound", _PARAKEET_LAYER),),
    metadata=(
        *head(),
        "f32s ~vision.image_mean = first(preprocessor['image_mean'], [0.485, 0.456, 0.406])",
        "f32s ~vision.image_std = first(preprocessor['image_std'], [0.229, 0.224, 0.225])",
        f"str ~projector_type = None if {_HEARS} else 'nemotron_v2_vl'",
        "f32 ~vision.attention.layer_norm_epsilon = 1e-6",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.projector.scale_factor = factor",
        *_if_it_hears(
            "str ~vision.projector_type = 'nemotron_v2_vl'",
            *sound_head("n_sound", "sound_heads"),
            "str ~audio.projector_type = 'parakeet'",
            "u32 ~audio.num_mel_bins = mel",
            "f32 ~audio.attention.layer_norm_epsilon = 1e-5",
            "u32 ~audio.subsampling_factor = audio['subsampling_factor']",
            "u32 ~audio.conv_kernel_size = kernel",
        ),
    ),
)
