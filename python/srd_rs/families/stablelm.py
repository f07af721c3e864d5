"""StableLM 2 and 3B have layer norms with biases and rotate a part of each head."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families.base import GATED_FFN, Family, Row
from srd_rs.metadata import Metadata


class StableLm(Family):
    arch = "stablelm"
    classes = ("StableLmForCausalLM", "StableLMEpochForCausalLM")
    defaults: ClassVar = {
        "vocab_size": 50304,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25,
        "use_parallel_residual": False,
        "tie_word_embeddings": False,
    }
    top_rows = (
        Row("model.embed_tokens", "token_embd", "v d"),
        Row("model.norm", "output_norm", "d", bias="yes"),
    )
    layer_rows = (
        Row("input_layernorm", "attn_norm", "d", bias="yes"),
        Row("self_attn.q_proj", "attn_q", "q d", bias="maybe"),
        Row("self_attn.k_proj", "attn_k", "k d", bias="maybe"),
        Row("self_attn.v_proj", "attn_v", "k d", bias="maybe"),
        Row("self_attn.o_proj", "attn_output", "d q"),
        *GATED_FFN,
    )
    _FFN_NORM = Row("post_attention_layernorm", "ffn_norm", "d", bias="yes")

    def rows(self, layer: int) -> tuple[Row, ...]:
        parallel = self.config.flag("use_parallel_residual")
        return self.layer_rows if parallel else (*self.layer_rows, self._FFN_NORM)

    def check(self) -> None:
        if self.config.flag("qk_layernorm"):
            raise self.config.error(
                "norms on queries and keys (qk_layernorm) are not supported", "Use llama.cpp"
            )

    def write_metadata(self, metadata: Metadata) -> None:
        arch, config = self.arch, self.config
        fraction = self.rope.full.get("partial_rotary_factor") or 1.0
        metadata.uint32(f"{arch}.context_length", config.count("max_position_embeddings"))
        metadata.uint32(f"{arch}.embedding_length", self.n_embd)
        metadata.uint32(f"{arch}.block_count", self.n_layer)
        metadata.uint32(f"{arch}.feed_forward_length", self.n_ff)
        metadata.uint32(f"{arch}.rope.dimension_count", int(fraction * self.head_dim))
        metadata.uint32(f"{arch}.attention.head_count", self.n_head)
        metadata.uint32(f"{arch}.attention.head_count_kv", self.n_head_kv)
        metadata.boolean(f"{arch}.use_parallel_residual", config.flag("use_parallel_residual"))
        metadata.float32(f"{arch}.attention.layer_norm_epsilon", config.number("layer_norm_eps"))
