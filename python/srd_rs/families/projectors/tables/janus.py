"""The projectors of Janus."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIGLIP_SIZES, head, siglip_top
from srd_rs.families.schema import FamilyTable, Rows

JANUS: Final = FamilyTable(
    arch="clip",
    classes=("JanusForConditionalGeneration",),
    defaults={
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "image_size": 384,
        "mlp_ratio": 4.0,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 16,
        "projection_dim": 2048,
    },
    sizes={
        **SIGLIP_SIZES,
        "i": "first(intermediate_size, int(hidden_size * mlp_ratio + 0.5))",
        "o": "projection_dim",
    },
    renames=((r"^model\.(vision_model|aligner)\.", r"\1."),),
    keep=(r"^(model\.)?aligner\.",),
    skip=((r"^(model\.)?(vqmodel|generation_\w+)\.", "of the part that makes pictures"),),
    layer_prefix="vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *siglip_top("vision_model"),
        "aligner.fc1 > mm.0 | o w | bias",
        "aligner.hidden_layers.0 > mm.1 | t o | bias",
    ),
    layer=(
        Rows(
            (
                "layer_norm1 > ln1 | w | bias",
                "layer_norm2 > ln2 | w | bias",
                "self_attn.q_proj > attn_q | w w | bias?",
                "self_attn.k_proj > attn_k | w w | bias?",
                "self_attn.v_proj > attn_v | w w | bias?",
                "self_attn.projection_layer > attn_out | w w | bias",
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        "str ~projector_type = 'janus_pro'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        "bool ~use_gelu = 1 == 1 if hidden_act == 'gelu' else None",
        "bool ~use_silu = 1 == 1 if hidden_act == 'silu' else None",
    ),
)
