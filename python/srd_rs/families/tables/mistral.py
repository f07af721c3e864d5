"""The tables of Mixtral and Mistral 3, and other names of these models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import LLAMA_ATTENTION, LLAMA_METADATA, NORMS
from srd_rs.families.tables.llama import LLAMA_TABLE
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import LLAMA

MIXTRAL: Final = FamilyTable(
    arch="llama",
    classes=("MixtralForCausalLM",),
    vocabulary=LLAMA,
    defaults={
        **LLAMA_DEFAULTS,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 2,
        "num_experts": 8,
    },
    layer=(Rows((*NORMS, *LLAMA_ATTENTION, "block_sparse_moe.gate > ffn_gate_inp | e d")),),
    experts=StackedExperts(
        "block_sparse_moe.experts",
        "num_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps f d", "w2 ffn_down_exps d f", "w3 ffn_up_exps f d"),
    ),
    metadata=LLAMA_METADATA,
    # as transformers 5 saves them
    renames=((r"\.mlp\.(gate|experts)\.", r".block_sparse_moe.\1."),),
    rope_theta=1_000_000.0,
    llama3_rope=True,
)

_YARN: Final = "model_type == 'ministral3'"
MISTRAL3: Final = FamilyTable(
    arch="mistral3",
    classes=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    vocabulary=LLAMA,
    defaults={**LLAMA_DEFAULTS, **LLAMA_TABLE.class_defaults["MistralForCausalLM"]},
    class_defaults={
        "Ministral3ForCausalLM": {
            "vocab_size": 131072,
            "num_hidden_layers": 34,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
        }
    },
    layer=LLAMA_LAYER,
    metadata=(
        *LLAMA_METADATA,
        f"f32 ~rope.scaling.yarn_log_multiplier = rope['mscale_all_dim'] if {_YARN} else None",
        f"f32 ~attention.temperature_scale = rope['llama_4_scaling_beta'] if {_YARN} else None",
    ),
    head_dim="head_dim",
    llama3_rope=True,
    refusals=(
        Refusal("model_type == 'mistral4'", "Mistral 4 is not supported", "Convert it with llama.cpp"),
        Refusal(
            f"{_YARN} and (rope['mscale_all_dim'] == None or rope['llama_4_scaling_beta'] == None)",
            "the RoPE parameters of Ministral 3 lack mscale_all_dim or llama_4_scaling_beta",
            "Add them to config.json",
        ),
    ),
)

COMPOSITES: Final = ("VoxtralForConditionalGeneration",)
MODEL_TYPES: Final = {"mistral": "MistralForCausalLM"}
