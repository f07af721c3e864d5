"""The text models of Janus and Sarashina 2 Vision, which are Llama models."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable
from srd_rs.families.tables.common import LLAMA_METADATA
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import LLAMA

LLAMA_TEXT: Final = FamilyTable(
    arch="llama",
    classes=("JanusForConditionalGeneration", "Sarashina2VisionForCausalLM"),
    vocabulary=LLAMA,
    defaults=LLAMA_DEFAULTS,
    renames=((r"^llm\.", ""),),
    skip=(
        (r"^model\.(aligner|vqmodel|generation_\w+)\.", names.OTHER_MODALITY),
        (r"^norm\.", names.OTHER_MODALITY),
    ),
    layer=LLAMA_LAYER,
    head_dim="h",
    metadata=LLAMA_METADATA,
    llama3_rope=True,
)

WHOLE: Final = ("Sarashina2VisionForCausalLM",)
