"""EXAONE 4 has norms after attention and feed-forward, norms for each head, and sliding layers in the 32B model."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families import rope as ropes
from srd_rs.families.base import GATED_FFN, HEAD_NORMS, Family, Row
from srd_rs.metadata import Metadata


class Exaone4(Family):
    arch = "exaone4"
    classes = ("Exaone4ForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "tie_word_embeddings": False,
    }
    layer_rows = (
        Row("self_attn.q_proj", "attn_q", "q d"),
        Row("self_attn.k_proj", "attn_k", "k d"),
        Row("self_attn.v_proj", "attn_v", "k d"),
        Row("self_attn.o_proj", "attn_output", "d q"),
        *HEAD_NORMS,
        Row("post_attention_layernorm", "post_attention_norm", "d"),
        Row("post_feedforward_layernorm", "post_ffw_norm", "d"),
        *GATED_FFN,
    )

    def generated(self) -> dict[str, tuple[float, ...]]:
        if self.rope.kind != "llama3":
            return {}
        return {"rope_freqs.weight": ropes.llama3_factors(self.config, self.rope.full, self.head_dim)}

    def sliding_layers(self) -> list[bool]:
        kinds = self.config.strings("layer_types", self.n_layer)
        if kinds is not None:
            return [kind == "sliding_attention" for kind in kinds]
        pattern = self.config.get("sliding_window_pattern")
        if isinstance(pattern, str) and pattern:  # such as LLLG
            return [pattern[layer % len(pattern)] == "L" for layer in range(self.n_layer)]
        every = self.config.check_count("sliding_window_pattern", pattern)
        return [(layer + 1) % every != 0 for layer in range(self.n_layer)]

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        metadata.uint32(f"{self.arch}.vocab_size", self.n_vocab)
        # a window that is null in the file is meant, not one left out
        stated = "sliding_window" in self.checkpoint.config
        if stated and self.checkpoint.config["sliding_window"] is None:
            return
        metadata.uint32(f"{self.arch}.attention.sliding_window", self.config.count("sliding_window"))
        metadata.booleans(f"{self.arch}.attention.sliding_window_pattern", self.sliding_layers())
