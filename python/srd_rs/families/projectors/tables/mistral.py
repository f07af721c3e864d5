"""The projectors of Mistral."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

_DEFAULTS: Final = {
    "hidden_size": 1024,
    "image_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 16,
    "hidden_act": "gelu",
}
_SIZES: Final = {
    **SIZES,
    "merge": "first(whole['spatial_merge_size'], None if class_name == 'LlavaForConditionalGeneration' else 2)",
    "merged": "first(merge, 1) * first(merge, 1) * hidden_size",
}
_LAYER: Final = (
    Rows(
        (
            "attention_norm > ln1 | w",
            "ffn_norm > ln2 | w",
            "attention.q_proj > attn_q | w w | permute_q",
            "attention.k_proj > attn_k | w w | permute_q",
            "attention.v_proj > attn_v | w w",
            "attention.o_proj > attn_out | w w",
            "feed_forward.gate_proj > ffn_gate | i w",
            "feed_forward.up_proj > ffn_up | i w",
            "feed_forward.down_proj > ffn_down | w i",
        )
    ),
)
_TOP: Final = (
    "vision_tower.patch_conv > v.patch_embd | w c p p",
    "vision_tower.ln_pre > v.pre_ln | w",
    "multi_modal_projector.linear_1 > mm.1 | t w | bias?",
    "multi_modal_projector.linear_2 > mm.2 | t t | bias?",
)
_MERGER: Final = (
    "multi_modal_projector.norm > mm.input_norm | w",
    "multi_modal_projector.patch_merger.merging_layer > mm.patch_merger | w merged",
)
_LINES: Final = (
    *head(),
    "str ~projector_type = 'pixtral'",
    "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-5)",
    "bool ~use_silu = None if hidden_act != 'silu' else 1 == 1",
    "bool ~use_gelu = None if hidden_act != 'gelu' else 1 == 1",
    "u32 ~vision.spatial_merge_size = merge",
)

PIXTRAL: Final = FamilyTable(
    arch="clip",
    classes=("Mistral3ForConditionalGeneration", "LlavaForConditionalGeneration"),
    defaults=_DEFAULTS,
    sizes={**_SIZES, "n_token": "rows_of('embed_tokens.weight')"},
    renames=((r"^model\.", ""),),
    keep=(r"(^|\.)embed_tokens\.weight$",),
    layer_prefix="vision_tower.transformer.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *_TOP,
        Rows(_MERGER, when="has('multi_modal_projector.patch_merger.merging_layer.weight')"),
        "embed_tokens > v.token_embd.img_break= | n_token t | rows(token('[IMG_BREAK]'),1) reshape(t)",
    ),
    layer=_LAYER,
    metadata=_LINES,
)

LIGHTON_OCR: Final = FamilyTable(
    arch="clip",
    classes=("LightOnOCRForConditionalGeneration", "LightOnOcrForConditionalGeneration"),
    defaults={**_DEFAULTS, "patch_size": 14, "hidden_act": "silu"},
    sizes=_SIZES,
    renames=(
        (r"^model\.vision_encoder\.", "vision_tower."),
        (r"^model\.vision_projection\.", "multi_modal_projector."),
    ),
    keep=(r"^model\.vision_(encoder|projection)\.",),
    layer_prefix="vision_tower.transformer.layers",
    layer_target="v.blk",
    output=None,
    top=(*_TOP, *_MERGER),
    layer=_LAYER,
    metadata=(*_LINES, "str ~projector_type = 'lightonocr'"),
)

ONLY_WITH: Final = {"LlavaForConditionalGeneration": "pixtral"}
