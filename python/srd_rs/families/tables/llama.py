"""The table of Llama and Mistral, and other names of these models."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.schema import FamilyTable
from srd_rs.families.tables.common import (
    LLAMA_METADATA,
    WINDOW,
)
from srd_rs.families.tables.eagle import DRAFT
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import LLAMA

LLAMA_TABLE: Final = FamilyTable(
    arch="llama",
    classes=("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel", "MistralForCausalLM"),
    variants=(("draft_vocab_size != None and num_hidden_layers == 1", DRAFT),),
    vocabulary=LLAMA,
    defaults=LLAMA_DEFAULTS,
    class_defaults={
        "MistralForCausalLM": {
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
        }
    },
    layer=LLAMA_LAYER,
    metadata=LLAMA_METADATA,
    head_dim="head_dim",
    llama3_rope=True,
    longrope=True,
    refusals=(replace(WINDOW, when=f"class_name == 'MistralForCausalLM' and {WINDOW.when}"),),
)

# e5-mistral and others: models that embed texts, saved without their output matrix
MISTRAL_MODEL: Final = replace(
    LLAMA_TABLE,
    classes=("MistralModel",),
    variants=(),
    class_defaults={"MistralModel": LLAMA_TABLE.class_defaults["MistralForCausalLM"]},
    refusals=(WINDOW,),
    pooling=True,
)

SPELLINGS: Final = {
    "IQuestCoderForCausalLM": "LlamaForCausalLM",
    "VLlama3ForCausalLM": "LlamaForCausalLM",
}
COMPOSITES: Final = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
MODEL_TYPES: Final = {"llama": "LlamaForCausalLM"}
