"""Gemma 1, 2 and 3 store norm weights minus one. Their output matrix is the embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from srd_rs.families import names
from srd_rs.families.base import GATED_FFN, HEAD_NORMS, LLAMA_LAYER, Family, Row
from srd_rs.metadata import Metadata
from srd_rs.vocab.rules import GEMMA, GEMMA_LATER


def plus_one(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return the rows with one added to the weights of every norm: a stored w stands for 1 + w."""
    return tuple(replace(row, how="plus_one") if row.source.endswith("norm") else row for row in rows)


_PROJECTIONS = tuple(replace(row, bias="no") for row in LLAMA_LAYER if "_proj" in row.source)

SANDWICH: tuple[Row, ...] = (
    Row("input_layernorm", "attn_norm", "d"),
    *_PROJECTIONS,
    Row("post_attention_layernorm", "post_attention_norm", "d"),
    Row("pre_feedforward_layernorm", "ffn_norm", "d"),
    Row("post_feedforward_layernorm", "post_ffw_norm", "d"),
)
"""From Gemma 2 on, norms stand before and after attention and feed-forward."""


class Gemma(Family):
    arch = "gemma"
    vocabulary = GEMMA
    classes = ("GemmaForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
    }
    layer_rows = plus_one(
        (
            *(replace(row, bias="no") for row in LLAMA_LAYER),
            *GATED_FFN,
        )
    )
    top_rows = plus_one(Family.top_rows)
    output_row = None

    def left_out(self, name: str) -> str | None:
        return names.COPY if name == "lm_head.weight" else super().left_out(name)

    def check(self) -> None:
        untied = self.config.get("tie_word_embeddings") is False
        if untied and any(name.endswith("lm_head.weight") for name in self.checkpoint.tensors):
            what = "tie_word_embeddings is false, but llama.cpp's Gemma has no output matrix of its own"
            raise self.config.error(what, "Set it to true if lm_head.weight is a copy of the embedding")

    def write_metadata(self, metadata: Metadata) -> None:
        arch, config = self.arch, self.config
        metadata.uint32(f"{arch}.context_length", config.count("max_position_embeddings"))
        metadata.uint32(f"{arch}.embedding_length", self.n_embd)
        metadata.uint32(f"{arch}.block_count", self.n_layer)
        metadata.uint32(f"{arch}.feed_forward_length", self.n_ff)
        metadata.uint32(f"{arch}.attention.head_count", self.n_head)
        metadata.uint32(f"{arch}.attention.head_count_kv", self.n_head_kv)
        metadata.float32(f"{arch}.attention.layer_norm_rms_epsilon", config.number("rms_norm_eps"))
        metadata.uint32(f"{arch}.attention.key_length", self.head_dim)
        metadata.uint32(f"{arch}.attention.value_length", self.head_dim)
        if self.rope.full["rope_theta"] != 10_000.0:  # what readers assume when the key is absent
            metadata.float32(f"{arch}.rope.freq_base", self.rope.full["rope_theta"])


class Gemma2(Gemma):
    arch = "gemma2"
    vocabulary = GEMMA_LATER
    classes = ("Gemma2ForCausalLM",)
    defaults: ClassVar = {
        **Gemma.defaults,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    layer_rows = plus_one(SANDWICH + GATED_FFN)

    def write_metadata(self, metadata: Metadata) -> None:
        super().write_metadata(metadata)
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            metadata.float32(f"{self.arch}.{key}", self.config.number(key))
        metadata.uint32(f"{self.arch}.attention.sliding_window", self.config.count("sliding_window"))


class Gemma3(Family):
    arch = "gemma3"
    vocabulary = GEMMA_LATER
    classes = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
    defaults: ClassVar = {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    }
    rope_theta = 1_000_000.0
    rope_theta_sliding = 10_000.0
    layer_rows = plus_one(SANDWICH + HEAD_NORMS + GATED_FFN)
    top_rows = plus_one(Family.top_rows)

    @property
    def tied(self) -> bool:
        return True  # lm_head, if it is there at all, is a copy

    def check(self) -> None:
        if self.config.get("attn_logit_softcapping") is not None:
            raise self.config.error(
                "attn_logit_softcapping is set, Gemma 3 has none", "Remove it if it is a mistake"
            )

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        softcap = self.config.optional_number("final_logit_softcapping")
        if softcap is not None:
            metadata.float32(f"{self.arch}.final_logit_softcapping", softcap)
        if self.config.get("sliding_window_pattern") != 1:
            metadata.uint32(f"{self.arch}.attention.sliding_window", self.config.count("sliding_window"))
