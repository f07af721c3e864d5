"""The table of Falcon-H1. Each layer has attention and a Mamba 2 mixer side by side. The factors of maximal update
parametrization are multiplied into the weights, one after another as the reference does."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import TIED_HEAD
from srd_rs.families.tables.mamba import MAMBA_2, TIME_STEPS, inside

_PARTS: Final = (
    ("0", "i"),
    ("i", "i"),
    ("2 * i", "g * st"),
    ("2 * i + g * st", "g * st"),
    ("2 * i + 2 * g * st", "nh"),
)
_IN_PROJ: Final = " + ".join(
    f"rows({first}, {count}) affine(ssm_in_multiplier, 0) affine(ssm_multipliers[{index}], 0)"
    for index, (first, count) in enumerate(_PARTS)
)

FALCON_H1: Final = FamilyTable(
    arch="falcon-h1",
    classes=("FalconH1ForCausalLM",),
    defaults={
        "vocab_size": 128000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "mamba_d_ssm": 1024,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
        "mamba_d_head": 64,
        "mamba_n_groups": 1,
        "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 1.0,
        "key_multiplier": 1.0,
        "ssm_in_multiplier": 1.0,
        "ssm_out_multiplier": 1.0,
        "ssm_multipliers": [1.0, 1.0, 1.0, 1.0, 1.0],
        "mlp_multipliers": [1.0, 1.0],
        "embedding_multiplier": 1.0,
        "lm_head_multiplier": 1.0,
    },
    sizes={
        "i": "mamba_d_ssm",
        "st": "mamba_d_state",
        "ck": "mamba_d_conv",
        "nh": "i // mamba_d_head",
        "g": "mamba_n_groups",
    },
    top=(
        "model.embed_tokens > token_embd | v d | affine(embedding_multiplier, 0)",
        "model.final_layernorm > output_norm | d",
        # The factors of the embedding and of the output matrix differ, so a tied matrix is written twice.
        Rows(
            ("model.embed_tokens > output | v d | affine(lm_head_multiplier, 0)",),
            when="tie_word_embeddings == 1",
        ),
        Rows(("lm_head > output | v d | affine(lm_head_multiplier, 0)",), when="tie_word_embeddings != 1"),
    ),
    output=None,
    skip=TIED_HEAD,
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                "pre_ff_layernorm > ffn_norm= | d",
                "self_attn.q_proj > attn_q | q d | affine(attention_in_multiplier, 0)",
                "self_attn.k_proj > attn_k | k d | affine(key_multiplier, 0) affine(attention_in_multiplier, 0)",
                "self_attn.v_proj > attn_v | k d | affine(attention_in_multiplier, 0)",
                "self_attn.o_proj > attn_output | d q | affine(attention_out_multiplier, 0)",
                f"mamba.in_proj > ssm_in | 2*i+2*g*st+nh d | {_IN_PROJ}",
                *inside("mamba", MAMBA_2[1:5]),
                "mamba.norm > ssm_norm | i | reshape(g, i // g) ?",
                "mamba.out_proj > ssm_out | d i | affine(ssm_out_multiplier, 0)",
                "feed_forward.gate_proj > ffn_gate | f d | affine(mlp_multipliers[0], 0)",
                "feed_forward.up_proj > ffn_up | f d",
                "feed_forward.down_proj > ffn_down | d f | affine(mlp_multipliers[1], 0)",
            )
        ),
    ),
    metadata=(
        "u32 ~ssm.conv_kernel = ck",
        "u32 ~ssm.inner_size = i",
        "u32 ~ssm.state_size = st",
        "u32 ~ssm.time_step_rank = nh",
        "u32 ~ssm.group_count = g",
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.key_length = head_dim",
        "u32 ~attention.value_length = head_dim",
    ),
    refusals=(
        Refusal("i % mamba_d_head != 0", "mamba_d_ssm is no multiple of mamba_d_head"),
        Refusal("first(hidden_act, 'silu') != 'silu'", "the activation is not silu"),
        Refusal(
            "mamba_rms_norm == 1 and mamba_norm_before_gate == 1",
            "the norm of the mixers comes before their gate (mamba_norm_before_gate)",
        ),
        TIME_STEPS,
    ),
)
