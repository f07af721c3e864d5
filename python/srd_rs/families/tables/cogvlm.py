"""The table of CogVLM, whose layers have a second set of weights for the tokens of images."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import GATED_FFN, LLAMA_METADATA, NORMS
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS
from srd_rs.vocab.rules import LLAMA

COGVLM: Final = FamilyTable(
    arch="cogvlm",
    classes=("CogVLMForCausalLM",),
    vocabulary=LLAMA,
    defaults={**LLAMA_DEFAULTS, "rms_norm_eps": 1e-5},
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.language_expert_query_key_value > attn_qkv | 3*d d",
                "self_attn.language_expert_dense > attn_output | d d",
                "self_attn.vision_expert_query_key_value > vis_attn_qkv | 3*d d",
                "self_attn.vision_expert_dense > vis_attn_output | d d",
                *(f"mlp.language_mlp.{row[4:]}" for row in GATED_FFN),
                *(f"mlp.vision_mlp.{row[4:].replace('> ffn_', '> vis_')}" for row in GATED_FFN),
            )
        ),
    ),
    keep=(r"\.(self_attn\.vision_expert_|mlp\.vision_mlp\.)",),
    metadata=LLAMA_METADATA,
    rope_theta=None,
    refusals=(
        Refusal(
            "first(num_multi_query_heads, n_head) != n_head", "keys and values have fewer heads than queries"
        ),
    ),
)
