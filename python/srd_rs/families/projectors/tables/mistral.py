"""The projectors of Mistral."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

PIXTRAL: Final = FamilyTable(
    arch="clip",
    classes=("Mistral3ForConditionalGeneration", "LlavaForConditionalGeneration"),
    defaults={
        "hidden_size": 1024,
        "image_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 16,
        "hidden_act": "gelu",
    },
    sizes={**SIZES, "merged": "whole['spatial_merge_size'] * whole['spatial_merge_size'] * hidden_size"},
    renames=((r"^model\.", ""),),
    layer_prefix="vision_tower.transformer.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.patch_conv > v.patch_embd | w c p p",
        "vision_tower.ln_pre > v.pre_ln | w",
        "multi_modal_projector.linear_1 > mm.1 | t w | bias?",
        "multi_modal_projector.linear_2 > mm.2 | t t | bias?",
        Rows(
            (
                "multi_modal_projector.norm > mm.input_norm | w",
                "multi_modal_projector.patch_merger.merging_layer > mm.patch_merger | w merged",
            ),
            when="has('multi_modal_projector.patch_merger.merging_layer.weight')",
        ),
    ),
    layer=(
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
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'pixtral'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-5)",
        "bool ~use_silu = None if hidden_act != 'silu' else 1 == 1",
        "bool ~use_gelu = None if hidden_act != 'gelu' else 1 == 1",
        "u32 ~vision.spatial_merge_size = whole['spatial_merge_size']",
    ),
)


ONLY_WITH: Final = {"LlavaForConditionalGeneration": "pixtral"}
