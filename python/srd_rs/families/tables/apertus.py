"""The table of Apertus, whose activation has settings that the checkpoint keeps as tensors of one number."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, LLAMA_METADATA, flagged
from srd_rs.families.tables.skeletons import NO_BIASES
from srd_rs.vocab.rules import LLAMA

APERTUS: Final = FamilyTable(
    arch="apertus",
    classes=("ApertusForCausalLM",),
    vocabulary=LLAMA,
    defaults={
        **NO_BIASES,
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 65536,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 12_000_000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    },
    renames=(
        (r"\.self_attn\.q_norm\.", ".attention.query_layernorm."),
        (r"\.self_attn\.k_norm\.", ".attention.key_layernorm."),
    ),
    layer=(
        Rows(
            (
                "attention_layernorm > attn_norm | d",
                *flagged(ATTENTION, "bias?"),
                "attention.query_layernorm > attn_q_norm | h",
                "attention.key_layernorm > attn_k_norm | h",
                "feedforward_layernorm > ffn_norm | d",
                "mlp.up_proj > ffn_up | f d",
                "mlp.down_proj > ffn_down | d f",
            )
        ),
    ),
    skip=((r"\.act_fn\.\w+$", names.SETTING),),
    metadata=(
        *LLAMA_METADATA,
        "f32s xielu.alpha_n = layer_value('mlp.act_fn.alpha_n')",
        "f32s xielu.alpha_p = layer_value('mlp.act_fn.alpha_p')",
        "f32s xielu.beta = layer_value('mlp.act_fn.beta')",
        "f32s xielu.eps = layer_value('mlp.act_fn.eps')",
    ),
    rope_theta=12_000_000.0,
    llama3_rope=True,
    refusals=(
        Refusal("not first(hidden_act, 'xielu') == 'xielu'", "the activation is not xIELU"),
        Refusal("first(qk_norm, 1) == 0 or post_norm", "the norms are not those of llama.cpp's Apertus"),
    ),
    output_needed=True,
)
