"""The projectors of LFM2."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIGLIP_DEFAULTS, SIGLIP_LAYER, SIZES, VISION_MODEL, head
from srd_rs.families.schema import FamilyTable

LFM2_VL: Final = FamilyTable(
    arch="clip",
    classes=("Lfm2VlForConditionalGeneration",),
    defaults={**SIGLIP_DEFAULTS, "layer_norm_eps": 1e-6, "num_patches": 256},
    sizes={
        **SIZES,
        "n_image": "256",
        "factor": "first(whole['downsample_factor'], 2)",
        "fold": "factor * factor * w",
        "o": "first(whole['projector_hidden_size'], 2560)",
    },
    renames=VISION_MODEL,
    skip=((r"vision_model\.head\.", "of the head of the encoder, which is not used"),),
    layer_prefix="vision_tower.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.vision_model.embeddings.patch_embedding > v.patch_embd"
        " | w p*p*c | reshape(w,p,p,c) axes(0,3,1,2)",
        "vision_tower.vision_model.embeddings.patch_embedding.bias! > v.patch_embd=.bias | w",
        "vision_tower.vision_model.embeddings.position_embedding > v.position_embd | num_patches w | f32",
        "vision_tower.vision_model.post_layernorm > v.post_ln | w | bias",
        "multi_modal_projector.layer_norm > mm.input_norm | fold | ? bias?",
        "multi_modal_projector.linear_1 > mm.1 | o fold | bias?",
        "multi_modal_projector.linear_2 > mm.2 | t o | bias?",
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'lfm2'",
        "f32 ~vision.attention.layer_norm_epsilon = layer_norm_eps",
        "u32 ~vision.projector.scale_factor = factor",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.block_count = n_layer + first(whole['vision_feature_layer'], -1) + 1",
    ),
)
