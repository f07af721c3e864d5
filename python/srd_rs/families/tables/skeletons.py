"""What the tables of models with the Llama skeleton share."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import Rows
from srd_rs.families.tables.common import GATED_FFN, LLAMA_ATTENTION, NORMS, flagged

NO_BIASES: Final = {"attention_bias": False, "mlp_bias": False}
"""transformers reads no biases of attention and of the feed-forward part where config.json does not say that there are
any."""
LLAMA_DEFAULTS: Final = {
    **NO_BIASES,
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
LLAMA_LAYER: Final = (Rows((*NORMS, *LLAMA_ATTENTION, *flagged(GATED_FFN, "bias?"))),)
STATED_HEADS_KV: Final = "u32 ~attention.head_count_kv = num_key_value_heads"
"""Configurations that leave the key out are those of models without grouped heads, and llama.cpp's converter leaves it
out too."""
