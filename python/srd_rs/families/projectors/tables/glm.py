"""The projectors of GLM."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.projectors.tables.common import GATED, QWEN_PATCH, SIZES, VISUAL, head
from srd_rs.families.schema import FamilyTable, Rows

_DEFAULTS: Final = {
    "depth": 24,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_heads": 12,
    "out_hidden_size": 4096,
    "patch_size": 14,
    "spatial_merge_size": 2,
}
_SIZES: Final = {
    **SIZES,
    "o": "out_hidden_size",
    "s": "spatial_merge_size",
    "merger": "rows_of('visual.merger.gate_proj.weight')",
    "head": "hidden_size // num_heads",
    "n_pos": "(image_size // patch_size) * (image_size // patch_size)",
}
_TOP: Final = (
    *QWEN_PATCH,
    "visual.patch_embed.proj.bias! > v.patch_embd=.bias | w",
    "visual.post_layernorm > v.post_ln | w",
    "visual.downsample > mm.patch_merger | o w s s | bias",
    "visual.merger.proj > mm.model.fc | o o",
    "visual.merger.post_projection_norm > mm.post_norm | o | bias",
    "visual.merger.gate_proj > mm.gate | merger o",
    "visual.merger.up_proj > mm.up | merger o",
    "visual.merger.down_proj > mm.down | o merger",
)
_OCR_LAYER: Final = (
    "norm1 > ln1 | w",
    "norm2 > ln2 | w",
    "attn.q_norm > attn_q_norm | head",
    "attn.k_norm > attn_k_norm | head",
    "attn.qkv > attn_qkv | 3*w w | bias",
    "attn.proj > attn_out | w w | bias",
    *GATED,
)
_LINES: Final = (
    *head(),
    "str ~projector_type = 'glm4v'",
    "bool ~use_silu = 1 == 1 if hidden_act == 'silu' else None",
    "bool ~use_gelu = 1 == 1 if hidden_act == 'gelu' else None",
    "f32 ~vision.attention.layer_norm_epsilon = first(rms_norm_eps, 1e-5)",
)

GLM4V: Final = FamilyTable(
    arch="clip",
    classes=("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration"),
    defaults=_DEFAULTS,
    sizes=_SIZES,
    renames=VISUAL,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *_TOP,
        "visual.embeddings.position_embedding > v.position_embd | n_pos w | f32",
        "visual.post_conv_layernorm > v.norm_embd | w",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                "attn.qkv > attn_qkv | 3*w w | bias?",
                "attn.proj > attn_out | w w",
                # The layers are as wide as the output, and intermediate_size is the width of the merger.
                "mlp.gate_proj > ffn_gate | o w",
                "mlp.up_proj > ffn_up | o w",
                "mlp.down_proj > ffn_down | w o",
            )
        ),
    ),
    metadata=_LINES,
)

GLM_OCR: Final = FamilyTable(
    arch="clip",
    classes=("GlmOcrForConditionalGeneration",),
    defaults={**_DEFAULTS, "hidden_size": 1024, "num_heads": 16, "out_hidden_size": 1536},
    sizes=_SIZES,
    renames=VISUAL,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=_TOP,
    layer=(Rows(_OCR_LAYER),),
    metadata=_LINES,
)

GLM5_NEXT: Final = replace(
    GLM_OCR,
    classes=("Glm5NextForConditionalGeneration",),
    defaults={**_DEFAULTS, "hidden_size": 1024, "num_heads": 16},
    sizes={
        **_SIZES,
        "token": "first(preprocessor['patch_size'], 14) * first(preprocessor['merge_size'], 2)",
        "least": "preprocessor['min_image_tokens']",
        "most": "preprocessor['max_image_tokens']",
    },
    metadata=(
        *_LINES,
        "str ~projector_type = 'glm5v'",
        "u32 ~vision.spatial_merge_size = spatial_merge_size",
        "f32 ~vision.swiglu_clamp = swiglu_limit",
        "u32 ~vision.image_min_pixels = None if least is None else least * token * token",
        "u32 ~vision.image_max_pixels = None if most is None else most * token * token",
    ),
)
