"""The projectors of Gemma."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import (
    SIGLIP_DEFAULTS,
    SIGLIP_LAYER,
    SIGLIP_SIZES,
    SIZES,
    head,
    siglip_top,
)
from srd_rs.families.projectors.tables.sound import sound_head
from srd_rs.families.schema import FamilyTable, Rows, Stack

GEMMA3: Final = FamilyTable(
    arch="clip",
    classes=("Gemma3ForConditionalGeneration",),
    defaults=SIGLIP_DEFAULTS,
    sizes={
        **SIGLIP_SIZES,
        "scale": "(image_size // patch_size) // int(sqrt(first(preprocessor['image_seq_length'], 256)))",
    },
    renames=((r"^model\.", ""), (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.")),
    skip=((r"vision_model\.head\.", "of the head of the encoder, which is not used"),),
    layer_prefix="vision_tower.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *siglip_top("vision_tower.vision_model", "f32"),
        # llama.cpp turns this matrix over, which it cannot do with blocks of Q8_0.
        "multi_modal_projector.mm_input_projection_weight! > mm.input_projection | w t | f16",
        "multi_modal_projector.mm_soft_emb_norm > mm.soft_emb_norm | w | plus_one",
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'gemma3'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.projector.scale_factor = scale if scale > 0 and scale != 4 else None",
    ),
)

_BLOCK: Final = "vision_tower.timm_model."
GEMMA3N: Final = FamilyTable(
    arch="clip",
    classes=("Gemma3nForConditionalGeneration",),
    defaults={"hidden_size": 2048, "rms_norm_eps": 1e-6},
    sizes={
        "w": "hidden_size",
        "t": "text['hidden_size']",
        "n_image": "first(preprocessor['size']['height'], 768)",
        "p": "n_image // first(preprocessor['image_seq_length'], 256)",
        "i": "4 * first(intermediate_size, 2048)",
        "stem": f"rows_of('{_BLOCK}conv_stem.conv.weight')",
        "a": "first(audio['hidden_size'], 1536)",
        "ai": "first(audio['intermediate_size'], 6144)",
        "mel": "first(audio['input_feat_size'], 128)",
        "n_sound": "first(audio['conf_num_hidden_layers'], 12)",
        "sound_heads": "first(audio['conf_num_attention_heads'], 8)",
        "channels": "first(audio['sscp_conv_channel_size'], [128, 32])",
        "wide": "channels[0]",
        "narrow": "channels[1]",
        "kernel": "first(audio['conf_conv_kernel_size'], 5)",
    },
    renames=((r"^model\.", ""),),
    # The blocks of MobileNet differ from each other, and config.json has the name of the layout only.
    n_layer="1",
    n_head="first(num_attention_heads, 8)",
    layer=(),
    output=None,
    top=(
        f"{_BLOCK}conv_stem.conv > v.conv_stem.conv | stem 3 3 3 | f32",
        f"{_BLOCK}conv_stem.conv.bias! > v.conv_stem.conv=.bias | stem | ? reshape(1, stem, 1, 1)",
        f"{_BLOCK}conv_stem.bn > v.conv_stem.bn | stem",
        "embed_vision.embedding > mm.embedding | rows_of('embed_vision.embedding.weight') w",
        "embed_vision.hard_embedding_norm > mm.hard_emb_norm | w",
        "embed_vision.soft_embedding_norm > mm.soft_emb_norm | w",
        "embed_vision.embedding_projection > mm.input_projection | t w",
        "audio_tower.subsample_conv_projection.conv_0.conv > a.conv1d.0 | wide 1 3 3 | f32",
        "audio_tower.subsample_conv_projection.conv_0.norm > a.conv1d.0.norm | wide | ?",
        "audio_tower.subsample_conv_projection.conv_1.conv > a.conv1d.1 | narrow wide 3 3 | f32",
        "audio_tower.subsample_conv_projection.conv_1.norm > a.conv1d.1.norm | narrow | ?",
        "audio_tower.subsample_conv_projection.input_proj_linear > a.pre_encode.out | a narrow*(mel//4) | f16",
        "embed_audio.embedding > mm.a.embedding | rows_of('embed_audio.embedding.weight') a",
        "embed_audio.hard_embedding_norm > mm.a.hard_emb_norm | a",
        "embed_audio.soft_embedding_norm > mm.a.soft_emb_norm | a",
        "embed_audio.embedding_projection > mm.a.input_projection | t a",
    ),
    as_stored=(
        (r"vision_tower\.timm_model\.blocks\.(\d+\.\d+\..+)", r"v.blk.\1"),
        (r"vision_tower\.timm_model\.(msfa\..+)", r"v.\1"),
    ),
    stacks=(
        Stack(
            "audio_tower.conformer",
            "a.blk",
            "n_sound",
            (
                Rows(
                    (
                        "norm > layer_pre_norm | a",
                        "attention.pre_attn_norm > ln1 | a",
                        "attention.post_norm > ln2 | a",
                        "attention.post > attn_out | a a",
                        "attention.attn.q_proj > attn_q | a a",
                        "attention.attn.k_proj > attn_k | a a",
                        "attention.attn.v_proj > attn_v | a a",
                        "attention.attn.per_dim_scale! > per_dim_scale= | a//sound_heads",
                        "attention.attn.relative_position_embedding.pos_proj > linear_pos | a a",
                        *(
                            row
                            for part, end in (("start", ""), ("end", "_1"))
                            for row in (
                                f"ffw_layer_{part}.pre_layer_norm > ffn_norm{end} | a",
                                f"ffw_layer_{part}.post_layer_norm > ffn_post_norm{end} | a",
                                f"ffw_layer_{part}.ffw_layer_1 > ffn_up{end} | 4*a a",
                                f"ffw_layer_{part}.ffw_layer_2 > ffn_down{end} | a 4*a",
                            )
                        ),
                        "lconv1d.pre_layer_norm > conv_norm | a",
                        "lconv1d.conv_norm > norm_conv | a",
                        "lconv1d.depthwise_conv1d > conv_dw | a 1 kernel | f32",
                        "lconv1d.linear_start > conv_pw1 | 2*a a",
                        "lconv1d.linear_end > conv_pw2 | a a",
                    )
                ),
            ),
        ),
    ),
    metadata=(
        *(line for line in head() if "image_" not in line and "block_count" not in line),
        "u32 ~vision.block_count = 128",
        "u32 ~vision.image_size = n_image",
        "f32s ~vision.image_mean = [0.0, 0.0, 0.0]",
        "f32s ~vision.image_std = [1.0, 1.0, 1.0]",
        "str ~vision.projector_type = 'gemma3nv'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        *sound_head("n_sound", "sound_heads"),
        "str ~audio.projector_type = 'gemma3na'",
        "u32 ~audio.num_mel_bins = mel",
        "f32 ~audio.attention.layer_norm_epsilon = 1e-5",
    ),
)

_CLIPS: Final = ("input_max", "input_min", "output_max", "output_min")
"""The ends of the range to which a linear layer of Gemma 4 clips its inputs and outputs. Not every model has them."""


def _clipped(row: str) -> tuple[str, ...]:
    """Return the rows of a linear layer: its matrix, ``NAME.linear``, and the ends of its ranges."""
    source, _, rest = row.partition(" > ")
    target, _, sizes = rest.partition(" | ")
    ends = (f"{source}.{end}! > {target}=.{end} | scalar | ? reshape(1)" for end in _CLIPS)
    return (f"{source}.linear > {target} | {sizes}", *ends)


def _feed_forward(source: str, end: str) -> tuple[str, ...]:
    """Return the rows of one of the two feed-forward parts of a layer that hears."""
    return (
        f"{source}.pre_layer_norm > ffn_norm{end} | a",
        f"{source}.post_layer_norm > ffn_post_norm{end} | a",
        *_clipped(f"{source}.ffw_layer_1 > ffn_up{end} | 4*a a"),
        *_clipped(f"{source}.ffw_layer_2 > ffn_down{end} | a 4*a"),
    )


_GEMMA4_HEARD: Final = (
    *sound_head("n_sound", "sound_heads"),
    "str ~audio.projector_type = 'gemma4a'",
    "u32 ~audio.num_mel_bins = mel",
    "f32 ~audio.attention.layer_norm_epsilon = first(audio['layer_norm_eps'], 1e-6)",
)
_HEARS: Final = "audio != None"
_GEMMA4_SOUND: Final = (
    "audio_tower.subsample_conv_projection.layer0.conv > a.conv1d.0 | wide 1 3 3 | f32",
    "audio_tower.subsample_conv_projection.layer0.norm > a.conv1d.0.norm | wide",
    "audio_tower.subsample_conv_projection.layer1.conv > a.conv1d.1 | narrow wide 3 3 | f32",
    "audio_tower.subsample_conv_projection.layer1.norm > a.conv1d.1.norm | narrow",
    "audio_tower.subsample_conv_projection.input_proj_linear > a.input_projection | a wide//4*narrow | f32",
    "audio_tower.output_proj > a.pre_encode.out | heard a | bias",
    "embed_audio.embedding_projection > mm.a.input_projection | t heard",
)
_GEMMA4_HEARING: Final = Rows(
    (
        "norm_pre_attn > attn_pre_norm | a",
        "norm_post_attn > attn_post_norm | a",
        "norm_out > ln2 | a",
        *_clipped("self_attn.q_proj > attn_q | a a"),
        *_clipped("self_attn.k_proj > attn_k | a a"),
        *_clipped("self_attn.v_proj > attn_v | a a"),
        *_clipped("self_attn.post > attn_out | a a"),
        "self_attn.relative_k_proj > attn_k_rel | a a",
        "self_attn.per_dim_scale! > per_dim_scale | a//sound_heads | softplus",
        *_feed_forward("feed_forward1", ""),
        *_feed_forward("feed_forward2", "_1"),
        "lconv1d.pre_layer_norm > conv_norm | a",
        "lconv1d.conv_norm > norm_conv | a",
        "lconv1d.depthwise_conv1d > conv_dw | a 1 kernel | reshape(a, kernel) f32",
        *_clipped("lconv1d.linear_start > conv_pw1 | 2*a a"),
        *_clipped("lconv1d.linear_end > conv_pw2 | a a"),
    )
)

_POOLED: Final = (
    "u32 ~vision.projector.scale_factor = pooling_kernel_size if first(pooling_kernel_size, 3) != 3 else None"
)
"""llama.cpp pools 3 x 3 patches where nothing is stated."""

GEMMA4: Final = FamilyTable(
    arch="clip",
    classes=("Gemma4ForConditionalGeneration",),
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "patch_size": 16,
        "position_embedding_size": 10240,
    },
    sizes={
        **SIZES,
        "n_image": "224",
        "k": "first(num_key_value_heads, num_attention_heads) * head_dim",
        "a": "first(audio['hidden_size'], 1024)",
        "ai": "4 * a",
        "mel": "first(audio['input_feat_size'], 128)",
        "n_sound": "first(audio['num_hidden_layers'], 12)",
        "sound_heads": "first(audio['num_attention_heads'], 8)",
        "channels": "first(audio['subsampling_conv_channels'], [128, 32])",
        "wide": "channels[0]",
        "narrow": "channels[1]",
        "kernel": "first(audio['conv_kernel_size'], 5)",
        "heard": "first(audio['output_proj_dims'], 1536)",
    },
    renames=((r"^model\.", ""),),
    layer_prefix="vision_tower.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "embed_vision.embedding_projection > mm.input_projection | t w",
        "vision_tower.patch_embedder.input_proj > v.patch_embd | w 3*p*p | reshape(w,p,p,3) axes(0,3,1,2)",
        "vision_tower.patch_embedder.position_embedding_table! > v.position_embd | 2 position_embedding_size w | f32",
        "vision_tower.std_bias! > v.std_bias= | w | ?",
        "vision_tower.std_scale! > v.std_scale= | w | ?",
        Rows(_GEMMA4_SOUND, when=_HEARS),
    ),
    layer=(
        Rows(
            (
                "input_layernorm > ln1 | w",
                "post_attention_layernorm > attn_post_norm | w",
                "pre_feedforward_layernorm > ln2 | w",
                "post_feedforward_layernorm > ffn_post_norm | w",
                "self_attn.q_norm > attn_q_norm | head_dim",
                "self_attn.k_norm > attn_k_norm | head_dim",
                *_clipped("self_attn.q_proj > attn_q | n_head*head_dim w"),
                *_clipped("self_attn.k_proj > attn_k | k w"),
                *_clipped("self_attn.v_proj > attn_v | k w"),
                *_clipped("self_attn.o_proj > attn_out | w n_head*head_dim"),
                *_clipped("mlp.gate_proj > ffn_gate | i w"),
                *_clipped("mlp.up_proj > ffn_up | i w"),
                *_clipped("mlp.down_proj > ffn_down | w i"),
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~vision.projector_type = 'gemma4v'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        _POOLED,
        *(f"{line} if {_HEARS} else None" for line in _GEMMA4_HEARD),
    ),
    stacks=(Stack("audio_tower.layers", "a.blk", f"n_sound if {_HEARS} else 0", (_GEMMA4_HEARING,)),),
)

_SQUARE: Final = "side*side*c"
_NO_LAYERS: Final = ("block_count", "head_count", "feed_forward_length")
GEMMA4_UNIFIED: Final = FamilyTable(
    arch="clip",
    classes=("Gemma4UnifiedForConditionalGeneration",),
    defaults={
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "mm_embed_dim": 3840,
        "mm_posemb_size": 1120,
    },
    sizes={
        **SIZES,
        "w": "mm_embed_dim",
        "n_image": "224",
        "side": "first(model_patch_size, patch_size * pooling_kernel_size)",
        "seen": "first(output_proj_dims, mm_embed_dim)",
        "a": "first(audio['audio_embed_dim'], 640)",
        "mel": "first(audio['input_feat_size'], 128)",
    },
    renames=(
        (r"^model\.", ""),
        (r"^embed_vision\.(patch_|pos_)", r"vision_embedder.\1"),
        (r"\.multimodal_embedder\.", "."),
    ),
    # Pictures and sounds are not encoded: one matrix maps each patch, and another one each piece of the sound.
    n_layer="1",
    n_head="1",
    layer=(),
    output=None,
    top=(
        # Published files hold the values of a patch by row, column and color; llama.cpp by color, row and column.
        f"vision_embedder.patch_dense > v.patch_embd | w {_SQUARE}"
        f" | reshape(w, side, side, c) axes(0, 3, 1, 2) reshape(w, {_SQUARE})",
        "vision_embedder.patch_dense.bias! > v.patch_embd=.bias | w",
        *(
            f"vision_embedder.patch_ln1.{part}! > v.patch_norm.1=.{part} | {_SQUARE}"
            f" | reshape(side, side, c) axes(2, 0, 1) reshape({_SQUARE})"
            for part in ("weight", "bias")
        ),
        "vision_embedder.patch_ln2 > v.patch_norm.2 | w | bias",
        "vision_embedder.pos_norm > v.patch_norm.3 | w | bias",
        "vision_embedder.pos_embedding! > v.position_embd | mm_posemb_size 2 w | axes(1, 0, 2) f32",
        "embed_vision.embedding_projection > mm.input_projection | t seen",
        "embed_audio.embedding_projection > mm.a.input_projection | t a",
    ),
    metadata=(
        *(line for line in head() if not any(key in line for key in _NO_LAYERS)),
        *(f"u32 ~vision.{key} = 0" for key in ("block_count", "attention.head_count", "feed_forward_length")),
        "str ~vision.projector_type = 'gemma4uv'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        _POOLED,
        *(line for line in sound_head() if not any(key in line for key in _NO_LAYERS)),
        *(f"u32 ~audio.{key} = 0" for key in ("block_count", "attention.head_count", "feed_forward_length")),
        "str ~audio.projector_type = 'gemma4ua'",
        "u32 ~audio.num_mel_bins = mel",
        "f32 ~audio.attention.layer_norm_epsilon = first(audio['layer_norm_eps'], 1e-6)",
    ),
)
