"""The projectors of EXAONE."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import GATED, QWEN_PATCH, SIZES, VISUAL, head
from srd_rs.families.schema import FamilyTable, Rows

EXAONE_45: Final = FamilyTable(
    arch="clip",
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
        "every_nth": "fullatt_block_indexes[0] + 1 if len(fullatt_block_indexes) > 0 else None",
    },
    renames=VISUAL,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *QWEN_PATCH,
        "visual.merger.ln_q > v.post_ln | w",
        "visual.merger.mlp.0 > mm.0 | m m | bias",
        "visual.merger.mlp.2 > mm.2 | t m | bias",
    ),
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
        "u32 ~vision.image_min_pixels = preprocessor['min_pixels']",
        "u32 ~vision.image_max_pixels = preprocessor['max_pixels']",
        "u32 ~vision.attention.head_count_kv = num_key_value_heads",
        "f32 ~vision.attention.layer_norm_epsilon = first(rms_norm_eps, whole['rms_norm_eps'], 1e-6)",
        "u32 ~vision.window_size = window_size",
        "u32 ~vision.n_wa_pattern = every_nth",
    ),
)
