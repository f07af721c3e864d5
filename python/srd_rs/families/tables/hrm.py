"""The table of HRM Text, whose two stacks of layers run in turns."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows, Stack

_LAYER: Final = (
    Rows(
        (
            "attn.gqkv_proj > attn_gate | 4*q d | rows(0, q)",
            "attn.gqkv_proj > attn_q | 4*q d | rows(q, q)",
            "attn.gqkv_proj > attn_k | 4*q d | rows(2 * q, q)",
            "attn.gqkv_proj > attn_v | 4*q d | rows(3 * q, q)",
        ),
        "fused",
    ),
    Rows(
        (
            "self_attn.gate_proj > attn_gate | q d",
            "self_attn.q_proj > attn_q | q d",
            "self_attn.k_proj > attn_k | q d",
            "self_attn.v_proj > attn_v | q d",
        ),
        "not fused",
    ),
    Rows(("self_attn.o_proj > attn_output | d q", "mlp.down_proj > ffn_down | d f")),
    Rows(
        (
            "mlp.gate_up_proj > ffn_gate | 2*f d | rows(0, f)",
            "mlp.gate_up_proj > ffn_up | 2*f d | rows(f, f)",
        ),
        "fused",
    ),
    Rows(("mlp.gate_proj > ffn_gate | f d", "mlp.up_proj > ffn_up | f d"), "not fused"),
)

HRM_TEXT: Final = FamilyTable(
    arch="hrm_text",
    classes=("HrmTextForCausalLM",),
    defaults={
        "vocab_size": 151808,
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "head_dim": 128,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "H_cycles": 2,
        "L_cycles": 3,
        "prefix_lm": True,
        "tie_word_embeddings": False,
    },
    sizes={
        "per_stack": "first(num_layers_per_stack, num_hidden_layers)",
        "fused": "has('model.L_module.layers.0.attn.gqkv_proj.weight')",
    },
    n_layer="per_stack",
    n_run="per_stack * H_cycles * (L_cycles + 1)",
    layer_prefix="model.L_module.layers",
    renames=((r"\.attn\.o_proj\.", ".self_attn.o_proj."),),
    top=("model.embed_tokens > token_embd | v d", "model.z_L_init! > hrm.z_l_init= | d"),
    layer=_LAYER,
    stacks=(Stack("model.H_module.layers", "blk", "per_stack", _LAYER, "per_stack"),),
    metadata=(
        "u32 ~block_count = per_stack * H_cycles * (L_cycles + 1)",
        "u32 ~rope.dimension_count = head_dim",
        "f32 ~embedding_scale = first(embedding_scale, 1 / initializer_range)",
        "u32 ~hrm.layers_per_stack = per_stack",
        "u32 ~hrm.h_cycles = H_cycles",
        "u32 ~hrm.l_cycles = L_cycles",
        "bool ~hrm.prefix_lm = prefix_lm",
    ),
    without=("~attention.head_count_kv",),
)
