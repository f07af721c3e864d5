"""The table of Orion."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, GATED_FFN, NORMS, flagged
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS

ORION: Final = FamilyTable(
    arch="orion",
    classes=("OrionForCausalLM",),
    defaults=LLAMA_DEFAULTS,
    spellings={"max_position_embeddings": ("max_sequence_length", "model_max_length")},
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | bias"),
    layer=(Rows((*flagged(NORMS, "bias"), *ATTENTION, *GATED_FFN)),),
    metadata=(
        "str ~tensor_data_layout = 'Meta AI original pth'",
        # config.json calls it the epsilon of an RMS norm, but the norms are layer norms
        "f32 ~attention.layer_norm_epsilon = rms_norm_eps",
    ),
    without=(
        "~attention.layer_norm_rms_epsilon",
        "~rope.freq_base",
        "~rope.scaling.type",
        "~rope.scaling.factor",
    ),
    refusals=(
        Refusal(
            "rope['rope_type'] != 'default' or rope['rope_theta'] != 10000",
            "RoPE is scaled or has another base",
        ),
    ),
    output_needed=True,
    square_output=True,
)
