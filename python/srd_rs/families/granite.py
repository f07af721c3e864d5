"""Granite has the Llama skeleton and four multipliers."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families.llama import Llama
from srd_rs.metadata import Metadata

_SCALES = (
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
)


class Granite(Llama):
    arch = "granite"
    classes = ("GraniteForCausalLM",)
    defaults: ClassVar = {**Llama.defaults, **{key: 1.0 for _, key in _SCALES}}
    class_defaults: ClassVar = {}

    def generated(self) -> dict[str, tuple[float, ...]]:
        if self.rope.kind == "llama3":
            raise self.config.error(
                "llama.cpp's Granite has no llama3 RoPE scaling", "It cannot be converted"
            )
        return {}

    def written_head_dim(self) -> int | None:
        return None

    def write_metadata(self, metadata: Metadata) -> None:
        super().write_metadata(metadata)
        for key, source in _SCALES:
            metadata.float32(f"{self.arch}.{key}", self.config.number(source))
