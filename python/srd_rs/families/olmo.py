"""OLMo 1 has norms without weights. OLMoE is a mixture of experts."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from srd_rs.families.base import GATED_FFN, LLAMA_LAYER, Experts, Family, Row
from srd_rs.families.llama import ATTENTION
from srd_rs.metadata import Metadata

_EPSILON = 1e-5  # fixed in both models' code


class Olmo(Family):
    arch = "olmo"
    classes = ("OlmoForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }
    top_rows = (Row("model.embed_tokens", "token_embd", "v d"),)
    layer_rows = tuple(row for row in ATTENTION if not row.source.endswith("norm")) + GATED_FFN

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        metadata.float32(f"{self.arch}.attention.layer_norm_epsilon", _EPSILON)
        if (clip := self.config.optional_number("clip_qkv")) is not None:
            metadata.float32(f"{self.arch}.attention.clamp_kqv", clip)


class Olmoe(Family):
    arch = "olmoe"
    classes = ("OlmoeForCausalLM",)
    defaults: ClassVar = {
        **Olmo.defaults,
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "max_position_embeddings": 4096,
        "num_experts_per_tok": 8,
        "num_experts": 64,
    }
    layer_rows = (
        *LLAMA_LAYER,
        Row("self_attn.q_norm", "attn_q_norm", "q"),
        Row("self_attn.k_norm", "attn_k_norm", "k"),
        Row("mlp.gate", "ffn_gate_inp", "e d"),
    )

    @cached_property
    def n_expert(self) -> int:
        return self.config.count("num_experts")

    def sizes(self, layer: int) -> dict[str, int]:
        return {**super().sizes(layer), "x": self.n_ff}

    def experts(self, layer: int) -> Experts:
        parts = (
            ("down_proj", "ffn_down_exps", "d x"),
            ("gate_proj", "ffn_gate_exps", "x d"),
            ("up_proj", "ffn_up_exps", "x d"),
        )
        return Experts("mlp.experts", parts)

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        metadata.float32(f"{self.arch}.attention.layer_norm_rms_epsilon", _EPSILON)
