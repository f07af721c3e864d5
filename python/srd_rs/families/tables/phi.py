"""The tables of the Phi models with experts, and other names of the Phi models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, NORMS, OTHER_BASE, WINDOW, flagged, long_factors
from srd_rs.vocab.rules import PHI2, PHI3

_LONG: Final = "rope['long_factor']"
_STRETCH: Final = "first(rope['factor'], max_position_embeddings / original_max_position_embeddings)"
# The projections stay fused, and the factors of LongRoPE become two tensors.
PHI_3: Final = FamilyTable(
    arch="phi3",
    order=(
        "~context_length",
        "~rope.scaling.original_context_length",
        "~embedding_length",
        "~feed_forward_length",
        "~block_count",
        "~attention.head_count",
        "~attention.head_count_kv",
        "~attention.layer_norm_rms_epsilon",
        "~rope.dimension_count",
        "~rope.freq_base",
    ),
    classes=("Phi3ForCausalLM",),
    vocabulary=PHI3,
    defaults={
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    sizes={
        "rotated": "int(rope_fraction * n_embd) // n_head",
        "stretch": _STRETCH,
        "long": _LONG,
    },
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.qkv_proj > attn_qkv | q+2*k d",
                "self_attn.o_proj > attn_output | d q",
                "mlp.gate_up_proj > ffn_up | 2*f d",
                "mlp.down_proj > ffn_down | d f",
            )
        ),
    ),
    rope_theta=10_000.0,
    head_dim="None",
    metadata=(
        # LongRoPE, equation for the attention temperature
        "f32 ~rope.scaling.attn_factor = None if not long else first(rope['attention_factor'],"
        " 1.0 if stretch <= 1 else sqrt(1 + log(stretch) / log(original_max_position_embeddings)))",
        "u32 ~rope.scaling.original_context_length = original_max_position_embeddings",
        "u32 ~rope.dimension_count = rotated",
        # 0 tells Phi-4, which has no window, from the others
        "u32 ~attention.sliding_window = first(sliding_window, 0)",
    ),
    without=(
        "~rope.scaling.type",
        "~rope.scaling.factor",
        "~rope.scaling.yarn_ext_factor",
        "~rope.scaling.yarn_attn_factor",
        "~rope.scaling.yarn_beta_fast",
        "~rope.scaling.yarn_beta_slow",
    ),
    generated=long_factors("long"),
    refusals=(
        Refusal(
            "not rope['rope_type'] in ['default', 'su', 'longrope', 'yarn']"
            f" or rope['rope_type'] != 'default' and not {_LONG}",
            "this RoPE scaling, without long_factor, is not a Phi-3 model's",
        ),
        Refusal(
            f"({_LONG} != None) and (len(first({_LONG}, [])) != 0)"
            f" and (len({_LONG}) != rotated // 2 or len(first(rope['short_factor'], [])) != rotated // 2)",
            "long_factor and short_factor do not have one number for each rotated pair",
            "Correct config.json",
        ),
        WINDOW,
    ),
    square_output=True,
)

PHI_2: Final = FamilyTable(
    arch="phi2",
    classes=("PhiForCausalLM",),
    vocabulary=PHI2,
    defaults={
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    },
    top=("model.embed_tokens > token_embd | v d", "model.final_layernorm > output_norm | d | bias"),
    output="lm_head > output | v d | bias",
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d | bias",
                *flagged(ATTENTION[:3], "bias"),
                "self_attn.dense > attn_output | d q | bias",
                "mlp.fc1 > ffn_up | f d | bias",
                "mlp.fc2 > ffn_down | d f | bias",
            )
        ),
    ),
    head_dim="None",
    metadata=(
        "u32 ~rope.dimension_count = int(rope_fraction * n_embd) // n_head",
        "bool tokenizer.ggml.add_bos_token = 0 == 1",
        OTHER_BASE,
    ),
    without=("~rope.freq_base",),
    output_needed=True,
    square_output=True,
)

PHI_MOE: Final = FamilyTable(
    arch="phimoe",
    classes=("PhiMoEForCausalLM",),
    vocabulary=PHI3,
    defaults={
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 6400,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 2,
        "num_experts": 16,
        "tie_word_embeddings": False,
    },
    sizes={
        "trained": "first(rope['original_max_position_embeddings'], original_max_position_embeddings)",
        "growth": "max_position_embeddings / trained",
        "long": "rope['long_factor'] != None",
    },
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | bias"),
    output="lm_head > output | v d | bias",
    layer=(
        Rows(
            (
                *flagged(NORMS, "bias"),
                *flagged(ATTENTION, "bias"),
                "block_sparse_moe.gate > ffn_gate_inp | e d",
            )
        ),
    ),
    renames=((r"\.mlp\.(experts|router)\.", r".block_sparse_moe.\1."), (r"\.router\.", ".gate.")),
    experts=StackedExperts(
        "block_sparse_moe.experts",
        "num_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps f d", "w2 ffn_down_exps d f", "w3 ffn_up_exps f d"),
    ),
    generated=long_factors("long"),
    rope_theta=1_000_000.0,
    head_dim="None",
    metadata=(
        "u32 ~rope.scaling.original_context_length = trained",
        "f32 ~rope.scaling.attn_factor = None if not long else first(rope['long_mscale'],"
        " sqrt(1 + log(growth) / log(trained)) if growth > 1 else 1.0)",
        "u32 ~rope.dimension_count = int(rope_fraction * hidden_size) // n_head",
        "u32 ~attention.sliding_window = first(sliding_window, 0)",
    ),
    without=("~rope.scaling.type",),
    refusals=(
        Refusal("not rope['rope_type'] in ['default', 'su', 'longrope']", "RoPE scaling is not longrope"),
        Refusal("rope['rope_type'] != 'default' and not long", "RoPE scaling has no long_factor"),
        Refusal(
            "1",
            "llama.cpp computes Phi-3.5-MoE with RMS norms and with weights of experts that add up to 1, where the"
            " model has layer norms and the weights of SparseMixer, so its answers are not those of the model",
            warns=True,
        ),
        Refusal(
            "long and rope['short_mscale'] != rope['long_mscale']",
            "texts of another length than those that the model was first trained with have another temperature"
            " (short_mscale, long_mscale), and llama.cpp has one, so its answers to short texts are not those of the"
            " model",
            warns=True,
        ),
        WINDOW,
    ),
    output_needed=True,
)

SPELLINGS: Final = {"Phi4ForCausalLMV": "Phi3ForCausalLM", "PhimoeForCausalLM": "PhiMoEForCausalLM"}
MODEL_TYPES: Final = {"phi3": "Phi3ForCausalLM"}
