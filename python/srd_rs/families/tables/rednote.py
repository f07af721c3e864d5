"""The tables of the models of rednote-hilab (dots)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.names import OTHER_MODALITY
from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows
from srd_rs.families.tables.common import (
    BIASED_QKV,
    GATED_FFN,
    HEAD_NORMS,
    LATENT_NORMS,
    NEXTN,
    NORMS,
    NOT_LEADING,
    ROUTER_BIAS,
    SHARED_EXPERTS,
    TIED_HEAD,
    WINDOW,
    leading_dense,
)
from srd_rs.families.tables.deepseek import (
    DEEPSEEK2,
    INDEXER,
    INDEXER_METADATA,
    MOE_METADATA,
    MOE_SIZES,
    ROUTED,
)
from srd_rs.families.tables.skeletons import NO_BIASES
from srd_rs.vocab import rules

_WINDOW: Final = (
    "first(sliding_window, 4096) < max_position_embeddings"
    " and not (states('sliding_window') and sliding_window == None)"
    " and (first(max_window_layers, 62) < n_layer if layer_types == None"
    " else count(layer_types, 'sliding_attention') > 0)"
)
DOTS1: Final = FamilyTable(
    arch="dots1",
    classes=("Dots1ForCausalLM",),
    defaults={
        **NO_BIASES,
        "vocab_size": 152064,
        "hidden_size": 4608,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "n_routed_experts": 128,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": False,
        "tie_word_embeddings": False,
    },
    sizes={
        "dense": leading_dense(0),
        "x": "moe_intermediate_size",
        "shared": "first(n_shared_experts, 0)",
    },
    layer=(
        Rows((*NORMS, *BIASED_QKV, *HEAD_NORMS)),
        Rows(GATED_FFN, "layer < dense"),
        Rows(("mlp.gate > ffn_gate_inp | e d", ROUTER_BIAS), "layer >= dense"),
        Rows(SHARED_EXPERTS, "layer >= dense and shared > 0"),
    ),
    experts=ROUTED,
    metadata=(
        "u32 ~expert_gating_func = 2",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~leading_dense_block_count = dense",
        "u32 ~expert_shared_count = shared",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        "bool ~expert_weights_norm = norm_topk_prob",
    ),
    refusals=(
        NOT_LEADING,
        replace(WINDOW, when=_WINDOW),
        Refusal("n_head_kv != n_head", "heads share keys and values (num_key_value_heads)"),
    ),
    output_needed=True,
)

_SLIDES: Final = "(layer >= n_layer or layer_types[layer] == 'sliding_attention')"


def _by_kind(sliding: str, full: str) -> str:
    return f"{sliding} if {_SLIDES} else {full}"


DOTS3: Final = FamilyTable(
    arch="dots3note",
    classes=(
        "Dots3NoteForCausalLM",
        "Dots3NoteForConditionalGeneration",
        "Dots3NoteTextForCausalLM",
    ),
    defaults={
        **DEEPSEEK2.defaults,
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 46,
        "num_attention_heads": 128,
        "max_position_embeddings": 524288,
        "rms_norm_eps": 1e-5,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "q_lora_rank": 1024,
        "index_topk": 2048,
        "index_head_dim": 128,
        "index_n_heads": 64,
        "swa_num_attention_heads": 64,
        "swa_q_lora_rank": 1024,
        "swa_kv_lora_rank": 1024,
        "swa_head_dim": 256,
        "swa_qk_nope_head_dim": 192,
        "swa_qk_rope_head_dim": 64,
        "swa_v_head_dim": 128,
        "swa_rope_theta": 50_000.0,
        "sliding_window_size": 512,
    },
    n_head=_by_kind("swa_num_attention_heads", "num_attention_heads"),
    n_head_kv="1",
    sizes={
        "kv": _by_kind("swa_kv_lora_rank", "kv_lora_rank"),
        "rot": "qk_rope_head_dim",
        "nope": _by_kind("swa_qk_nope_head_dim", "qk_nope_head_dim"),
        "vd": _by_kind("swa_v_head_dim", "v_head_dim"),
        "qk": "nope + rot",
        "kva": "kv + rot",
        "kvb": "n_head * (nope + vd)",
        **MOE_SIZES,
        "dense": leading_dense(1),
        "rescaled": "apply_mla_qkv_lora_rescale == 1",
    },
    layer=(
        Rows(NORMS),
        Rows(
            (
                "self_attn.q_a_proj > attn_q_a | q_lora_rank d",
                # The factor of the queries' latent vector goes into the norm before them.
                "self_attn.q_a_layernorm > attn_q_a_norm | q_lora_rank"
                " | affine(sqrt(d / q_lora_rank) if rescaled else 1.0, 0.0)",
                "self_attn.q_b_proj > attn_q_b | n_head*qk q_lora_rank",
                "self_attn.kv_a_layernorm > attn_kv_a_norm | kv"
                " | affine(sqrt(d / kv) if rescaled else 1.0, 0.0)",
                *(row for row in DEEPSEEK2.layer[3].rows if "kv_a_layernorm" not in row),
                "self_attn.k_rope_only_layernorm > attn_k_norm | rot",
                "self_attn.g_proj > attn_gate | n_head d",
            )
        ),
        Rows(INDEXER, f"not {_SLIDES}"),
        *DEEPSEEK2.layer[4:],
        Rows(NEXTN, "layer >= n_layer"),
    ),
    experts=ROUTED,
    renames=((r"^model\.mtp\.embed_tokens\.", "model.mtp.layers.0.embed_tokens."),),
    mtp=Mtp("1", "model.mtp.layers"),
    metadata=(
        "u32 ~attention.key_length = kv_lora_rank + rot",
        "u32 ~attention.value_length = kv_lora_rank",
        "u32 ~attention.q_lora_rank = q_lora_rank",
        "u32 ~attention.kv_lora_rank = kv_lora_rank",
        "u32 ~attention.key_length_mla = qk_nope_head_dim + rot",
        "u32 ~attention.value_length_mla = v_head_dim",
        "u32 ~rope.dimension_count = rot",
        *MOE_METADATA,
        "u32 ~attention.sliding_window = sliding_window_size",
        "bools ~attention.sliding_window_pattern = [layer_types[i] == 'sliding_attention' for i in layers]",
        "u32 ~attention.kv_lora_rank_swa = swa_kv_lora_rank",
        "u32 ~attention.key_length_swa = swa_kv_lora_rank + swa_qk_rope_head_dim",
        "u32 ~attention.value_length_swa = swa_kv_lora_rank",
        "u32 ~attention.key_length_mla_swa = swa_qk_nope_head_dim + swa_qk_rope_head_dim",
        "u32 ~attention.value_length_mla_swa = swa_v_head_dim",
        *INDEXER_METADATA,
        "bools ~attention.indexer.types = [layer_types[i] != 'sliding_attention' for i in layers]",
    ),
    skip=(*TIED_HEAD, (r"^(vision|audio)_encoder\.", OTHER_MODALITY)),
    refusals=(
        *(refusal for refusal in DEEPSEEK2.refusals if refusal != LATENT_NORMS),
        NOT_LEADING,
        Refusal(
            "layer_types == None", "the kinds of the layers are not named (layer_types)", "Add layer_types"
        ),
        Refusal("first(use_dsa, 1) != 1", "full layers choose no tokens (use_dsa)"),
        Refusal(
            "first(normalization, 'RMSNorm') != 'RMSNorm' or first(final_norm, 'RMSNorm') != 'RMSNorm'",
            "the norms are not RMS norms (normalization, final_norm)",
        ),
        Refusal("first(k_rope_only_layernorm, 1) != 1", "the norm of keys is not that of their rotary part"),
        Refusal(
            "first(topk_method, 'noaux_tc') != 'noaux_tc'", "experts are chosen in another way (topk_method)"
        ),
        Refusal("scoring_func != 'sigmoid'", "experts are not scored by sigmoids (scoring_func)"),
        Refusal("n_group != 1 or topk_group != 1", "experts are chosen by groups (n_group, topk_group)"),
        Refusal("use_dynamic_rsf or moe_gating_fp32", "experts are scaled in another way"),
        Refusal(
            "first(attention_gate_type, 'headwise') != 'headwise'"
            " or first(swa_attention_gate_type, 'headwise') != 'headwise'",
            "attention has no gate for each head (attention_gate_type)",
        ),
        Refusal(
            "swa_q_lora_rank != q_lora_rank", "queries of sliding layers have another rank (swa_q_lora_rank)"
        ),
        Refusal("swa_qk_rope_head_dim != rot", "sliding layers turn another number of dimensions"),
    ),
    rope_theta=80_000_000.0,
    rope_theta_sliding=50_000.0,
    vocabulary=rules.DOTS3,
)
