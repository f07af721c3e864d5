"""BERT encoders are sentence embedding models such as all-MiniLM and BGE. Heads for training are left out."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families import names
from srd_rs.families.base import Family, Row
from srd_rs.metadata import Metadata
from srd_rs.vocab.rules import ENCODER

_HEADS = ("pooler.dense.", "cls.predictions", "cls.seq_relationship")


class Bert(Family):
    arch = "bert"
    vocabulary = ENCODER
    classes = ("BertModel", "BertForMaskedLM")
    defaults: ClassVar = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }
    writes_head_count_kv = False
    layer_prefix = "encoder.layer"
    embedding = "embeddings.word_embeddings.weight"
    output_row = None
    top_rows = (
        Row("embeddings.word_embeddings", "token_embd", "v d"),
        Row("embeddings.position_embeddings", "position_embd", "context d"),
        Row("embeddings.token_type_embeddings", "token_types", "types d"),
        Row("embeddings.LayerNorm", "token_embd_norm", "d", bias="yes"),
    )
    layer_rows = (
        Row("attention.self.query", "attn_q", "d d", bias="yes"),
        Row("attention.self.key", "attn_k", "d d", bias="yes"),
        Row("attention.self.value", "attn_v", "d d", bias="yes"),
        Row("attention.output.dense", "attn_output", "d d", bias="yes"),
        Row("attention.output.LayerNorm", "attn_output_norm", "d", bias="yes"),
        Row("intermediate.dense", "ffn_up", "f d", bias="yes"),
        Row("output.dense", "ffn_down", "d f", bias="yes"),
        Row("output.LayerNorm", "layer_output_norm", "d", bias="yes"),
    )

    def canonical(self, name: str) -> str:
        name = name.removeprefix("bert.")
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):  # TensorFlow's names
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return super().canonical(name)

    def left_out(self, name: str) -> str | None:
        return names.HEAD if name.removeprefix("bert.").startswith(_HEADS) else super().left_out(name)

    def sizes(self, layer: int) -> dict[str, int]:
        context, types = self.config.count("max_position_embeddings"), self.config.count("type_vocab_size")
        return {**super().sizes(layer), "context": context, "types": types}

    def write_rope(self, metadata: Metadata) -> None:
        """Write nothing: positions are embedded, not rotated."""

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        metadata.boolean(f"{self.arch}.attention.causal", False)
        self.write_pooling(metadata)
