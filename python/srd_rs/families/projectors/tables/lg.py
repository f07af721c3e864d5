"""The projectors of EXAONE."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.projectors.tables.common import GATED, NO_PIXELS, PIXELS, SIZES, head
from srd_rs.families.projectors.tables.qwen import QWEN25_VL
from srd_rs.families.schema import Rows

EXAONE_45: Final = replace(
    QWEN25_VL,
    classes=("Exaone4_5_ForConditionalGeneration",),
    defaults={
        "depth": 32,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "hidden_size": 3584,
        "intermediate_size": 3420,
        "num_heads": 16,
        "num_key_value_heads": 8,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 112,
    },
    sizes={
        **SIZES,
        "n_image": "first(image_size, 560)",
        "kv": "num_key_value_heads * (w // num_heads)",
        "m": "spatial_merge_size * spatial_merge_size * w",
        "window": "fullatt_block_indexes[0] + 1 if len(fullatt_block_indexes) > 0 else None",
    },
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                "attn.qkv > attn_qkv | w+2*kv w | bias",
                "attn.proj > attn_out | w w | bias",
                *GATED,
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'exaone4_5'",
        "bool ~use_silu = 1 == 1",
        *PIXELS,
        "u32 ~vision.attention.head_count_kv = num_key_value_heads",
        "f32 ~vision.attention.layer_norm_epsilon = first(rms_norm_eps, whole['rms_norm_eps'], 1e-6)",
        "u32 ~vision.window_size = window_size",
        "u32 ~vision.n_wa_pattern = window",
    ),
    refusals=(*QWEN25_VL.refusals, NO_PIXELS),
)
