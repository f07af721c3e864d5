"""The tables of the models of OpenAI."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows
from srd_rs.families.tables.common import ATTENTION, NO_WINDOW, OTHER_PATTERN, flagged, sliding

GPT_OSS: Final = FamilyTable(
    arch="gpt-oss",
    classes=("GptOssForCausalLM",),
    defaults={
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts": 128,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    },
    sizes=sliding(2, "None"),
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                *flagged(ATTENTION, "bias"),
                "self_attn.sinks! > attn_sinks | n_head",
                "post_attention_layernorm > post_attention_norm | d",
                "mlp.router > ffn_gate_inp | e d | bias",
                "mlp.experts.gate_up_proj! > ffn_gate_exps | e d 2*f | axes(0, 2, 1) every(1, 2)",
                "mlp.experts.gate_up_proj! > ffn_up_exps | e d 2*f | axes(0, 2, 1) every(1, 2, 1)",
                "mlp.experts.down_proj! > ffn_down_exps | e f d | axes(0, 2, 1)",
                "mlp.experts.gate_up_proj_bias! > ffn_gate_exps=.bias | e 2*f | every(1, 2)",
                "mlp.experts.gate_up_proj_bias! > ffn_up_exps=.bias | e 2*f | every(1, 2, 1)",
                "mlp.experts.down_proj_bias! > ffn_down_exps=.bias | e d",
            )
        ),
    ),
    n_expert="num_experts",
    metadata=(
        "u32 ~attention.sliding_window = sliding_window",
        OTHER_PATTERN,
        "u32 ~expert_feed_forward_length = n_ff",
    ),
    refusals=(NO_WINDOW,),
    rope_theta=150_000.0,
    output_needed=True,
)
