"""The table of Pangu Embedded."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import ATTENTION, GATED_FFN, LLAMA_METADATA, NORMS, flagged
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS
from srd_rs.vocab.rules import STATED_SPACE

PANGU_EMBEDDED: Final = FamilyTable(
    arch="pangu-embedded",
    classes=("PanguEmbeddedForCausalLM",),
    vocabulary=STATED_SPACE,
    defaults=LLAMA_DEFAULTS,
    layer=(Rows((*NORMS, *flagged(ATTENTION, "bias"), *GATED_FFN)),),
    skip=((r"^lm_head\.", names.COPY, "tie_word_embeddings"),),
    head_dim="h",
    metadata=LLAMA_METADATA,
)
