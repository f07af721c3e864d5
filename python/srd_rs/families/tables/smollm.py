"""The tables of the SmolLM models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import GATED_FFN, LLAMA_BIASED_QKV, LLAMA_METADATA, NORMS, TYPED_WINDOW
from srd_rs.families.tables.skeletons import NO_BIASES
from srd_rs.vocab.rules import LLAMA

SMOLLM3: Final = FamilyTable(
    arch="smollm3",
    classes=("SmolLM3ForCausalLM",),
    vocabulary=LLAMA,
    defaults={
        **NO_BIASES,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
    },
    layer=(Rows((*NORMS[:1], *LLAMA_BIASED_QKV, *NORMS[1:], *GATED_FFN)),),
    metadata=LLAMA_METADATA,
    refusals=(
        Refusal(
            "no_rope_layers != None and len(no_rope_layers) != n_layer",
            "no_rope_layers has not one entry for each layer",
            "Correct config.json",
        ),
        Refusal(
            "no_rope_layers[layer] != ((layer + 1) % 4 != 0) if no_rope_layers != None"
            " else no_rope_layer_interval != None and no_rope_layer_interval != 4",
            "layers without RoPE are not every fourth",
            per_layer=True,
        ),
        TYPED_WINDOW,
    ),
    rope_theta=2_000_000.0,
)

COMPOSITES: Final = ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration")
