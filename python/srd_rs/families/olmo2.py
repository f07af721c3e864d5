"""OLMo 2 and 3 have norms only after attention and feed-forward, and on whole queries and keys."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families.base import GATED_FFN, Family, Row
from srd_rs.metadata import Metadata


class Olmo2(Family):
    arch = "olmo2"
    classes = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
    defaults: ClassVar = {
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    class_defaults: ClassVar = {"Olmo3ForCausalLM": {"sliding_window": 4096}}
    layer_rows = (
        Row("self_attn.q_proj", "attn_q", "q d"),
        Row("self_attn.k_proj", "attn_k", "k d"),
        Row("self_attn.v_proj", "attn_v", "k d"),
        Row("self_attn.o_proj", "attn_output", "d q"),
        Row("self_attn.q_norm", "attn_q_norm", "q"),
        Row("self_attn.k_norm", "attn_k_norm", "k"),
        Row("post_attention_layernorm", "post_attention_norm", "d"),
        Row("post_feedforward_layernorm", "post_ffw_norm", "d"),
        *GATED_FFN,
    )

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        window = self.config.optional_count("sliding_window")
        if window is None:
            return
        metadata.uint32(f"{self.arch}.attention.sliding_window", window)
        kinds = self.config.strings("layer_types", self.n_layer)
        sliding = [(layer + 1) % 4 != 0 for layer in range(self.n_layer)]
        if kinds is not None:
            sliding = [kind == "sliding_attention" for kind in kinds]
        metadata.booleans(f"{self.arch}.attention.sliding_window_pattern", sliding)
