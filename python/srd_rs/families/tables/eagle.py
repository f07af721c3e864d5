"""The table of classes that EAGLE-3 draft models name. Without a draft vocabulary they are Llama models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal
from srd_rs.families.tables.common import LLAMA_METADATA
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import LLAMA

EAGLE3: Final = FamilyTable(
    arch="llama",
    classes=("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"),
    vocabulary=LLAMA,
    defaults=LLAMA_DEFAULTS,
    layer=LLAMA_LAYER,
    head_dim="h",
    metadata=LLAMA_METADATA,
    llama3_rope=True,
    refusals=(
        Refusal(
            "draft_vocab_size != None",
            "the model drafts tokens for another model (draft_vocab_size)",
            "Convert the other model; EAGLE-3 drafts are not written yet",
        ),
    ),
)
