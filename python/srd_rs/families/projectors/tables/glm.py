"""The projectors of GLM."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import GATED, QWEN_PATCH, SIZES, VISUAL, head
from srd_rs.families.schema import FamilyTable, Rows

GLM_OCR: Final = FamilyTable(
    arch="clip",
    classes=("GlmOcrForConditionalGeneration",),
    defaults={
        "depth": 24,
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 1536,
        "patch_size": 14,
        "spatial_merge_size": 2,
    },
    sizes={
        **SIZES,
        "o": "out_hidden_size",
        "s": "spatial_merge_size",
        "merger": "rows_of('visual.merger.gate_proj.weight')",
        "head": "hidden_size // num_heads",
    },
    renames=VISUAL,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *QWEN_PATCH,
        "visual.patch_embed.proj.bias! > v.patch_embd=.bias | w",
        "visual.post_layernorm > v.post_ln | w",
        "visual.downsample > mm.patch_merger | o w s s | bias",
        "visual.merger.proj > mm.model.fc | o o",
        "visual.merger.post_projection_norm > mm.post_norm | o | bias",
        "visual.merger.gate_proj > mm.gate | merger o",
        "visual.merger.up_proj > mm.up | merger o",
        "visual.merger.down_proj > mm.down | o merger",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                "attn.q_norm > attn_q_norm | head",
                "attn.k_norm > attn_k_norm | head",
                "attn.qkv > attn_qkv | 3*w w | bias",
                "attn.proj > attn_out | w w | bias",
                *GATED,
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'glm4v'",
        "bool ~use_silu = 1 == 1",
        "f32 ~vision.attention.layer_norm_epsilon = first(rms_norm_eps, 1e-5)",
    ),
)
