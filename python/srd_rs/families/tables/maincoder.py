"""The table of Maincoder."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import BIASED_QKV, GATED_FFN, HEAD_NORMS, NORMS
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS

MAINCODER: Final = FamilyTable(
    arch="maincoder",
    classes=("MaincoderForCausalLM",),
    defaults={**LLAMA_DEFAULTS, "tie_word_embeddings": True},
    layer=(Rows((*NORMS, *BIASED_QKV, *HEAD_NORMS, *GATED_FFN)),),
    metadata=("u32 ~rope.dimension_count = config['head_dim']",),
)
