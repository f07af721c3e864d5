"""The tables of the models of Deepgrove (Maple)."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, GATED_EXPERTS, HEAD_NORMS, NORMS

MAPLE: Final = FamilyTable(
    arch="maple",
    classes=("MapleForCausalLM",),
    defaults={"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    n_ff="first(intermediate_size, moe_intermediate_size)",
    sizes={"x": "moe_intermediate_size"},
    layer=(Rows((*NORMS, *ATTENTION, *HEAD_NORMS, "mlp.gate > ffn_gate_inp | e d")),),
    experts=StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~rope.dimension_count = int(h * rope_fraction)",
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = [part == 'sliding_attention' for part in layer_types]",
        "u32 ~expert_feed_forward_length = x",
        "f32s ~swiglu_clamp_exp = fill(7.0, n_layer)",
    ),
    refusals=(
        Refusal("first(hidden_act, 'silu') != 'silu'", "the activation is not SiLU (hidden_act)"),
        Refusal("first(num_shared_experts, 0) != 0", "there are shared experts"),
        Refusal("norm_topk_prob == 0", "the weights of experts are not normalized (norm_topk_prob)"),
        Refusal("not nope_on_global_attention", "full layers have RoPE (nope_on_global_attention)"),
    ),
    output_needed=True,
)
