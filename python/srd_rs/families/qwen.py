"""Qwen 2 MoE has shared experts behind a gate. The other models of Qwen 2 and 3 are tables."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from srd_rs.families.base import LLAMA_LAYER, Experts, Family, Row
from srd_rs.families.tables.qwen import QWEN2
from srd_rs.metadata import Metadata


class Qwen2Moe(Family):
    arch = "qwen2moe"
    classes = ("Qwen2MoeForCausalLM",)
    defaults: ClassVar = {
        **QWEN2.defaults,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
        "num_experts": 60,
        "decoder_sparse_step": 1,
    }
    layer_rows = (
        *(replace(r, bias="maybe") if r.target in ("attn_q", "attn_k", "attn_v") else r for r in LLAMA_LAYER),
        Row("mlp.gate", "ffn_gate_inp", "e d"),
        Row("mlp.shared_expert_gate", "ffn_gate_inp_shexp", "1 d"),
        Row("mlp.shared_expert.gate_proj", "ffn_gate_shexp", "s d"),
        Row("mlp.shared_expert.up_proj", "ffn_up_shexp", "s d"),
        Row("mlp.shared_expert.down_proj", "ffn_down_shexp", "d s"),
    )

    @cached_property
    def n_expert(self) -> int:
        return self.config.count("num_experts")

    @cached_property
    def n_ff_expert(self) -> int:
        return self.config.count("moe_intermediate_size")

    def check(self) -> None:
        """The graphs in llama.cpp have experts in every layer."""
        if self.config.get("mlp_only_layers") or self.config.count("decoder_sparse_step") != 1:
            what = "some layers are dense (mlp_only_layers, decoder_sparse_step)"
            raise self.config.error(what, "llama.cpp has no graph for it, so it cannot be converted")

    def sizes(self, layer: int) -> dict[str, int]:
        shared = self.config.optional_count("shared_expert_intermediate_size", least=0) or 0
        return {**super().sizes(layer), "x": self.n_ff_expert, "s": shared}

    def experts(self, layer: int) -> Experts:
        parts = (
            ("down_proj", "ffn_down_exps", "d x"),
            ("gate_proj", "ffn_gate_exps", "x d"),
            ("up_proj", "ffn_up_exps", "x d"),
        )
        return Experts("mlp.experts", parts)

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        metadata.uint32(f"{self.arch}.expert_feed_forward_length", self.n_ff_expert)
        if (shared := self.config.optional_count("shared_expert_intermediate_size", least=0)) is not None:
            metadata.uint32(f"{self.arch}.expert_shared_feed_forward_length", shared)
