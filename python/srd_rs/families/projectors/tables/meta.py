"""The projectors of Llama."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, VISION_MODEL, head
from srd_rs.families.schema import FamilyTable, Refusal, Rows

LLAMA4: Final = FamilyTable(
    arch="clip",
    classes=("Llama4ForConditionalGeneration",),
    defaults={
        "hidden_act": "gelu",
        "hidden_size": 768,
        "image_size": 448,
        "intermediate_size": 5632,
        "norm_eps": 1e-5,
        "num_attention_heads": 16,
        "num_hidden_layers": 34,
        "patch_size": 14,
        "pixel_shuffle_ratio": 0.5,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "vision_output_dim": 7680,
    },
    sizes={
        **SIZES,
        "n_pos": "(image_size // patch_size) * (image_size // patch_size) + 1",
        "o": "projector_output_dim",
    },
    renames=VISION_MODEL,
    layer_prefix="vision_model.model.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_model.class_embedding! > v.class_embd= | w",
        "vision_model.positional_embedding_vlm! > v.position_embd | n_pos w | f32",
        "vision_model.patch_embedding.linear > v.patch_embd | w c*p*p",
        "vision_model.layernorm_pre > v.pre_ln | w | bias",
        "vision_model.layernorm_post > v.post_ln | w | bias",
        "vision_model.vision_adapter.mlp.fc1 > mm.model.mlp.1 | projector_input_dim i",
        "vision_model.vision_adapter.mlp.fc2 > mm.model.mlp.2 | o o",
        "multi_modal_projector.linear_1 > mm.model.fc | t vision_output_dim",
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
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'llama4'",
        "f32 ~vision.attention.layer_norm_epsilon = norm_eps",
        "u32 ~vision.projector.scale_factor = int(1 / pixel_shuffle_ratio)",
        "bool ~use_gelu = 1 == 1",
    ),
    refusals=(Refusal("hidden_act != 'gelu'", "the activation of the encoder of pictures is not gelu"),),
)

MUSE_GLIMMER: Final = FamilyTable(
    arch="clip",
    classes=("MuseGlimmerForConditionalGeneration",),
    defaults={
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "layer_norm_eps": 1e-5,
        "merge_size": 2,
        "num_attention_heads": 16,
        "num_hidden_layers": 50,
        "patch_size": 14,
        "patch_temporal": 2,
        "pos_emb_height": 32,
        "pos_emb_width": 32,
    },
    sizes={
        **SIZES,
        "n_image": "pos_emb_height * patch_size * merge_size",
        "fold": "merge_size * merge_size * w",
        "o": "first(whole['projector_hidden_size'], 4096)",
    },
    renames=((r"^model\.(vision_)", r"\1"),),
    layer_prefix="vision_tower.layers",
    layer_target="v.blk",
    output=None,
    top=(
        # A picture is the same in all frames that a patch covers.
        "vision_tower.patch_embedder.patch_embedding > v.patch_embd"
        " | w patch_temporal*c*p*p | reshape(w, patch_temporal, c, p, p) sum(1)",
        "vision_tower.patch_embedder.position_embedding_table > v.position_embd"
        " | pos_emb_height*pos_emb_width w | f32",
        "vision_tower.ln_pre > v.pre_ln | w | bias",
        "vision_tower.ln_post > v.post_ln | w | bias",
        "vision_adapter.fc1 > mm.0 | o fold",
        "vision_adapter.fc2 > mm.1 | o o",
        "vision_projection > mm.2 | t o",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w | bias",
                "norm2 > ln2 | w | bias",
                "attn.q_proj > attn_q | w w | bias permute_q",
                "attn.k_proj > attn_k | w w | bias permute_q",
                "attn.v_proj > attn_v | w w | bias",
                "attn.proj > attn_out | w w | bias",
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'muse-glimmer'",
        "f32 ~vision.attention.layer_norm_epsilon = layer_norm_eps",
        "u32 ~vision.spatial_merge_size = merge_size",
    ),
)
