"""The table of StableLM 2 and 3B, which have layer norms with biases and rotate a part of each head."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import ATTENTION, GATED_FFN, OTHER_BASE, flagged

STABLELM: Final = FamilyTable(
    arch="stablelm",
    classes=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    defaults={
        "use_qkv_bias": False,
        "vocab_size": 50304,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25,
        "use_parallel_residual": False,
        "tie_word_embeddings": False,
    },
    spellings={"layer_norm_eps": ("norm_eps",)},
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | bias"),
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d | bias",
                *flagged(ATTENTION[:3], "bias?"),
                ATTENTION[3],
                *GATED_FFN,
            )
        ),
        # the norm of each head is a tensor of its own
        Rows(
            (
                "self_attn.q_layernorm.norms.{i} > attn_q_norm | h | stack(n_head)",
                "self_attn.k_layernorm.norms.{i} > attn_k_norm | h | stack(n_head_kv)",
            ),
            when="qk_layernorm",
        ),
        Rows(("post_attention_layernorm > ffn_norm | d | bias",), when="not use_parallel_residual"),
    ),
    head_dim="None",
    metadata=(
        "u32 ~rope.dimension_count = int(rope_fraction * head_dim)",
        "bool ~use_parallel_residual = use_parallel_residual == 1",
        OTHER_BASE,
    ),
    without=("~rope.freq_base", "~attention.layer_norm_rms_epsilon"),
    output_needed=True,
    square_output=True,
)

SPELLINGS: Final = {"LlavaStableLMEpochForCausalLM": "StableLMEpochForCausalLM"}
