"""The projectors of dots."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

DOTS_OCR: Final = FamilyTable(
    arch="clip",
    classes=("DotsOCRForCausalLM",),
    defaults={
        "hidden_size": 1536,
        "intermediate_size": 4224,
        "num_attention_heads": 12,
        "num_hidden_layers": 42,
        "patch_size": 14,
        "rms_norm_eps": 1e-5,
        "spatial_merge_size": 2,
    },
    sizes={**SIZES, "n_image": "0", "m": "spatial_merge_size * spatial_merge_size * w"},
    layer_prefix="vision_tower.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.patch_embed.patchifier.proj > v.patch_embd | w c p p | bias",
        "vision_tower.patch_embed.patchifier.norm > v.pre_ln | w",
        "vision_tower.post_trunk_norm > mm.post_norm | w",
        "vision_tower.merger.ln_q > mm.input_norm | w | bias",
        "vision_tower.merger.mlp.0 > mm.0 | m m | bias",
        "vision_tower.merger.mlp.2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                "attn.qkv > attn_qkv | 3*w w | bias?",
                "attn.proj > attn_out | w w | bias?",
                "mlp.fc1 > ffn_gate | i w | bias?",
                "mlp.fc2 > ffn_down | w i | bias?",
                "mlp.fc3 > ffn_up | i w | bias?",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'dots_ocr'",
        "u32 ~vision.image_min_pixels = preprocessor['min_pixels']",
        "u32 ~vision.image_max_pixels = preprocessor['max_pixels']",
        "f32 ~vision.attention.layer_norm_epsilon = rms_norm_eps",
        "u32 ~vision.projector.scale_factor = spatial_merge_size",
        "bool ~use_silu = 1 == 1",
    ),
)
