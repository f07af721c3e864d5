"""StarCoder 2 has layer norms and biases, and a feed-forward part without a gate."""

from __future__ import annotations

from typing import ClassVar

from srd_rs.families.base import Family, Row


class StarCoder2(Family):
    arch = "starcoder2"
    classes = ("Starcoder2ForCausalLM",)
    defaults: ClassVar = {
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
    }
    top_rows = (
        Row("model.embed_tokens", "token_embd", "v d"),
        Row("model.norm", "output_norm", "d", bias="yes"),
    )
    layer_rows = (
        Row("input_layernorm", "attn_norm", "d", bias="yes"),
        Row("self_attn.q_proj", "attn_q", "q d", bias="yes"),
        Row("self_attn.k_proj", "attn_k", "k d", bias="yes"),
        Row("self_attn.v_proj", "attn_v", "k d", bias="yes"),
        Row("self_attn.o_proj", "attn_output", "d q", bias="yes"),
        Row("post_attention_layernorm", "ffn_norm", "d", bias="yes"),
        Row("mlp.c_fc", "ffn_up", "f d", bias="yes"),
        Row("mlp.c_proj", "ffn_down", "d f", bias="yes"),
    )
