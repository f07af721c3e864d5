"""GPT-2 and GPT-NeoX (Pythia) have fused query-key-value projections with biases."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families import names
from srd_rs.families.base import Family, Row
from srd_rs.metadata import Metadata
from srd_rs.transforms import Concat, Rows, Source, Transform

_MOST_HEADS = 4096


class Gpt2(Family):
    """GPT-2 stores its linear layers input by output, so they are transposed."""

    arch = "gpt2"
    classes = ("GPT2LMHeadModel",)
    defaults: ClassVar = {
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
        "layer_norm_epsilon": 1e-5,
    }
    layer_prefix = "h"
    embedding = "wte.weight"
    top_rows = (
        Row("wte", "token_embd", "v d"),
        Row("wpe", "position_embd", "context d"),
        Row("ln_f", "output_norm", "d", bias="yes"),
    )
    layer_rows = (
        Row("ln_1", "attn_norm", "d", bias="yes"),
        Row("attn.c_attn", "attn_qkv", "d 3d", how="transpose", bias="yes"),
        Row("attn.c_proj", "attn_output", "d d", how="transpose", bias="yes"),
        Row("ln_2", "ffn_norm", "d", bias="yes"),
        Row("mlp.c_fc", "ffn_up", "d f", how="transpose", bias="yes"),
        Row("mlp.c_proj", "ffn_down", "f d", how="transpose", bias="yes"),
    )

    @property
    def n_ff(self) -> int:
        return self.config.optional_count("n_inner") or 4 * self.n_embd

    def canonical(self, name: str) -> str:
        return super().canonical(name.removeprefix("transformer."))

    def left_out(self, name: str) -> str | None:
        masks = (".attn.bias", ".attn.masked_bias")
        return names.BUFFER if name.endswith(masks) else super().left_out(name)

    def sizes(self, layer: int) -> dict[str, int]:
        context = self.config.count("max_position_embeddings")
        return {**super().sizes(layer), "context": context, "3d": 3 * self.n_embd}

    def write_metadata(self, metadata: Metadata) -> None:
        arch, config = self.arch, self.config
        metadata.uint32(f"{arch}.block_count", self.n_layer)
        metadata.uint32(f"{arch}.context_length", config.count("max_position_embeddings"))
        metadata.uint32(f"{arch}.embedding_length", self.n_embd)
        metadata.uint32(f"{arch}.feed_forward_length", self.n_ff)
        metadata.uint32(f"{arch}.attention.head_count", self.n_head)
        metadata.float32(f"{arch}.attention.layer_norm_epsilon", config.number("layer_norm_epsilon"))


class GptNeoX(Family):
    arch = "gptneox"
    classes = ("GPTNeoXForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 50432,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
    }
    layer_prefix = "gpt_neox.layers"
    embedding = "gpt_neox.embed_in.weight"
    top_rows = (
        Row("gpt_neox.embed_in", "token_embd", "v d"),
        Row("gpt_neox.final_layer_norm", "output_norm", "d", bias="yes"),
    )
    output_row = Row("embed_out", "output", "v d")
    layer_rows = (
        Row("input_layernorm", "attn_norm", "d", bias="yes"),
        Row("attention.query_key_value", "attn_qkv", "3d d", how="by_kind", bias="yes"),
        Row("attention.dense", "attn_output", "d d", bias="yes"),
        Row("post_attention_layernorm", "ffn_norm", "d", bias="yes"),
        Row("mlp.dense_h_to_4h", "ffn_up", "f d", bias="yes"),
        Row("mlp.dense_4h_to_h", "ffn_down", "d f", bias="yes"),
    )

    def check(self) -> None:
        if self.n_head > _MOST_HEADS:
            raise self.config.error(f"num_attention_heads is {self.n_head}, more than any model has")

    def sizes(self, layer: int) -> dict[str, int]:
        return {**super().sizes(layer), "3d": 3 * self.n_embd}

    def apply(self, how: str, source: Source) -> Transform:
        """Reorder rows that stand head by head, each with its query, key and value. GGUF has all queries, then
        all keys, then all values."""
        if how != "by_kind":
            return super().apply(how, source)
        size = self.head_dim
        starts = [(3 * head + kind) * size for kind in range(3) for head in range(self.n_head)]
        return Concat(tuple(Rows(source, start, size) for start in starts))

    def write_metadata(self, metadata: Metadata) -> None:
        arch, config = self.arch, self.config
        metadata.uint32(f"{arch}.context_length", config.count("max_position_embeddings"))
        metadata.uint32(f"{arch}.embedding_length", self.n_embd)
        metadata.uint32(f"{arch}.block_count", self.n_layer)
        metadata.uint32(f"{arch}.feed_forward_length", self.n_ff)
        fraction = self.rope.full.get("partial_rotary_factor") or 1.0
        metadata.uint32(f"{arch}.rope.dimension_count", int(fraction * self.head_dim))
        metadata.uint32(f"{arch}.attention.head_count", self.n_head)
        metadata.boolean(f"{arch}.use_parallel_residual", config.flag("use_parallel_residual", True))
        metadata.float32(f"{arch}.attention.layer_norm_epsilon", config.number("layer_norm_eps"))
