"""The table of Nanbeige, which runs its layers several times."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import GATED_FFN, LLAMA_BIASED_QKV, LLAMA_METADATA, NORMS
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS
from srd_rs.vocab.rules import LLAMA

NANBEIGE: Final = FamilyTable(
    arch="nanbeige",
    classes=("NanbeigeForCausalLM",),
    vocabulary=LLAMA,
    defaults=LLAMA_DEFAULTS,
    layer=(Rows((*NORMS, *LLAMA_BIASED_QKV, *GATED_FFN)),),
    n_run="n_layer * max(1, first(num_loops, 1))",
    metadata=(
        *LLAMA_METADATA,
        "u32 ~num_loops = max(1, first(num_loops, 1))",
        "bool ~skip_loop_final_norm = first(skip_loop_final_norm, 0) == True",
    ),
    llama3_rope=True,
)
