"""The projectors of Hunyuan."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import NO_PIXELS, PIXELS, SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

HUNYUAN_VL: Final = FamilyTable(
    arch="clip",
    classes=("HunYuanVLForConditionalGeneration",),
    defaults={
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 16,
        "spatial_merge_size": 2,
    },
    sizes={
        **SIZES,
        "n_image": "first(image_size, max_image_size, 2048)",
        "n_pos": "rows_of('vit.embeddings.position_embedding.weight')",
        "m": "spatial_merge_size",
    },
    layer_prefix="vit.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vit.embeddings.patch_embedding > v.patch_embd | w c p p | bias",
        "vit.embeddings.position_embedding > v.position_embd | n_pos w | f32 rows(1,n_pos-1)",
        "vit.perceive.before_rms > mm.pre_norm | w",
        "vit.perceive.proj.0 > mm.0 | 2*w w m m | bias",
        "vit.perceive.proj.2 > mm.2 | 4*w 2*w 1 1 | bias",
        "vit.perceive.mlp > mm.model.fc | t 4*w | bias",
        "vit.perceive.after_rms > mm.post_norm | t",
        "vit.perceive.image_newline! > v.image_newline= | 4*w",
        "vit.perceive.image_sep! > v.view_seperator= | t",
        "vit.perceive.image_begin! > mm.image_begin= | t",
        "vit.perceive.image_end! > mm.image_end= | t",
    ),
    layer=(
        Rows(
            (
                "input_layernorm > ln1 | w | bias",
                "post_attention_layernorm > ln2 | w | bias",
                "self_attn.q_proj > attn_q | w w | bias",
                "self_attn.k_proj > attn_k | w w | bias",
                "self_attn.v_proj > attn_v | w w | bias",
                "self_attn.o_proj > attn_out | w w | bias",
                "mlp.dense_h_to_4h > ffn_up | i w | bias",
                "mlp.dense_4h_to_h > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'hunyuanvl'",
        "bool ~use_gelu = 1 == 1",
        "f32 ~vision.attention.layer_norm_epsilon = first(rms_norm_eps, 1e-5)",
        "u32 ~vision.spatial_merge_size = spatial_merge_size",
        *PIXELS,
    ),
    refusals=(NO_PIXELS,),
)
