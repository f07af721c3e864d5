"""SmolLM3 has the Llama skeleton. Every fourth layer has no RoPE, which the graph in llama.cpp knows."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families.llama import Llama


class SmolLM3(Llama):
    arch = "smollm3"
    classes = ("SmolLM3ForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
    }
    class_defaults: ClassVar = {}
    rope_theta = 2_000_000.0

    def written_head_dim(self) -> int | None:
        return self.config.optional_count("head_dim")

    def check(self) -> None:
        rotated = self.config.get("no_rope_layers")
        every = (
            self.config.count("no_rope_layer_interval") if self.config.get("no_rope_layer_interval") else 4
        )
        usual = [int((layer + 1) % 4 != 0) for layer in range(self.n_layer)]
        if rotated != usual and (rotated is not None or every != 4):
            raise self.config.error(
                "layers without RoPE are not every fourth", "llama.cpp cannot run such a model"
            )
