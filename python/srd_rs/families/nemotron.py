"""Nemotron 3 and 4 and Minitron store layer norms minus one and have no gate in the feed-forward part."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families.base import Family, Row
from srd_rs.metadata import Metadata


class Nemotron(Family):
    arch = "nemotron"
    classes = ("NemotronForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 256000,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 32,
        "num_attention_heads": 48,
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    }
    top_rows = (
        Row("model.embed_tokens", "token_embd", "v d"),
        Row("model.norm", "output_norm", "d", how="plus_one", bias="yes"),
    )
    layer_rows = (
        Row("input_layernorm", "attn_norm", "d", how="plus_one", bias="yes"),
        Row("self_attn.q_proj", "attn_q", "q d", bias="maybe"),
        Row("self_attn.k_proj", "attn_k", "k d", bias="maybe"),
        Row("self_attn.v_proj", "attn_v", "k d", bias="maybe"),
        Row("self_attn.o_proj", "attn_output", "d q", bias="maybe"),
        Row("post_attention_layernorm", "ffn_norm", "d", how="plus_one", bias="yes"),
        Row("mlp.up_proj", "ffn_up", "f d", bias="maybe"),
        Row("mlp.down_proj", "ffn_down", "d f", bias="maybe"),
    )

    def written_head_dim(self) -> int | None:
        return self.head_dim

    def write_rope(self, metadata: Metadata) -> None:
        metadata.float32(f"{self.arch}.rope.freq_base", self.rope.full["rope_theta"])
        # the usual place of this key, though the scale of a norm with mean and bias is the other one
        metadata.float32(f"{self.arch}.attention.layer_norm_rms_epsilon", self.config.number("norm_eps"))

    def write_metadata(self, metadata: Metadata) -> None:
        self.write_standard(metadata)
        arch, fraction = self.arch, self.rope.full.get("partial_rotary_factor") or 1.0
        metadata.uint32(f"{arch}.vocab_size", self.n_vocab)
        metadata.float32(f"{arch}.attention.layer_norm_epsilon", self.config.number("norm_eps"))
        metadata.uint32(f"{arch}.rope.dimension_count", int(fraction * self.n_embd) // self.n_head)
        factor = self.rope.full.get("factor")
        metadata.string(f"{arch}.rope.scaling.type", "none" if factor is None else "linear")
        if factor is not None:
            metadata.float32(f"{arch}.rope.scaling.factor", factor)
