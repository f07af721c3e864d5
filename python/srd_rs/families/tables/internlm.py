"""The table of InternLM 3, and other names of the InternLM and InternVL models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import LLAMA_METADATA
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import INTERNLM

_GROUP: Final = "reshape(n_head_kv, r + 2, h, d)"
INTERNLM2: Final = FamilyTable(
    arch="internlm2",
    classes=("InternLM2ForCausalLM",),
    vocabulary=INTERNLM,
    defaults={**LLAMA_DEFAULTS, "vocab_size": 103168},
    sizes={"r": "n_head // n_head_kv"},
    rope_theta=None,
    top=("model.tok_embeddings > token_embd | v d", "model.norm > output_norm | d"),
    output="output > output | v d",
    embedding="model.tok_embeddings.weight",
    layer=(
        Rows(
            (
                "attention_norm > attn_norm | d",
                # A group is the queries of one key head, the key head and its value head.
                f"attention.wqkv > attn_q | n_head_kv*(r+2)*h d | {_GROUP} slice(1, 0, r) reshape(q, d) permute_q",
                f"attention.wqkv > attn_k | n_head_kv*(r+2)*h d | {_GROUP} slice(1, r, 1) reshape(k, d) permute_k",
                f"attention.wqkv > attn_v | n_head_kv*(r+2)*h d | {_GROUP} slice(1, r + 1, 1) reshape(k, d)",
                "attention.wo > attn_output | d q",
                "ffn_norm > ffn_norm | d",
                "feed_forward.w1 > ffn_gate | f d",
                "feed_forward.w2 > ffn_down | d f",
                "feed_forward.w3 > ffn_up | f d",
            )
        ),
    ),
    output_needed=True,
    square_output=True,
)

INTERNLM3: Final = FamilyTable(
    arch="llama",
    classes=("InternLM3ForCausalLM",),
    vocabulary=INTERNLM,
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 128512,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
    },
    layer=LLAMA_LAYER,
    metadata=LLAMA_METADATA,
    llama3_rope=True,
)

COMPOSITES: Final = ("InternVLForConditionalGeneration", "InternVLChatModel")
MODEL_TYPES: Final = {"internlm2": "InternLM2ForCausalLM"}
