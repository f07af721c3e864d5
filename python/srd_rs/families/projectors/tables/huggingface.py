"""The projectors of Idefics and SmolVLM."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import (
    SIGLIP_DEFAULTS,
    SIGLIP_LAYER,
    SIGLIP_SIZES,
    head,
    siglip_top,
)
from srd_rs.families.schema import FamilyTable

SMOLVLM: Final = FamilyTable(
    arch="clip",
    classes=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    defaults={**SIGLIP_DEFAULTS, "hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32},
    sizes={**SIGLIP_SIZES, "fold": "first(whole['scale_factor'], 2) * first(whole['scale_factor'], 2)"},
    layer_prefix="model.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *siglip_top("model.vision_model", "f32"),
        "model.connector.modality_projection.proj > mm.model.fc | t fold*w",
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'idefics3'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        "u32 ~vision.projector.scale_factor = first(whole['scale_factor'], 2)",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.preproc_image_size = first(preprocessor['size']['longest_edge'], image_size)",
    ),
)
