"""Phi-3, Phi-3.5 and Phi-4 have fused projections, which stay fused. The factors of LongRoPE become two tensors."""

from __future__ import annotations

import math
from typing import ClassVar

from srd_rs.families.base import Family, Row
from srd_rs.metadata import Metadata
from srd_rs.vocab.rules import PHI3


class Phi3(Family):
    arch = "phi3"
    vocabulary = PHI3
    classes = ("Phi3ForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    layer_rows = (
        Row("input_layernorm", "attn_norm", "d"),
        Row("self_attn.qkv_proj", "attn_qkv", "qkv d"),
        Row("self_attn.o_proj", "attn_output", "d q"),
        Row("post_attention_layernorm", "ffn_norm", "d"),
        Row("mlp.gate_up_proj", "ffn_up", "2f d"),
        Row("mlp.down_proj", "ffn_down", "d f"),
    )

    def sizes(self, layer: int) -> dict[str, int]:
        sizes = super().sizes(layer)
        return {**sizes, "qkv": sizes["q"] + 2 * sizes["k"], "2f": 2 * sizes["f"]}

    @property
    def original_context(self) -> int:
        # the field beside the RoPE parameters wins over the one among them, as in the class
        return self.config.count("original_max_position_embeddings")

    @property
    def rope_dimensions(self) -> int:
        fraction = self.rope.full.get("partial_rotary_factor") or 1.0
        return int(fraction * self.n_embd) // self.n_head

    def check(self) -> None:
        kind = self.rope.kind
        long = self.rope.full.get("long_factor")
        if kind not in ("default", "su", "longrope", "yarn") or (kind != "default" and not long):
            raise self.config.error(f"RoPE scaling '{kind}' without long_factor is not a Phi-3 model's")

    def generated(self) -> dict[str, tuple[float, ...]]:
        params = self.rope.full
        if not params.get("long_factor"):
            return {}
        half = self.rope_dimensions // 2
        longs = self.config.numbers("long_factor", params.get("long_factor"), half)
        shorts = self.config.numbers("short_factor", params.get("short_factor"), half)
        scale = self.config.count("max_position_embeddings") / self.original_context
        factor = 1.0
        if scale > 1.0:
            # LongRoPE, equation for the attention temperature
            factor = math.sqrt(1 + math.log(scale) / math.log(self.original_context))
        self.extras[f"{self.arch}.rope.scaling.attn_factor"] = ("FLOAT32", factor)
        return {"rope_factors_long.weight": tuple(longs), "rope_factors_short.weight": tuple(shorts)}

    def write_metadata(self, metadata: Metadata) -> None:
        arch, config = self.arch, self.config
        metadata.uint32(f"{arch}.context_length", config.count("max_position_embeddings"))
        metadata.uint32(f"{arch}.rope.scaling.original_context_length", self.original_context)
        metadata.uint32(f"{arch}.embedding_length", self.n_embd)
        metadata.uint32(f"{arch}.feed_forward_length", self.n_ff)
        metadata.uint32(f"{arch}.block_count", self.n_layer)
        metadata.uint32(f"{arch}.attention.head_count", self.n_head)
        metadata.uint32(f"{arch}.attention.head_count_kv", self.n_head_kv)
        metadata.float32(f"{arch}.attention.layer_norm_rms_epsilon", config.number("rms_norm_eps"))
        metadata.uint32(f"{arch}.rope.dimension_count", self.rope_dimensions)
        metadata.float32(f"{arch}.rope.freq_base", self.rope.full["rope_theta"])
        # 0 tells Phi-4, which has no window, from the others
        metadata.uint32(
            f"{arch}.attention.sliding_window", config.optional_count("sliding_window", least=0) or 0
        )
