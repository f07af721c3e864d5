"""Llama, Mistral and Mixtral are computed with the same graph by ggml.

The rows of queries and keys are permuted (see PermuteHeads). llama3 RoPE scaling becomes the tensor
`rope_freqs.weight`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from srd_rs.families import rope as ropes
from srd_rs.families.base import GATED_FFN, LLAMA_LAYER, Experts, Family, Row
from srd_rs.metadata import Metadata
from srd_rs.vocab.rules import LLAMA

PERMUTED: dict[str, str] = {"self_attn.q_proj": "permute_q", "self_attn.k_proj": "permute_k"}

ATTENTION: tuple[Row, ...] = tuple(
    replace(row, how=PERMUTED.get(row.source, row.how), bias="maybe" if "_proj" in row.source else "no")
    for row in LLAMA_LAYER
)


class Llama(Family):
    arch = "llama"
    vocabulary = LLAMA
    classes: ClassVar[tuple[str, ...]] = (
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "LlamaModel",
        "MistralForCausalLM",
    )
    defaults: ClassVar = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    class_defaults: ClassVar = {
        "MistralForCausalLM": {
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
        }
    }
    layer_rows = ATTENTION + tuple(replace(row, bias="maybe") for row in GATED_FFN)

    def generated(self) -> dict[str, tuple[float, ...]]:
        if self.rope.kind != "llama3":
            return {}
        return {"rope_freqs.weight": ropes.llama3_factors(self.config, self.rope.full, self.head_dim)}

    def written_head_dim(self) -> int | None:
        return self.head_dim  # both configuration classes fill it in

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        metadata.uint32(f"{self.arch}.vocab_size", self.n_vocab)
        metadata.uint32(f"{self.arch}.rope.dimension_count", self.head_dim)


class Mixtral(Llama):
    classes = ("MixtralForCausalLM",)
    defaults: ClassVar = {
        **Llama.defaults,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 2,
        "num_experts": 8,
    }
    class_defaults: ClassVar = {}
    rope_theta = 1_000_000.0
    layer_rows = (*ATTENTION, Row("block_sparse_moe.gate", "ffn_gate_inp", "e d"))

    @cached_property
    def n_expert(self) -> int:
        return self.config.count("num_experts")

    def written_head_dim(self) -> int | None:
        return self.config.optional_count("head_dim")

    def canonical(self, name: str) -> str:
        name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")  # as transformers 5 saves it
        return super().canonical(name)

    def sizes(self, layer: int) -> dict[str, int]:
        return {**super().sizes(layer), "x": self.n_ff}

    def experts(self, layer: int) -> Experts:
        prefix = f"{self.layer_prefix}.{layer}.mlp.experts.gate_up_proj"
        if prefix in self.text_tensors:
            return Experts("mlp.experts", ())
        parts = (("w1", "ffn_gate_exps", "f d"), ("w2", "ffn_down_exps", "d f"), ("w3", "ffn_up_exps", "f d"))
        return Experts("block_sparse_moe.experts", parts)
