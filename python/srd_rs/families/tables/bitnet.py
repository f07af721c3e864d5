"""The table of BitNet, whose matrices have three values."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, GATED_FFN, NORMS, flagged

BITNET: Final = FamilyTable(
    arch="bitnet",
    classes=("BitnetForCausalLM", "BitNetForCausalLM"),
    defaults={
        "vocab_size": 32002,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    },
    class_defaults={
        "BitNetForCausalLM": {
            "vocab_size": 128256,
            "hidden_size": 2560,
            "intermediate_size": 6912,
            "num_hidden_layers": 30,
            "num_attention_heads": 20,
            "num_key_value_heads": 5,
            "hidden_act": "relu2",
            "rope_theta": 500000.0,
        }
    },
    output=None,
    skip=((r"^lm_head\.", names.COPY),),
    layer=(
        Rows(
            (
                *NORMS,
                *flagged(ATTENTION, "ternary"),
                "self_attn.inner_attn_ln > attn_sub_norm | q",
                *flagged(GATED_FFN, "ternary"),
                "mlp.ffn_layernorm > ffn_sub_norm | f",
            )
        ),
    ),
    # config.json of the first models says that they are Llama models, whose configuration states the head size.
    head_dim="h if class_name == 'BitnetForCausalLM' else config['head_dim']",
    metadata=("str ~rope.scaling.type = 'linear'", "f32 ~rope.scaling.factor = 1.0"),
    refusals=(
        Refusal(
            "first(hidden_act, 'silu') != 'silu'", "the activation is not silu, which llama.cpp's BitNet has"
        ),
        Refusal("tie_word_embeddings == False", "llama.cpp's BitNet has no output matrix of its own"),
    ),
    square_output=True,
)
