"""Command R and Command R7B have one norm per layer, scaled logits, and attention and feed-forward side by side."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.checkpoint import Checkpoint
from srd_rs.families.base import GATED_FFN, Family, Row
from srd_rs.metadata import Metadata

_LAYER = (
    Row("input_layernorm", "attn_norm", "d"),
    Row("self_attn.q_proj", "attn_q", "q d"),
    Row("self_attn.k_proj", "attn_k", "k d"),
    Row("self_attn.v_proj", "attn_v", "k d"),
    Row("self_attn.o_proj", "attn_output", "d q"),
    *GATED_FFN,
)
_HEAD_NORMS = (
    Row("self_attn.q_norm", "attn_q_norm", "heads h"),
    Row("self_attn.k_norm", "attn_k_norm", "kv h"),
)


class Cohere(Family):
    arch = "command-r"
    classes = ("CohereForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 256000,
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
    }
    rope_theta = 500_000.0
    layer_rows = _LAYER

    def __init__(self, checkpoint: Checkpoint, class_name: str) -> None:
        super().__init__(checkpoint, class_name)
        longest = self.config.get("model_max_length")
        if longest is not None:  # max_position_embeddings is far below what the model was trained on
            self.config.values["max_position_embeddings"] = longest

    def sizes(self, layer: int) -> dict[str, int]:
        return {**super().sizes(layer), "heads": self.n_head, "kv": self.n_head_kv}

    def rows(self, layer: int) -> tuple[Row, ...]:
        return self.layer_rows + (_HEAD_NORMS if self.config.flag("use_qk_norm") else ())

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        metadata.float32(f"{self.arch}.logit_scale", self.config.number("logit_scale"))
        metadata.string(f"{self.arch}.rope.scaling.type", "none")


class Cohere2(Cohere):
    arch = "cohere2"
    classes = ("Cohere2ForCausalLM",)
    defaults: ClassVar = {**Cohere.defaults, "sliding_window": 4096}
    rope_theta = 10_000.0

    def rows(self, layer: int) -> tuple[Row, ...]:
        return self.layer_rows

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        fraction = self.rope.full.get("partial_rotary_factor") or 1.0
        metadata.float32(f"{self.arch}.logit_scale", self.config.number("logit_scale"))
        metadata.uint32(f"{self.arch}.attention.sliding_window", self.config.count("sliding_window"))
        metadata.uint32(f"{self.arch}.vocab_size", self.n_vocab)
        metadata.uint32(f"{self.arch}.rope.dimension_count", int(fraction * (self.n_embd // self.n_head)))
        metadata.string(f"{self.arch}.rope.scaling.type", "none")
