"""The projectors of Mistral."""

from __future__ import annotations

from typing import Final

from srd_rs.checkpoint import OWN_FORMAT
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

_MEAN: Final = "[0.48145466, 0.4578275, 0.40821073]"
_STD: Final = "[0.26862954, 0.26130258, 0.27577711]"
_BREAK: Final = "image_break_token_id if image_break_token_id >= 0 else token('[IMG_BREAK]')"

PIXTRAL_OWN: Final = FamilyTable(
    arch="clip",
    classes=(OWN_FORMAT,),
    sizes={
        **SIZES,
        "t": "text['dim']",
        "merge": "spatial_merge_size",
        "n_token": "rows_of('tok_embeddings.weight')",
    },
    keep=(r"^tok_embeddings\.weight$",),
    layer_prefix="vision_encoder.transformer.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_encoder.patch_conv > v.patch_embd | w c p p",
        "vision_encoder.ln_pre > v.pre_ln | w",
        "vision_language_adapter.w_in > mm.1 | t w | bias?",
        "vision_language_adapter.w_out > mm.2 | t t | bias?",
        "pre_mm_projector_norm > mm.input_norm | w | ?",
        Rows(
            ("patch_merger.merging_layer > mm.patch_merger | w merge*merge*w",),
            when="has('patch_merger.merging_layer.weight')",
        ),
        f"tok_embeddings > v.token_embd.img_break= | n_token t | rows({_BREAK}, 1) reshape(t)",
    ),
    # Queries and keys have the order of rotary pairs that llama.cpp has.
    layer=(
        Rows(
            (
                "attention_norm > ln1 | w",
                "ffn_norm > ln2 | w",
                "attention.wq > attn_q | w w",
                "attention.wk > attn_k | w w",
                "attention.wv > attn_v | w w",
                "attention.wo > attn_out | w w",
                "feed_forward.w1 > ffn_gate | i w",
                "feed_forward.w2 > ffn_down | w i",
                "feed_forward.w3 > ffn_up | i w",
            )
        ),
    ),
    metadata=(
        *head(),
        f"f32s ~vision.image_mean = {_MEAN}",
        f"f32s ~vision.image_std = {_STD}",
        "str ~projector_type = 'pixtral'",
        "f32 ~vision.attention.layer_norm_epsilon = whole['norm_eps']",
        "f32 ~rope.freq_base = rope_theta",
        "bool ~use_silu = 1 == 1",
        "u32 ~vision.spatial_merge_size = merge if mm_projector_id == 'patch_merge' else None",
    ),
)

ONLY_WITH: Final = {"LlavaForConditionalGeneration": "pixtral"}
