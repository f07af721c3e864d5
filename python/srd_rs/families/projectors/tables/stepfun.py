"""The projectors of Step."""

from __future__ import annotations

from typing import Final

from srd_rs.families.projectors.tables.common import SIZES, head
from srd_rs.families.schema import FamilyTable, Rows

_MEAN: Final = "[0.48145466, 0.4578275, 0.40821073]"
_STD: Final = "[0.26862954, 0.26130258, 0.27577711]"

STEP3_VL: Final = FamilyTable(
    arch="clip",
    classes=("StepVLForConditionalGeneration", "Step3p7ForConditionalGeneration"),
    defaults={"image_size": 728, "patch_size": 14},
    sizes={
        **SIZES,
        "w": "first(hidden_size, width)",
        "i": "first(intermediate_size, int(w * first(mlp_ratio, 8960 / 1536) + 0.5))",
        "n_pos": "rows_of('vision_model.positional_embedding')",
        "stride": "whole['understand_projector_stride']",
    },
    renames=((r"^model\.(vision_model|vit_large_projector)\.", r"\1."),),
    keep=(r"^(model\.)?vit_large_projector\.",),
    n_layer="first(num_hidden_layers, whole['vision_config']['layers'])",
    n_head="first(num_attention_heads, heads)",
    layer_prefix="vision_model.transformer.resblocks",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_model.positional_embedding! > v.position_embd | n_pos w | f32",
        "vision_model.conv1 > v.patch_embd | w c p p",
        "vision_model.ln_pre > v.pre_ln | w | bias",
        "vision_model.vit_downsampler1 > mm.0 | 2*w w 3 3 | bias?",
        "vision_model.vit_downsampler2 > mm.1 | 4*w 2*w 3 3 | bias?",
        "vit_large_projector > mm.model.fc | t 4*w",
    ),
    layer=(
        Rows(
            (
                "ln_1 > ln1 | w | bias",
                "ln_2 > ln2 | w | bias",
                "attn.in_proj_weight! > attn_qkv | 3*w w",
                "attn.in_proj_bias! > attn_qkv=.bias | 3*w",
                "attn.out_proj > attn_out | w w | bias",
                "ls_1.gamma! > ls1 | w",
                "ls_2.gamma! > ls2 | w",
                "mlp.c_fc > ffn_up | i w | bias",
                "mlp.c_proj > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *head(),
        f"f32s ~vision.image_mean = first(preprocessor['image_mean'], {_MEAN})",
        f"f32s ~vision.image_std = first(preprocessor['image_std'], {_STD})",
        "str ~projector_type = 'step3vl'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-5)",
        "u32 ~vision.projector.scale_factor = stride * stride",
        "u32 ~vision.preproc_image_size = 3024",
    ),
)
