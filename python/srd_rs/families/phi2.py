"""Phi-1.5 and Phi-2 have one norm for attention and feed-forward, which run side by side, and biases everywhere."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families.base import Family, Row
from srd_rs.metadata import Metadata
from srd_rs.vocab.rules import PHI2


class Phi2(Family):
    arch = "phi2"
    vocabulary = PHI2
    classes = ("PhiForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    }
    top_rows = (
        Row("model.embed_tokens", "token_embd", "v d"),
        Row("model.final_layernorm", "output_norm", "d", bias="yes"),
    )
    output_row = Row("lm_head", "output", "v d", bias="yes")
    layer_rows = (
        Row("input_layernorm", "attn_norm", "d", bias="yes"),
        Row("self_attn.q_proj", "attn_q", "q d", bias="yes"),
        Row("self_attn.k_proj", "attn_k", "k d", bias="yes"),
        Row("self_attn.v_proj", "attn_v", "k d", bias="yes"),
        Row("self_attn.dense", "attn_output", "d q", bias="yes"),
        Row("mlp.fc1", "ffn_up", "f d", bias="yes"),
        Row("mlp.fc2", "ffn_down", "d f", bias="yes"),
    )

    def write_metadata(self, metadata: Metadata) -> None:
        arch, config = self.arch, self.config
        fraction = self.rope.full.get("partial_rotary_factor") or 1.0
        metadata.uint32(f"{arch}.context_length", config.count("max_position_embeddings"))
        metadata.uint32(f"{arch}.embedding_length", self.n_embd)
        metadata.uint32(f"{arch}.feed_forward_length", self.n_ff)
        metadata.uint32(f"{arch}.block_count", self.n_layer)
        metadata.uint32(f"{arch}.attention.head_count", self.n_head)
        metadata.uint32(f"{arch}.attention.head_count_kv", self.n_head_kv)
        metadata.float32(f"{arch}.attention.layer_norm_epsilon", config.number("layer_norm_eps"))
        metadata.uint32(f"{arch}.rope.dimension_count", int(fraction * self.n_embd) // self.n_head)
        metadata.boolean("tokenizer.ggml.add_bos_token", False)
