"""The projectors of PaddleOCR."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import (
    MOST_PIXELS,
    NO_PIXELS,
    PIXELS,
    SIGLIP_DEFAULTS,
    SIGLIP_LAYER,
    SIGLIP_SIZES,
    head,
    siglip_top,
)
from srd_rs.families.schema import FamilyTable

PADDLE_OCR: Final = FamilyTable(
    arch="clip",
    classes=("PaddleOCRVisionModel", "PaddleOCRVLForConditionalGeneration"),
    defaults={
        **SIGLIP_DEFAULTS,
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
    sizes={
        **SIGLIP_SIZES,
        "n_image": f"int(sqrt({MOST_PIXELS}))",
        "m": "4 * w",
    },
    renames=((r"^model\.(visual|mlp_AR|projector)\.", r"\1."), (r"^projector\.", "mlp_AR.")),
    keep=(r"^(model\.)?mlp_AR\.",),
    skip=(
        (r"packing_position_embedding", "of a table of positions that is not used"),
        (r"vision_model\.head\.", "of the head of the encoder, which is not used"),
    ),
    layer_prefix="visual.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *siglip_top("visual.vision_model"),
        "mlp_AR.pre_norm > mm.input_norm | w | bias",
        "mlp_AR.linear_1 > mm.1 | m m | bias",
        "mlp_AR.linear_2 > mm.2 | t m | bias",
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'paddleocr'",
        *PIXELS,
        "bool ~use_gelu = 1 == 1",
        "f32 ~vision.attention.layer_norm_epsilon = first(rms_norm_eps, 1e-6)",
    ),
    refusals=(NO_PIXELS,),
)
