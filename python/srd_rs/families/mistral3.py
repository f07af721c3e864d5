"""Mistral 3 is the text part of Mistral-Small 3.1 and later, and Ministral 3, whose YaRN has a query
temperature."""

from __future__ import annotations

from typing import Any, ClassVar

from srd_rs.families.llama import Llama
from srd_rs.metadata import Metadata


class Mistral3(Llama):
    arch = "mistral3"
    classes = ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM")
    defaults: ClassVar = {
        **Llama.defaults,
        **Llama.class_defaults["MistralForCausalLM"],
    }
    class_defaults: ClassVar = {
        "Ministral3ForCausalLM": {
            "vocab_size": 131072,
            "num_hidden_layers": 34,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
        }
    }

    def check(self) -> None:
        if self.config.get("model_type") == "mistral4":
            raise self.config.error("Mistral 4 is not supported", "Convert it with llama.cpp")

    def write_metadata(self, metadata: Metadata) -> None:
        super().write_metadata(metadata)
        if self.config.get("model_type") != "ministral3":
            return
        params: dict[str, Any] = self.rope.full
        for key, source in (("rope.scaling.yarn_log_multiplier", "mscale_all_dim"),
                            ("attention.temperature_scale", "llama_4_scaling_beta")):  # fmt: skip
            value = self.config.check_number(source, params.get(source))
            metadata.float32(f"{self.arch}.{key}", value)
