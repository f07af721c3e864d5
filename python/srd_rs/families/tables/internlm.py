"""The table of InternLM 3, and other names of the InternLM and InternVL models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable
from srd_rs.families.tables.common import LLAMA_METADATA
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import INTERNLM

INTERNLM3: Final = FamilyTable(
    arch="llama",
    classes=("InternLM3ForCausalLM",),
    vocabulary=INTERNLM,
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 128512,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
    layer=LLAMA_LAYER,
    metadata=LLAMA_METADATA,
    llama3_rope=True,
)

COMPOSITES: Final = ("InternVLForConditionalGeneration", "InternVLChatModel")
MODEL_TYPES: Final = {"internlm2": "InternLM2ForCausalLM"}
