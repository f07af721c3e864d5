"""The tables of Chameleon."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import GATED_FFN, LLAMA_BIASED_QKV, NORMS
from srd_rs.families.tables.skeletons import NO_BIASES

CHAMELEON: Final = FamilyTable(
    arch="chameleon",
    classes=("ChameleonForConditionalGeneration", "ChameleonForCausalLM"),
    defaults={
        **NO_BIASES,
        "vocab_size": 65536,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                *NORMS,
                *LLAMA_BIASED_QKV,
                "self_attn.q_norm > attn_q_norm | n_head h"
                " | reshape(n_head, 2, h // 2) axes(0, 2, 1) reshape(n_head, h)",
                "self_attn.q_norm.bias! > attn_q_norm=.bias | n_head h"
                " | reshape(n_head, 2, h // 2) axes(0, 2, 1) reshape(n_head, h)",
                "self_attn.k_norm > attn_k_norm | n_head_kv h"
                " | reshape(n_head_kv, 2, h // 2) axes(0, 2, 1) reshape(n_head_kv, h)",
                "self_attn.k_norm.bias! > attn_k_norm=.bias | n_head_kv h"
                " | reshape(n_head_kv, 2, h // 2) axes(0, 2, 1) reshape(n_head_kv, h)",
                *GATED_FFN,
            )
        ),
    ),
    skip=((r"^model\.vqmodel\.", names.OTHER_MODALITY),),
    metadata=("bool ~swin_norm = first(swin_norm, 0) == True",),
    square_output=True,
)
