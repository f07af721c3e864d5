"""The projectors of MiniMax."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

MINIMAX_M3: Final = FamilyTable(
    arch="clip",
    classes=("MiniMaxM3SparseForConditionalGeneration", "MiniMaxM3VLForConditionalGeneration"),
    defaults={
        "hidden_size": 1280,
        "image_size": 2016,
        "intermediate_size": 5120,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
        "patch_size": 14,
    },
    sizes={
        **SIZES,
        "o": "rows_of('multi_modal_projector.linear_1.weight')",
        "merge": "first(img_token_compression_config['spatial_merge_size'], 2)",
    },
    layer_prefix="vision_tower.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.vision_model.embeddings.patch_embedding > v.patch_embd"
        " | w c 2 p p | slice(2,0,1) reshape(w,c,p,p)",
        "vision_tower.vision_model.embeddings.patch_embedding > v.patch_embd=.weight.1"
        " | w c 2 p p | slice(2,1,1) reshape(w,c,p,p)",
        "vision_tower.vision_model.pre_layrnorm > v.pre_ln | w | bias",
        "multi_modal_projector.linear_1 > mm.1 | o w | bias",
        "multi_modal_projector.linear_2 > mm.2 | t o | bias",
        "patch_merge_mlp.linear_1 > mm.merger.fc1 | o merge*merge*t | bias",
        "patch_merge_mlp.linear_2 > mm.merger.fc2 | t o | bias",
    ),
    layer=(
        Rows(
            (
                "layer_norm1 > ln1 | w | bias",
                "layer_norm2 > ln2 | w | bias",
                "self_attn.q_proj > attn_q | w w | bias pair_axes(n_head)",
                "self_attn.k_proj > attn_k | w w | bias pair_axes(n_head)",
                "self_attn.v_proj > attn_v | w w | bias",
                "self_attn.out_proj > attn_out | w w | bias",
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'minimax_m3'",
        "bool ~use_gelu = 1 == 1",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-5)",
        "u32 ~vision.spatial_merge_size = merge",
    ),
)
