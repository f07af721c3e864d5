"""The projectors of Phi."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIGLIP_DEFAULTS, SIGLIP_LAYER, SIZES, head
from srd_rs.families.schema import FamilyTable, Refusal

PHI4_VISION: Final = FamilyTable(
    arch="clip",
    classes=("Phi4ForCausalLMV",),
    defaults={**SIGLIP_DEFAULTS, "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16},
    sizes={
        **SIZES,
        "p": "preprocessor['patch_size']",
        "n_pos": "rows_of('vision_tower.vision_model.embeddings.position_embedding.weight')",
        "n_image": "int(sqrt(rows_of('vision_tower.vision_model.embeddings.position_embedding.weight'))) * p",
        "least": "first(preprocessor['min_num_patches'], whole['min_num_patches'])",
        "most": "first(preprocessor['max_num_patches'], whole['max_num_patches'])",
    },
    renames=(
        (r"^model\.vision_tower\.vision_tower\.", "vision_tower."),
        (r"^model\.mm_projector\.", "mm_projector."),
    ),
    keep=(r"^(model\.)?mm_projector\.",),
    skip=(
        (r"vision_model\.head\.", "of the head of the encoder, which is not used"),
        (r"vision_model\.post_layernorm\.", "of the last norm, which is not used"),
    ),
    # The model looks at what the last layer but one gives.
    n_layer="num_hidden_layers - 1",
    beyond="of the last layer of the encoder, which is not used",
    layer_prefix="vision_tower.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.vision_model.embeddings.patch_embedding > v.patch_embd"
        " | w p*p*c | reshape(w,p,p,c) axes(0,3,1,2)",
        "vision_tower.vision_model.embeddings.patch_embedding.bias! > v.patch_embd=.bias | w",
        "vision_tower.vision_model.embeddings.position_embedding > v.position_embd | n_pos w | f32",
        "mm_projector.0 > mm.0 | t w | bias",
        "mm_projector.2 > mm.2 | t t | bias",
    ),
    layer=SIGLIP_LAYER,
    metadata=(
        *head(),
        "str ~projector_type = 'phi4'",
        "u32 ~vision.image_min_pixels = int(least) * p * p",
        "u32 ~vision.image_max_pixels = int(most) * p * p",
        "bool ~use_gelu = 1 == 1",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
    ),
    refusals=(
        Refusal("p is None", "patch_size of preprocessor_config.json is missing"),
        Refusal("least is None or most is None", "min_num_patches or max_num_patches is missing"),
    ),
)
