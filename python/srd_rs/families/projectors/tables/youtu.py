"""The projectors of Youtu."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIGLIP_LAYER, SIZES, head
from srd_rs.families.schema import FamilyTable, Refusal

_GELU: Final = "['gelu', 'gelu_pytorch_tanh', 'gelu_fast', 'gelu_new', 'gelu_accurate']"

YOUTU_VL: Final = FamilyTable(
    arch="clip",
    classes=("YoutuVLForConditionalGeneration",),
    defaults={
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 16,
        "spatial_merge_size": 2,
    },
    sizes={
        **SIZES,
        "n_image": "first(image_size, 560)",
        "m": "spatial_merge_size * spatial_merge_size * w",
    },
    keep=(r"^(siglip2|merger)\.",),
    skip=((r"^siglip2\.vision_model\.head\.", "of the head of the encoder, which is not used"),),
    layer_prefix="siglip2.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "siglip2.vision_model.embeddings.patch_embedding > v.patch_embd | w c*p*p",
        "siglip2.vision_model.embeddings.patch_embedding.bias! > v.patch_embd=.bias | w",
        "siglip2.vision_model.post_layernorm > v.post_ln | w | bias",
        "merger.ln_q > mm.input_norm | w",
        "merger.mlp.0 > mm.0 | m m | bias",
        "merger.mlp.2 > mm.2 | t m | bias",
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'youtuvl'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        f"bool ~use_gelu = 1 == 1 if hidden_act in {_GELU} else None",
        "bool ~use_silu = 1 == 1 if hidden_act == 'silu' else None",
        "u32 ~vision.spatial_merge_size = spatial_merge_size",
        "u32 ~vision.window_size = window_size",
        "i32s ~vision.wa_layer_indexes = fullatt_block_indexes",
    ),
    refusals=(Refusal("fullatt_block_indexes is None", "fullatt_block_indexes of vision_config is missing"),),
)
