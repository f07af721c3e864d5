"""The projectors of Qwen."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.projectors.tables.common import GATED, QWEN_PATCH, SIZES, VISUAL, head
from srd_rs.families.schema import FamilyTable, Refusal, Rows, Stack

_QWEN_QKV: Final = (
    "attn.qkv > attn_q | 3*w w | bias rows(0,w)",
    "attn.qkv > attn_k | 3*w w | bias rows(w,w)",
    "attn.qkv > attn_v | 3*w w | bias rows(2*w,w)",
    "attn.proj > attn_out | w w | bias",
)
_QWEN_DEFAULTS: Final = {"depth": 32, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}

QWEN2_VL: Final = FamilyTable(
    arch="clip",
    classes=("Qwen2VLForConditionalGeneration", "Qwen2VLModel"),
    defaults={**_QWEN_DEFAULTS, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 3584},
    sizes={
        **SIZES,
        "w": "embed_dim",
        "i": "embed_dim * mlp_ratio",
        "n_image": "first(image_size, 560)",
        "m": "spatial_merge_size * spatial_merge_size * embed_dim",
    },
    renames=VISUAL,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *QWEN_PATCH,
        "visual.merger.ln_q > v.post_ln | w | bias",
        "visual.merger.mlp.0 > mm.0 | m m | bias",
        "visual.merger.mlp.2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w | bias",
                "norm2 > ln2 | w | bias",
                *_QWEN_QKV,
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head("hidden_size"),  # llama.cpp's converter writes the width of the text model
        "str ~projector_type = 'qwen2vl_merger'",
        "f32 ~vision.attention.layer_norm_epsilon = 1e-6",
    ),
)

SARASHINA2: Final = replace(QWEN2_VL, classes=("Sarashina2VisionForCausalLM",))

_UNEVEN: Final = Refusal(
    "window != None and ((1 == 1) in [(n + 1) % window != 0 for n in fullatt_block_indexes]"
    " or not len(fullatt_block_indexes) * window in [n + 1 for n in fullatt_block_indexes])",
    "the layers with full attention (fullatt_block_indexes) do not follow at equal distances",
)

QWEN25_VL: Final = FamilyTable(
    arch="clip",
    classes=("Qwen2_5_VLForConditionalGeneration",),
    defaults={
        **_QWEN_DEFAULTS,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    sizes={
        **SIZES,
        "n_image": "first(image_size, 560)",
        "m": "spatial_merge_size * spatial_merge_size * hidden_size",
        "window": "fullatt_block_indexes[0] + 1",
    },
    refusals=(_UNEVEN,),
    renames=VISUAL,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *QWEN_PATCH,
        "visual.merger.ln_q > v.post_ln | w",
        "visual.merger.mlp.0 > mm.0 | m m | bias",
        "visual.merger.mlp.2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                *_QWEN_QKV,
                *GATED,
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'qwen2.5vl_merger'",
        "bool ~use_silu = 1 == 1",
        "u32 ~vision.n_wa_pattern = window",
        "f32 ~vision.attention.layer_norm_epsilon = 1e-6",
    ),
)

QWEN3_VL: Final = FamilyTable(
    arch="clip",
    classes=(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen4ExpForConditionalGeneration",
    ),
    defaults={
        **_QWEN_DEFAULTS,
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "patch_size": 16,
        "deepstack_visual_indexes": [],
    },
    sizes={
        **SIZES,
        "n_image": "first(image_size, int(sqrt(num_position_embeddings) * patch_size))",
        "m": "spatial_merge_size * spatial_merge_size * hidden_size",
    },
    renames=VISUAL,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *QWEN_PATCH,
        "visual.patch_embed.proj.bias! > v.patch_embd=.bias | w",
        "visual.pos_embed > v.position_embd | num_position_embeddings w | f32",
        "visual.merger.norm > v.post_ln | w | bias",
        "visual.merger.linear_fc1 > mm.0 | m m | bias",
        "visual.merger.linear_fc2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w | bias",
                "norm2 > ln2 | w | bias",
                "attn.qkv > attn_qkv | 3*w w | bias",
                "attn.proj > attn_out | w w | bias",
                "mlp.linear_fc1 > ffn_up | i w | bias",
                "mlp.linear_fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    stacks=(
        Stack(
            "visual.deepstack_merger_list",
            "v.deepstack",
            "len(deepstack_visual_indexes)",
            (
                Rows(
                    (
                        "norm > norm | m | bias",
                        "linear_fc1 > fc1 | m m | bias",
                        "linear_fc2 > fc2 | t m | bias",
                    )
                ),
            ),
            number="deepstack_visual_indexes[layer]",
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'qwen3vl_merger'",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.spatial_merge_size = spatial_merge_size",
        "f32 ~vision.attention.layer_norm_epsilon = first(whole['text_config']['rms_norm_eps'], 1e-6)",
        "bools ~vision.is_deepstack_layers = layer in deepstack_visual_indexes",
    ),
)

LING_3_VL: Final = replace(
    QWEN3_VL,
    classes=("BailingMoeV3VLForConditionalGeneration",),
    top=(
        *QWEN_PATCH,
        "visual.pos_embed > v.position_embd | num_position_embeddings w | f32",
        "visual.merger.norm > mm.input_norm | w | bias",
        "linear_proj.0 > mm.0 | t m | bias",
        "linear_proj.2 > mm.2 | t t | bias",
    ),
    keep=(r"^linear_proj\.",),
    stacks=(),
    metadata=(
        *head(),
        "str ~projector_type = 'ling3vl'",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.spatial_merge_size = spatial_merge_size",
        "f32 ~vision.attention.layer_norm_epsilon = first(whole['text_config']['rms_norm_eps'], 1e-6)",
    ),
    refusals=(Refusal("disable_merger_proj != (1 == 1)", "disable_merger_proj is not true"),),
)
