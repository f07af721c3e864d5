"""The projectors of LLaVA 1.5 and 1.6 and of Granite Vision 3: an encoder of CLIP or SigLIP, and two matrices.

llama.cpp's converter does not write them. The names and values are those of the scripts that llama.cpp had before
(`tools/mtmd/legacy-models`), which mtmd reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from srd_rs.families.projectors.tables.common import (
    SIGLIP_DEFAULTS,
    SIGLIP_LAYER,
    SIGLIP_SIZES,
    VISION_MODEL,
    head,
)
from srd_rs.families.schema import FamilyTable, Refusal

_GELU: Final = ("gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate")
_SEEN: Final = "whole['vision_feature_layer']"
_EMBEDDINGS: Final = "vision_tower.vision_model.embeddings"


def _llava(defaults: Mapping[str, Any], sizes: Mapping[str, str], top: tuple[str, ...]) -> FamilyTable:
    """Return the table for one kind of encoder. Of several layers that the projector looks at, the outputs stand one
    after another."""
    return FamilyTable(
        arch="clip",
        classes=(),
        defaults=defaults,
        sizes={
            **SIGLIP_SIZES,
            "seen": f"{_SEEN} if is_list({_SEEN}) else [first({_SEEN}, -2)]",
            "layers_seen": "[at + (num_hidden_layers + 1 if at < 0 else 0) for at in seen]",
            "grid": "first(whole['image_grid_pinpoints'], preprocessor['image_grid_pinpoints'], [])",
            **sizes,
        },
        renames=(*VISION_MODEL, (r"^model\.image_newline$", "image_newline")),
        skip=(
            (r"vision_(model|tower)\.head\.", "of the head of the encoder, which is not used"),
            (r"vision_(model|tower)\.post_layernorm\.", "of the last norm, which is not used"),
        ),
        n_layer="layers_seen[len(layers_seen) - 1]",
        beyond="of the last layers of the encoder, which are not used",
        layer_prefix="vision_tower.vision_model.encoder.layers",
        layer_target="v.blk",
        output=None,
        top=(
            *top,
            f"{_EMBEDDINGS}.position_embedding > v.position_embd | n_pos w | f32",
            "multi_modal_projector.linear_1 > mm.0 | t len(seen)*w | bias",
            "multi_modal_projector.linear_2 > mm.2 | t t | bias",
        ),
        layer=SIGLIP_LAYER,
        metadata=(
            *head(),
            "str ~projector_type = 'mlp'",
            "f32 ~vision.attention.layer_norm_epsilon = layer_norm_eps",
            f"bool ~use_gelu = hidden_act in {list(_GELU)}",
            "i32s ~vision.feature_layer = layers_seen",
        ),
        refusals=(
            Refusal(
                f"hidden_act not in {['quick_gelu', *_GELU]}",
                "the activation of the encoder of pictures is neither gelu nor quick_gelu",
            ),
            Refusal(
                f"first(whole['projector_hidden_act'], 'gelu') not in {list(_GELU)}",
                "the activation of the projector is not gelu",
            ),
            Refusal(
                "(1 == 1) in [at < 1 or at > num_hidden_layers for at in layers_seen]"
                " or ordered(layers_seen, layers_seen) != layers_seen",
                "vision_feature_layer names a layer that the encoder lacks, or the layers are not in order",
            ),
        ),
    )


_CLIP: Final = _llava(
    {
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "image_size": 224,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-5,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "patch_size": 32,
    },
    {"n_pos": "(image_size // patch_size) * (image_size // patch_size) + 1"},
    (
        f"{_EMBEDDINGS}.class_embedding! > v.class_embd= | w",
        f"{_EMBEDDINGS}.patch_embedding > v.patch_embd | w c p p",
        # transformers has this spelling
        "vision_tower.vision_model.pre_layrnorm > v.pre_ln | w | bias",
    ),
)
CLIP: Final = replace(
    _CLIP,
    refusals=(
        *_CLIP.refusals,
        Refusal(
            "first(whole['vision_feature_select_strategy'], 'default') != 'default'",
            "the model looks at the output for the class too, which llama.cpp leaves out",
        ),
    ),
)
SIGLIP: Final = _llava(
    {**SIGLIP_DEFAULTS, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    {},
    (f"{_EMBEDDINGS}.patch_embedding > v.patch_embd | w c p p | bias",),
)


def _next(table: FamilyTable) -> FamilyTable:
    """Return the table of LLaVA 1.6, which looks at parts of a picture too."""
    return replace(
        table,
        top=(*table.top, "image_newline! > v.image_newline= | t"),
        metadata=(
            *table.metadata,
            # pairs of height and width become pairs of width and height
            "i32s ~vision.image_grid_pinpoints = flat([[pair[1], pair[0]] for pair in grid])",
            "str ~vision.mm_patch_merge_type = 'spatial_unpad'",
        ),
        refusals=(
            *table.refusals,
            Refusal("len(grid) == 0", "image_grid_pinpoints of config.json is missing"),
        ),
    )


BY_ENCODER: Final = {
    ("LlavaForConditionalGeneration", "clip_vision_model"): CLIP,
    ("LlavaForConditionalGeneration", "siglip_vision_model"): SIGLIP,
    ("LlavaNextForConditionalGeneration", "clip_vision_model"): _next(CLIP),
    ("LlavaNextForConditionalGeneration", "siglip_vision_model"): _next(SIGLIP),
}
