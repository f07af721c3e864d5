"""The projectors of Granite Vision, several of which look at one picture."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import (
    SIGLIP_DEFAULTS,
    SIGLIP_LAYER,
    SIGLIP_SIZES,
    VISION_MODEL,
    head,
    siglip_top,
)
from srd_rs.families.schema import FamilyTable, Refusal, Rows, Stack


def _attention(source: str, target: str) -> tuple[str, ...]:
    return (
        f"{source}.attention.query > {target}_attn_q | w w | bias",
        f"{source}.attention.key > {target}_attn_k | w w | bias",
        f"{source}.attention.value > {target}_attn_v | w w | bias",
        f"{source}.output.dense > {target}_attn_out | w w | bias",
        f"{source}.output.LayerNorm > {target}_attn_norm | w | bias",
    )


_LAYER: Final = "qformer.encoder.layer.0"
_PROJECTOR: Final = (
    Rows(
        (
            "image_positions! > img_pos= | 1 side[1]*side[1] w",
            "query! > query= | 1 side[0]*side[0] w",
            "norm > norm | w | bias",
            "out_linear > linear | t w | bias",
            "qformer.layernorm > post_norm | w | bias",
            *_attention(f"{_LAYER}.attention", "self"),
            *_attention(f"{_LAYER}.crossattention", "cross"),
            f"{_LAYER}.intermediate_query.dense > ffn_up | m w | bias",
            f"{_LAYER}.output_query.dense > ffn_down | w m | bias",
            f"{_LAYER}.output_query.LayerNorm > ffn_norm | w | bias",
        )
    ),
)

GRANITE4_VISION: Final = FamilyTable(
    arch="clip",
    classes=("Granite4VisionForConditionalGeneration",),
    defaults={**SIGLIP_DEFAULTS, "image_size": 384},
    sizes={
        **SIGLIP_SIZES,
        "n_text": "text['num_hidden_layers']",
        "deep": "first(whole['deepstack_layer_map'], [])",
        "spatial": "first(whole['spatial_target_layers'], [])",
        "side": "numbers(whole['downsample_rate'], '/')",
        "m": "first(whole['qformer_config']['intermediate_size'], 3072)",
        "deep_at": "[pair[1] + (n_text if pair[1] < 0 else 0) for pair in deep]",
        "spatial_at": "[at + (n_text if at < 0 else 0) for at in spatial]",
        "order": "join(deep_at, spatial_at)",
        "spatial_from": "first(whole['spatial_vision_layer'], -1)",
        "seen": "join([pair[0] + (n_layer if pair[0] < 0 else 0) for pair in deep],"
        " fill(spatial_from + (n_layer if spatial_from < 0 else 0), len(spatial)))",
        "offsets": "join(fill(-1, len(deep)), pad(layers, len(spatial), 0))",
        "grid": "first(whole['image_grid_pinpoints'], [])",
    },
    renames=VISION_MODEL,
    keep=(r"^model\.(layerwise|spatial)_projectors\.",),
    skip=((r"vision_model\.head\.", "of the head of the encoder, which is not used"),),
    layer_prefix="vision_tower.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(*siglip_top("vision_tower.vision_model"), "model.image_newline! > v.image_newline= | t"),
    layer=SIGLIP_LAYER,
    stacks=(
        Stack(
            "model.layerwise_projectors",
            "v.proj_blk",
            "len(deep)",
            _PROJECTOR,
            number="count([at < deep_at[layer] for at in order], 1 == 1)",
        ),
        Stack(
            "model.spatial_projectors",
            "v.proj_blk",
            "len(spatial)",
            _PROJECTOR,
            number="count([at < spatial_at[layer] for at in order], 1 == 1)",
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'granite4_vision'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.preproc_image_size = image_size",
        "u32 ~vision.projector.query_side = side[0]",
        "u32 ~vision.projector.window_side = side[1]",
        "i32s ~vision.feature_layer = ordered(seen, order)",
        "i32s ~vision.projector.spatial_offsets = ordered(offsets, order)",
        "i32s ~vision.image_grid_pinpoints = flat([[pair[1], pair[0]] for pair in grid]) if len(grid) > 0 else None",
    ),
    refusals=(
        Refusal(
            "len([at for at in order]) == 0 or max(count([order[0] == at for at in order], 1 == 1), 1) > 1",
            "two projectors give what they see to one layer, or there are none",
        ),
    ),
)
