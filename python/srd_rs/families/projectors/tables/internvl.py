"""The projectors of InternVL."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

INTERNVL: Final = FamilyTable(
    arch="clip",
    classes=("InternVisionModel", "InternVLChatModel", "InternVLForConditionalGeneration"),
    defaults={
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "image_size": 448,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-6,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
    sizes={
        **SIZES,
        "p": "patch_size[0] if is_list(patch_size) else patch_size",
        "n_image": "image_size[0] if is_list(image_size) else image_size",
        "n_pos": "(n_image // p) * (n_image // p) + 1",
        "factor": "int(1 / first(whole['downsample_ratio'], 0.5))",
        "fold": "factor * factor * w",
        "tiles_least": "first(whole['min_dynamic_patch'], 0)",
        "tiles_most": "first(whole['max_dynamic_patch'], 0)",
    },
    # The two layouts of published files: that of the authors and that of transformers.
    renames=(
        (r"^(?:model\.)?vision_tower\.", "vision_model."),
        (r"^vision_model\.embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
        (r"^(vision_model\.embeddings\.position_embedding)s$", r"\1"),
        (r"^(vision_model\.embeddings\.patch_embedding)s\.projection\.", r"\1."),
        (r"^(vision_model\.encoder\.layer)\.", r"\1s."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.lambda_([12])$", r".ls\1"),
        (r"\.attention\.projection_layer\.", ".attn.proj."),
        (r"\.attention\.([qkv]_proj|[qk]_norm)\.", r".attn.\1."),
        (r"^(?:model\.)?multi_modal_projector\.layer_norm\.", "mlp1.0."),
        (r"^(?:model\.)?multi_modal_projector\.linear_1\.", "mlp1.1."),
        (r"^(?:model\.)?multi_modal_projector\.linear_2\.", "mlp1.3."),
    ),
    layer_prefix="vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_model.embeddings.class_embedding! > v.class_embd= | 1 1 w",
        "vision_model.embeddings.position_embedding! > v.position_embd | 1 n_pos w | f32",
        "vision_model.embeddings.patch_embedding > v.patch_embd | w c p p | bias",
        "mlp1.0 > mm.model.mlp.0 | fold | bias",
        "mlp1.1 > mm.model.mlp.1 | t fold | bias",
        "mlp1.3 > mm.model.mlp.3 | t t | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w | bias?",
                "norm2 > ln2 | w | bias?",
                "attn.q_norm > attn_q_norm | w | ?",
                "attn.k_norm > attn_k_norm | w | ?",
                "attn.proj > attn_out | w w | bias",
                "ls1! > ls1 | w",
                "ls2! > ls2 | w",
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
        Rows(
            (
                "attn.qkv > attn_q | 3*w w | bias? rows(0,w)",
                "attn.qkv > attn_k | 3*w w | bias? rows(w,w)",
                "attn.qkv > attn_v | 3*w w | bias? rows(2*w,w)",
            ),
            when="layer_has('attn.qkv.weight')",
        ),
        Rows(
            (
                "attn.q_proj > attn_q | w w | bias?",
                "attn.k_proj > attn_k | w w | bias?",
                "attn.v_proj > attn_v | w w | bias?",
            ),
            when="not layer_has('attn.qkv.weight')",
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'internvl'",
        "f32 ~vision.attention.layer_norm_epsilon = layer_norm_eps",
        "bool ~use_silu = 1 == 1 if hidden_act == 'silu' else None",
        "bool ~use_gelu = 1 == 1 if hidden_act == 'gelu' else None",
        "u32 ~vision.projector.scale_factor = factor",
        "u32 ~vision.preproc_min_tiles = tiles_least if tiles_least > 0 else None",
        "u32 ~vision.preproc_max_tiles = tiles_most if tiles_most > 0 else None",
    ),
)
