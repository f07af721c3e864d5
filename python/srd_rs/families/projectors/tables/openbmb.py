"""The projectors of MiniCPM-V and MiniCPM-o.

llama.cpp's converter writes that of MiniCPM-V 4.6 only. For the others, names and values are those of the script
`tools/mtmd/legacy-models/minicpmv-convert-image-encoder-to-gguf.py` of llama.cpp.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from srd_rs.families.projectors.tables.common import (
    SIGLIP_DEFAULTS,
    SIGLIP_LAYER,
    SIGLIP_SIZES,
    head,
    siglip_top,
)
from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.minicpm import SOUND

MINICPM_V_46: Final = FamilyTable(
    arch="clip",
    classes=("MiniCPMV4_6ForConditionalGeneration",),
    defaults={**SIGLIP_DEFAULTS, "window_kernel_size": [2, 2]},
    sizes={
        **SIGLIP_SIZES,
        "n_image": "first(preprocessor['scale_resolution'], image_size)",
        "m": "window_kernel_size[0] * window_kernel_size[1]",
        "mode": "first(preprocessor['downsample_mode'], '16x')",
    },
    renames=((r"^model\.(vision_tower|merger)\.", r"\1."),),
    keep=(r"^(model\.)?merger\.",),
    skip=((r"\.vit_merger\.", "of a merger that this mode does not use", "mode == '4x'"),),
    layer_prefix="vision_tower.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *siglip_top("vision_tower"),
        "merger.mlp.0.pre_norm > mm.input_norm | 4*w | bias",
        "merger.mlp.0.linear_1 > mm.up | 4*w 4*w | bias",
        "merger.mlp.0.linear_2 > mm.down | t 4*w | bias",
        Rows(
            (
                "vision_tower.vit_merger.layer_norm1 > v.vit_merger.ln1 | w | bias",
                "vision_tower.vit_merger.self_attn.q_proj > v.vit_merger.attn_q | w w | bias",
                "vision_tower.vit_merger.self_attn.k_proj > v.vit_merger.attn_k | w w | bias",
                "vision_tower.vit_merger.self_attn.v_proj > v.vit_merger.attn_v | w w | bias",
                "vision_tower.vit_merger.self_attn.out_proj > v.vit_merger.attn_out | w w | bias",
                "vision_tower.vit_merger.pre_norm > v.vit_merger.ds_ln | m*w | bias",
                "vision_tower.vit_merger.linear_1 > v.vit_merger.ds_ffn_up | m*i m*w | bias",
                "vision_tower.vit_merger.linear_2 > v.vit_merger.ds_ffn_down | w m*i | bias",
            ),
            when="mode != '4x'",
        ),
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'minicpmv4_6'",
        "u32 ~vision.projector.scale_factor = 2 if mode == '4x' else 4",
        "i32s ~vision.wa_layer_indexes = [first(whole['insert_layer_id'], insert_layer_id, 6)]",
        "bool ~use_gelu = 1 == 1",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
    ),
    refusals=(Refusal("mode not in ['4x', '16x']", "downsample_mode is neither 4x nor 16x"),),
)

_VERSION: Final = "whole['version']"
_NUMBERS: Final = {
    "MiniCPMV": f"2 if {_VERSION} in [None, 2.5, '2.5'] and {{old}} else 3 if {_VERSION} in [2.6, '2.6'] else"
    f" 5 if {_VERSION} in [4, '4', '4.0'] else 6 if {_VERSION} in [4.5, '4.5'] else 0",
    "MiniCPMO": f"4 if {_VERSION} in [2.6, '2.6'] else 6 if {_VERSION} in [4, '4', '4.0'] else"
    f" 100045 if {_VERSION} in [4.5, '4.5'] else 0",
}
"""How llama.cpp numbers the versions of a class. Version 2.5 is the one with 96 queries that may not say so."""
_QUERIES: Final = "first(whole['query_num'], 64)"

_MINICPM_V: Final = FamilyTable(
    arch="clip",
    classes=(),
    defaults={
        "hidden_size": 1152,
        "image_size": 980,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
    sizes={**SIGLIP_SIZES, "n_image": "first(whole['image_size'], 448)", "queries": _QUERIES},
    skip=(
        (f"^({'|'.join(map(re.escape, SOUND))})", "of sound, which llama.cpp does not know here"),
        (r"^resampler\.pos_embed$", "of positions, which are computed anew"),
    ),
    layer_prefix="vpm.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vpm.embeddings.patch_embedding > v.patch_embd | w c p p | bias",
        "vpm.embeddings.position_embedding > v.position_embd | n_pos w",
        "vpm.post_layernorm > v.post_ln | w | bias",
        "resampler.query! > resampler.query= | queries t | f32",
        "resampler.proj! > resampler.proj | t t | transpose",
        "resampler.kv_proj > resampler.kv | t w",
        *(
            row
            for index, name in enumerate("qkv")
            for row in (
                f"resampler.attn.in_proj_weight! > resampler.attn.{name} | 3*t t | rows({index} * t, t)",
                f"resampler.attn.in_proj_bias! > resampler.attn.{name}=.bias | 3*t | rows({index} * t, t)",
            )
        ),
        "resampler.attn.out_proj > resampler.attn.out | t t | bias",
        "resampler.ln_q > resampler.ln_q | t | bias",
        "resampler.ln_kv > resampler.ln_kv | t | bias",
        "resampler.ln_post > resampler.ln_post | t | bias",
    ),
    layer=SIGLIP_LAYER,
    sinusoids=("resampler.pos_embed_k = [70, 70, t]",),
    metadata=(
        "bool ~has_text_encoder = 1 == 0",
        "bool ~has_minicpmv_projector = 1 == 1",
        "str ~projector_type = 'resampler'",
        "i32 ~minicpmv_version = number",
        *(
            line
            for line in head()
            if "projection_dim" not in line and "image_m" not in line and "_std" not in line
        ),
        "u32 ~vision.projection_dim = 0",
        "f32 ~vision.attention.layer_norm_epsilon = 1e-6",
        "u32 ~minicpmv_query_num = queries",
        "f32s ~vision.image_mean = first(preprocessor['image_mean'], preprocessor['norm_mean'], [0.5, 0.5, 0.5])",
        "f32s ~vision.image_std = first(preprocessor['image_std'], preprocessor['norm_std'], [0.5, 0.5, 0.5])",
        "bool ~use_gelu = 1 == 1",
    ),
    refusals=(
        Refusal("number == 0", f"llama.cpp does not know this version ({_VERSION}) of the model"),
        Refusal("whole['scale_emb'] != None", "the embeddings of the text model are scaled"),
        Refusal(
            "whole['drop_vision_last_layer'] == 1", "the last layer of the encoder of pictures is not used"
        ),
        Refusal("t % 128 != 0", "the heads of the resampler have another size than 128"),
    ),
)


def _of_class(name: str) -> FamilyTable:
    number = _NUMBERS[name].format(old=f"{_QUERIES} == 96")
    return replace(_MINICPM_V, classes=(name,), sizes={**_MINICPM_V.sizes, "number": number})


MINICPM_V: Final = _of_class("MiniCPMV")
MINICPM_O: Final = _of_class("MiniCPMO")
