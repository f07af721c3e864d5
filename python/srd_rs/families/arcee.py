"""Arcee AFM has the Llama skeleton and a feed-forward part without a gate."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families.base import Row
from srd_rs.families.llama import ATTENTION, Llama
from srd_rs.metadata import Metadata


class Arcee(Llama):
    arch = "arcee"
    classes = ("ArceeForCausalLM",)
    defaults: ClassVar = {
        **Llama.defaults,
        "hidden_size": 2560,
        "intermediate_size": 18432,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    class_defaults: ClassVar = {}
    layer_rows = (
        *ATTENTION,
        Row("mlp.up_proj", "ffn_up", "f d"),
        Row("mlp.down_proj", "ffn_down", "d f"),
    )

    def write_metadata(self, metadata: Metadata) -> None:
        super().write_metadata(metadata)
        self.write_pooling(metadata)
