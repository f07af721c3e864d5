"""The tables of the MiniCPM models."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import (
    GATED_FFN,
    LATENT_NORMS,
    LLAMA_ATTENTION,
    NORMS,
    OTHER_BASE,
    long_factors,
)
from srd_rs.families.tables.llama import LLAMA_TABLE
from srd_rs.families.tables.qwen import QWEN2, QWEN3, QWEN35

_LONG: Final = long_factors("1")

MINICPM: Final = FamilyTable(
    arch="minicpm",
    classes=("MiniCPMForCausalLM",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "scale_emb": 1,
        "dim_model_base": 1,
        "scale_depth": 1,
    },
    layer=(Rows((*NORMS, *LLAMA_ATTENTION, *GATED_FFN)),),
    generated=_LONG,
    metadata=(
        "f32 ~embedding_scale = scale_emb",
        "f32 ~residual_scale = scale_depth / sqrt(num_hidden_layers)",
        "f32 ~logit_scale = hidden_size / dim_model_base",
    ),
    rope_theta=None,
)

MINICPM3: Final = FamilyTable(
    arch="minicpm3",
    classes=("MiniCPM3ForCausalLM",),
    defaults={
        **MINICPM.defaults,
        "vocab_size": 73448,
        "hidden_size": 2560,
        "intermediate_size": 6400,
        "num_hidden_layers": 62,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "q_lora_rank": 768,
        "kv_lora_rank": 256,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
    },
    sizes={
        "qk": "qk_nope_head_dim + qk_rope_head_dim",
        "kr": "kv_lora_rank + qk_rope_head_dim",
        "kvb": "n_head * (qk_nope_head_dim + v_head_dim)",
    },
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.q_a_proj > attn_q_a | q_lora_rank d",
                "self_attn.q_a_layernorm > attn_q_a_norm | q_lora_rank",
                "self_attn.q_b_proj > attn_q_b | n_head*qk q_lora_rank",
                "self_attn.kv_a_proj_with_mqa > attn_kv_a_mqa | kr d",
                "self_attn.kv_a_layernorm > attn_kv_a_norm | kv_lora_rank",
                "self_attn.kv_b_proj > attn_kv_b | kvb kv_lora_rank",
                "self_attn.o_proj > attn_output | d n_head*v_head_dim",
                *GATED_FFN,
            )
        ),
    ),
    generated=_LONG,
    head_dim="None",
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.q_lora_rank = q_lora_rank",
        "u32 ~attention.kv_lora_rank = kv_lora_rank",
        "u32 ~attention.key_length = qk",
        "u32 ~rope.dimension_count = qk_rope_head_dim",
        OTHER_BASE,
    ),
    without=("~rope.scaling.type", "~rope.freq_base", "~attention.value_length"),
    refusals=(LATENT_NORMS,),
)

# The text model is Qwen 3.5 without blocks for further tokens.
MINICPM_V_46: Final = replace(
    QWEN35,
    classes=("MiniCPMV4_6ForConditionalGeneration",),
    skip=(*QWEN35.skip, (r"^model\.merger\.", names.OTHER_MODALITY), (r"^mtp", names.MTP)),
    mtp=None,
)

_SCALED: Final = Refusal("scale_emb != None", "version 2 and older are not supported")


def _inside(table: FamilyTable) -> FamilyTable:
    """Return the table of the text model of a MiniCPM-V, whose configuration is the top level of config.json."""
    return replace(table, classes=(), variants=(), renames=((r"^llm\.", ""),))


MINICPM_V: Final = replace(
    _inside(LLAMA_TABLE),
    classes=("MiniCPMV", "MiniCPMO"),
    # 2.6 is a Qwen 2, 4.5 a Qwen 3, 2.5 and 4.0 are Llamas, whose table would leave the biases out.
    variants=(
        ("has('model.layers.0.self_attn.q_norm.weight')", _inside(QWEN3)),
        ("stored('llm.model.layers.0.self_attn.q_proj.bias')", _inside(QWEN2)),
    ),
    refusals=(*LLAMA_TABLE.refusals, _SCALED),
)
SOUND: Final = ("apm.", "audio_projection_layer.", "audio_avg_pooler.", "tts.")
"""How names of tensors of sound begin in MiniCPM-o."""
OTHERS: Final = {"MiniCPMO": SOUND, "MiniCPMV": SOUND}
