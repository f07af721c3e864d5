"""The projectors of MiniCPM-V."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import (
    SIGLIP_DEFAULTS,
    SIGLIP_LAYER,
    SIGLIP_SIZES,
    head,
    siglip_top,
)
from srd_rs.families.schema import FamilyTable, Refusal, Rows

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
