"""The table of Talkie."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Rows

TALKIE: Final = FamilyTable(
    arch="talkie",
    classes=("TalkieForCausalLM",),
    layer_prefix="model.blocks",
    embedding="model.embed.weight",
    top=("model.embed > token_embd | v d", "lm_head! > output | v d"),
    output=None,
    layer=(
        Rows(
            (
                # Talkie rotates the other way round, which is the same as a negative second half of each head.
                "attn.attn_query > attn_q | q d | half_negative(h)",
                "attn.attn_key > attn_k | q d | half_negative(h)",
                "attn.attn_value > attn_v | q d",
                "attn.attn_resid > attn_output | d q",
                "attn_gain.a_g! > attn_output=.scale | 1",
                "attn.head_gain.head_g! > attn_q_norm | n_head | reshape(n_head, 1)",
                "embed_skip.a_g! > layer_output_scale | 1",
                "mlp.mlp_gate > ffn_gate | f d",
                "mlp.mlp_linear > ffn_up | f d",
                "mlp.mlp_resid > ffn_down | d f",
                "mlp_gain.a_g! > ffn_down=.scale | 1",
            )
        ),
    ),
    skip=((r"^lm_head_gain\.w_g$", names.SETTING),),
    metadata=(
        "f32 ~logit_scale = value('lm_head_gain.w_g')",
        "f32 ~attention.layer_norm_rms_epsilon = 1.1920928955078125e-07",
    ),
    without=("~attention.head_count_kv",),
    rope_theta=None,
)
