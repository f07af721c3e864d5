"""The projectors of Kimi."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

KIMI_VL: Final = FamilyTable(
    arch="clip",
    classes=("KimiVLForConditionalGeneration",),
    defaults={
        "hidden_size": 1152,
        "init_pos_emb_height": 64,
        "init_pos_emb_width": 64,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
    sizes={**SIZES, "n_image": "64 * 14", "m": "4 * w", "n_pos": "init_pos_emb_height * init_pos_emb_width"},
    layer_prefix="vision_tower.encoder.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.patch_embed.proj > v.patch_embd | w c p p | bias",
        "vision_tower.patch_embed.pos_emb > v.position_embd | init_pos_emb_height init_pos_emb_width w"
        " | f32 reshape(n_pos,w)",
        "vision_tower.encoder.final_layernorm > v.post_ln | w | bias",
        "multi_modal_projector.pre_norm > mm.input_norm | w | bias",
        "multi_modal_projector.linear_1 > mm.1 | m m | bias",
        "multi_modal_projector.linear_2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm0 > ln1 | w | bias",
                "norm1 > ln2 | w | bias",
                "wqkv > attn_q | 3*w w | bias rows(0,w)",
                "wqkv > attn_k | 3*w w | bias rows(w,w)",
                "wqkv > attn_v | 3*w w | bias rows(2*w,w)",
                "wo > attn_out | w w | bias",
                "mlp.fc0 > ffn_up | i w | bias",
                "mlp.fc1 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'kimivl'",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.projector.scale_factor = 2",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-5)",
    ),
)

_PAIRS: Final = "reshape(n_head,w//n_head//4,2,2,w) axes(0,2,1,3,4) reshape(w,w)"
"""Two rotary embeddings that take turns become one in each half of a head."""

KIMI_K25: Final = FamilyTable(
    arch="clip",
    classes=("KimiK25ForConditionalGeneration",),
    defaults={
        "init_pos_emb_height": 64,
        "init_pos_emb_width": 64,
        "init_pos_emb_time": 4,
        "merge_kernel_size": [2, 2],
        "patch_size": 14,
        "projector_hidden_act": "gelu",
        "projector_ln_eps": 1e-5,
        "vt_hidden_size": 1152,
        "vt_intermediate_size": 4304,
        "vt_num_attention_heads": 16,
        "vt_num_hidden_layers": 27,
    },
    sizes={
        **SIZES,
        "w": "vt_hidden_size",
        "i": "vt_intermediate_size",
        "n_image": "init_pos_emb_height * patch_size",
        "m": "merge_kernel_size[0] * merge_kernel_size[1] * w",
        "n_patch": "first(preprocessor['in_patch_limit'], 16384)",
    },
    n_layer="vt_num_hidden_layers",
    n_head="vt_num_attention_heads",
    layer_prefix="vision_tower.encoder.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.patch_embed.proj > v.patch_embd | w c p p | bias",
        "vision_tower.patch_embed.pos_emb > v.position_embd | init_pos_emb_height init_pos_emb_width w | f32",
        "vision_tower.encoder.final_layernorm > v.post_ln | w | bias",
        "mm_projector.pre_norm > mm.input_norm | w | bias",
        "mm_projector.proj.0 > mm.1 | m m | bias",
        "mm_projector.proj.2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm0 > ln1 | w | bias",
                "norm1 > ln2 | w | bias",
                f"wqkv > attn_qkv | 3*w w | bias rows(0,w) {_PAIRS} + rows(w,w) {_PAIRS} + rows(2*w,w)",
                "wo > attn_out | w w | bias",
                "mlp.fc0 > ffn_up | i w | bias",
                "mlp.fc1 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'kimik25'",
        "u32 vision.pos_emb_height = init_pos_emb_height",
        "u32 vision.pos_emb_width = init_pos_emb_width",
        "u32 vision.pos_emb_time = init_pos_emb_time",
        "bool ~use_gelu = projector_hidden_act == 'gelu'",
        "f32 ~vision.attention.layer_norm_epsilon = projector_ln_eps",
        "u32 ~vision.projector.scale_factor = merge_kernel_size[0]",
        "u32 ~vision.image_min_pixels = 8 * p * p",
        "u32 ~vision.image_max_pixels = n_patch * p * p",
    ),
)

GLM_52_V: Final = replace(
    KIMI_K25,
    classes=("Glm5vForConditionalGeneration",),
    renames=(
        (r"^mm_projector\.linear_1\.", "mm_projector.proj.0."),
        (r"^mm_projector\.linear_2\.", "mm_projector.proj.2."),
    ),
)
