"""The projectors of CogVLM."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

COGVLM: Final = FamilyTable(
    arch="clip",
    classes=("CogVLMForCausalLM",),
    defaults={
        "hidden_size": 1792,
        "image_size": 490,
        "intermediate_size": 15360,
        "num_heads": 16,
        "num_hidden_layers": 63,
        "patch_size": 14,
    },
    sizes={
        **SIZES,
        "n_pos": "(image_size // patch_size) * (image_size // patch_size) + 1",
        "m": "text['intermediate_size']",
    },
    skip=((r"\.(self_attn\.vision_expert_|mlp\.vision_mlp\.)", names.TEXT),),
    renames=((r"^model\.vision\.", "vision."),),
    n_head="first(num_heads, num_attention_heads)",
    layer_prefix="vision.transformer.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision.patch_embedding.cls_embedding! > v.class_embd= | 1 w",
        "vision.patch_embedding.position_embedding > v.position_embd | n_pos w | f32",
        "vision.patch_embedding.proj > v.patch_embd | w c p p | bias",
        "vision.linear_proj.linear_proj > mm.model.fc | t w",
        "vision.linear_proj.norm1 > mm.post_fc_norm | t | bias",
        "vision.linear_proj.gate_proj > mm.gate | m t",
        "vision.linear_proj.dense_h_to_4h > mm.up | m t",
        "vision.linear_proj.dense_4h_to_h > mm.down | t m",
        "vision.boi! > v.boi= | 1 1 t",
        "vision.eoi! > v.eoi= | 1 1 t",
    ),
    layer=(
        Rows(
            (
                "input_layernorm > ln1 | w | bias",
                "post_attention_layernorm > ln2 | w | bias",
                "attention.query_key_value > attn_qkv | 3*w w | bias",
                "attention.dense > attn_out | w w | bias",
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'cogvlm'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
    ),
)
