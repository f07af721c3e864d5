"""InternLM 2 and 2.5 keep queries, keys and values in one matrix, group by group. The matrix is taken apart, and
the parts are permuted as Llama's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from srd_rs.checkpoint import SourceTensor
from srd_rs.families.base import Family, Row
from srd_rs.families.table import Table
from srd_rs.transforms import Concat, PermuteHeads, Rows, Source
from srd_rs.vocab.rules import INTERNLM

_MOST_HEADS = 4096


class InternLM2(Family):
    arch = "internlm2"
    vocabulary = INTERNLM
    classes = ("InternLM2ForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 103168,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    embedding = "model.tok_embeddings.weight"
    top_rows = (
        Row("model.tok_embeddings", "token_embd", "v d"),
        Row("model.norm", "output_norm", "d"),
    )
    output_row = Row("output", "output", "v d")
    layer_rows = (
        Row("attention_norm", "attn_norm", "d"),
        Row("attention.wo", "attn_output", "d q"),
        Row("ffn_norm", "ffn_norm", "d"),
        Row("feed_forward.w1", "ffn_gate", "f d"),
        Row("feed_forward.w2", "ffn_down", "d f"),
        Row("feed_forward.w3", "ffn_up", "f d"),
    )

    def check(self) -> None:
        if self.n_head > _MOST_HEADS:
            raise self.config.error(f"num_attention_heads is {self.n_head}, more than any model has")
        if self.head_dim % 2:
            raise self.config.error(f"the head size {self.head_dim} is odd, rotary embedding needs pairs")

    def table(self, present: Mapping[str, SourceTensor]) -> Table:
        table = super().table(present)
        per_group, size = self.n_head // self.n_head_kv, self.head_dim
        rows = (self.n_head + 2 * self.n_head_kv) * size
        for layer in range(self.n_layer):
            fused = Source(f"model.layers.{layer}.attention.wqkv.weight", (rows, self.n_embd))

            def taken(first: int, count: int, fused: Source = fused) -> Concat:
                starts = (group * (per_group + 2) + first for group in range(self.n_head_kv))
                return Concat(tuple(Rows(fused, start * size, count * size) for start in starts))

            parts = {
                "attn_q": PermuteHeads(taken(0, per_group), self.n_head),
                "attn_k": PermuteHeads(taken(per_group, 1), self.n_head_kv),
                "attn_v": taken(per_group + 1, 1),
            }
            for name, part in parts.items():
                table.add(f"blk.{layer}.{name}.weight", part, group=f"blk.{layer}.wqkv")
        return table
