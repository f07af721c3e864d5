"""The projectors of Gemma."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import (
    SIGLIP_DEFAULTS,
    SIGLIP_LAYER,
    SIGLIP_SIZES,
    SIZES,
    head,
    siglip_top,
)
from srd_rs.families.schema import FamilyTable, Rows

GEMMA3: Final = FamilyTable(
    arch="clip",
    classes=("Gemma3ForConditionalGeneration",),
    defaults=SIGLIP_DEFAULTS,
    sizes={
        **SIGLIP_SIZES,
        "scale": "(image_size // patch_size) // int(sqrt(first(preprocessor['image_seq_length'], 256)))",
    },
    renames=((r"^model\.", ""), (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.")),
    skip=((r"vision_model\.head\.", "of the head of the encoder, which is not used"),),
    layer_prefix="vision_tower.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *siglip_top("vision_tower.vision_model", "f32"),
        "multi_modal_projector.mm_input_projection_weight! > mm.input_projection | w t",
        "multi_modal_projector.mm_soft_emb_norm > mm.soft_emb_norm | w | plus_one",
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'gemma3'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.projector.scale_factor = scale if scale > 0 and scale != 4 else None",
    ),
)

_CLIPS: Final = ("input_max", "input_min", "output_max", "output_min")
"""The ends of the range to which a linear layer of Gemma 4 clips its inputs and outputs. Not every model has them."""


def _clipped(row: str) -> tuple[str, ...]:
    """Return the rows of a linear layer: its matrix, ``NAME.linear``, and the ends of its ranges."""
    source, _, rest = row.partition(" > ")
    target, _, sizes = rest.partition(" | ")
    ends = (f"{source}.{end}! > {target}=.{end} | scalar | ? reshape(1)" for end in _CLIPS)
    return (f"{source}.linear > {target} | {sizes}", *ends)


GEMMA4: Final = FamilyTable(
    arch="clip",
    classes=("Gemma4ForConditionalGeneration",),
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "patch_size": 16,
        "position_embedding_size": 10240,
    },
    sizes={**SIZES, "n_image": "224", "k": "first(num_key_value_heads, num_attention_heads) * head_dim"},
    renames=((r"^model\.", ""),),
    skip=((r"audio", "of the audio encoder, which is not written yet: the model sees, but does not hear"),),
    layer_prefix="vision_tower.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "embed_vision.embedding_projection > mm.input_projection | t w",
        "vision_tower.patch_embedder.input_proj > v.patch_embd | w 3*p*p | reshape(w,p,p,3) axes(0,3,1,2)",
        "vision_tower.patch_embedder.position_embedding_table! > v.position_embd | 2 position_embedding_size w | f32",
    ),
    layer=(
        Rows(
            (
                "input_layernorm > ln1 | w",
                "post_attention_layernorm > attn_post_norm | w",
                "pre_feedforward_layernorm > ln2 | w",
                "post_feedforward_layernorm > ffn_post_norm | w",
                "self_attn.q_norm > attn_q_norm | head_dim",
                "self_attn.k_norm > attn_k_norm | head_dim",
                *_clipped("self_attn.q_proj > attn_q | n_head*head_dim w"),
                *_clipped("self_attn.k_proj > attn_k | k w"),
                *_clipped("self_attn.v_proj > attn_v | k w"),
                *_clipped("self_attn.o_proj > attn_out | w n_head*head_dim"),
                *_clipped("mlp.gate_proj > ffn_gate | i w"),
                *_clipped("mlp.up_proj > ffn_up | i w"),
                *_clipped("mlp.down_proj > ffn_down | w i"),
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~vision.projector_type = 'gemma4v'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
    ),
)
