"""The tables of the Qwen models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, GATED_EXPERTS, GATED_FFN, HEAD_NORMS, NORMS, flagged

QWEN2: Final = FamilyTable(
    arch="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    layer=(Rows((*NORMS, *flagged(ATTENTION[:3], "bias"), *flagged(ATTENTION[3:], "bias?"), *GATED_FFN)),),
    pooling=True,
)

QWEN3: Final = FamilyTable(
    arch="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    defaults={**QWEN2.defaults, "head_dim": 128},
    layer=(Rows((*NORMS, *flagged(ATTENTION, "bias?"), *HEAD_NORMS, *GATED_FFN)),),
    pooling=True,
)

QWEN3_MOE: Final = FamilyTable(
    arch="qwen3moe",
    classes=("Qwen3MoeForCausalLM",),
    defaults={
        **QWEN2.defaults,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "decoder_sparse_step": 1,
    },
    sizes={"x": "moe_intermediate_size"},
    layer=(Rows((*NORMS, *flagged(ATTENTION, "bias?"), *HEAD_NORMS, "mlp.gate > ffn_gate_inp | e d")),),
    experts=StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS),
    metadata=("u32 ~expert_feed_forward_length = moe_intermediate_size",),
    refusals=(
        Refusal(
            "mlp_only_layers or decoder_sparse_step != 1",
            "some layers are dense (mlp_only_layers, decoder_sparse_step)",
        ),
    ),
)

SPELLINGS: Final = {"KORMoForCausalLM": "Qwen2ForCausalLM", "DotsOCRForCausalLM": "Qwen2ForCausalLM"}
COMPOSITES: Final = ("Qwen2AudioForConditionalGeneration", "AudioFlamingo3ForConditionalGeneration")
MODEL_TYPES: Final = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
