"""The tables of the models of MiniMax."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, BIASED_QKV, GATED_FFN, NORMS, flagged

_EXPERTS: Final = StackedExperts(
    "block_sparse_moe.experts",
    "num_experts",
    "num_experts_per_tok",
    ("w1 ffn_gate_exps x d", "w2 ffn_down_exps d x", "w3 ffn_up_exps x d"),
)
_ROUTER: Final = (
    "block_sparse_moe.gate > ffn_gate_inp | e d",
    "block_sparse_moe.e_score_correction_bias! > exp_probs_b=.bias | e | ?",
)

_ROTARY: Final = (
    "int(h * rope_fraction) if rope['partial_rotary_factor'] != None or rotary_dim == None else rotary_dim"
)

MINIMAX_M2: Final = FamilyTable(
    arch="minimax-m2",
    classes=("MiniMaxM2ForCausalLM",),
    defaults={
        "vocab_size": 200064,
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "num_hidden_layers": 62,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 196608,
        "rms_norm_eps": 1e-6,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
    },
    sizes={"x": "intermediate_size", "rotary": _ROTARY},
    layer=(
        Rows(
            (
                *NORMS,
                *ATTENTION,
                "self_attn.q_norm > attn_q_norm | q",
                "self_attn.k_norm > attn_k_norm | k",
                *_ROUTER,
            )
        ),
    ),
    experts=_EXPERTS,
    metadata=("u32 ~expert_feed_forward_length = x", "u32 ~rope.dimension_count = rotary"),
    rope_theta=5_000_000.0,
    output_needed=True,
)

_SPARSE: Final = "sparse_attention_config"

MINIMAX_M3: Final = FamilyTable(
    arch="minimax-m3",
    classes=("MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration"),
    defaults={**MINIMAX_M2.defaults, "norm_topk_prob": True, "n_shared_experts": 1},
    class_defaults={
        "MiniMaxM3SparseForConditionalGeneration": {
            "hidden_size": 6144,
            "intermediate_size": 3072,
            "num_hidden_layers": 60,
            "num_attention_heads": 64,
            "num_key_value_heads": 4,
            "max_position_embeddings": 524288,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "routed_scaling_factor": 2.0,
        }
    },
    n_ff="first(dense_intermediate_size, intermediate_size)",
    sizes={
        **MINIMAX_M2.sizes,
        "shared": "n_shared_experts * first(shared_intermediate_size, x)",
        "sparse": f"{_SPARSE} != None",
        "index_heads": f"first({_SPARSE}['sparse_num_index_heads'], index_n_heads)",
        "index_dim": f"first({_SPARSE}['sparse_index_dim'], index_head_dim)",
        "mixture": "moe_layer_freq[layer] != 0 if moe_layer_freq != None"
        " else mlp_layer_types[layer] == 'sparse' if mlp_layer_types != None else 1",
    },
    layer=(
        Rows(
            (
                *flagged(NORMS, "plus_one"),
                *ATTENTION,
                "self_attn.q_norm > attn_q_norm | h | plus_one",
                "self_attn.k_norm > attn_k_norm | h | plus_one",
            )
        ),
        Rows(
            (
                "self_attn.index_q_proj > indexer.q_proj | index_heads*index_dim d | ? f32",
                "self_attn.index_k_proj > indexer.k_proj | index_dim d | ? f32",
                "self_attn.index_q_norm > indexer.q_norm | index_dim | ? f32 plus_one",
                "self_attn.index_k_norm > indexer.k_norm | index_dim | ? f32 plus_one",
            )
        ),
        Rows(GATED_FFN, "not mixture"),
        Rows(
            (
                *_ROUTER,
                "block_sparse_moe.shared_experts.gate_proj > ffn_gate_shexp | shared d",
                "block_sparse_moe.shared_experts.up_proj > ffn_up_shexp | shared d",
                "block_sparse_moe.shared_experts.down_proj > ffn_down_shexp | d shared",
            ),
            "mixture",
        ),
    ),
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | plus_one"),
    experts=replace(_EXPERTS, when="mixture"),
    metadata=(
        *MINIMAX_M2.metadata,
        "u32 ~expert_shared_count = n_shared_experts",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        "bool ~expert_weights_norm = norm_topk_prob == norm_topk_prob",
        "u32 ~attention.indexer.head_count = index_heads",
        "u32 ~attention.indexer.key_length = index_dim",
        f"u32 ~attention.indexer.top_k = first({_SPARSE}['sparse_topk_blocks'], index_topk_blocks)",
        f"u32 ~attention.indexer.block_size = first({_SPARSE}['sparse_block_size'], index_block_size)",
        f"u32 ~attention.indexer.local_blocks = first({_SPARSE}['sparse_local_block'], index_local_blocks)",
        "u32 ~leading_dense_block_count = count(moe_layer_freq, 0) if moe_layer_freq != None"
        " else count(mlp_layer_types, 'dense') if mlp_layer_types != None else 0",
    ),
    refusals=(
        Refusal(
            "layer > 0 and mixture == 0 and (moe_layer_freq[layer - 1] != 0 if moe_layer_freq != None"
            " else mlp_layer_types[layer - 1] == 'sparse' if mlp_layer_types != None else 1)",
            "layers without experts come behind layers with experts (moe_layer_freq)",
            per_layer=True,
        ),
        Refusal("use_gemma_norm == 0", "the norms are not stored minus one (use_gemma_norm)"),
    ),
    rope_theta=5_000_000.0,
    output_needed=True,
)

MINIMAX_TEXT_01: Final = FamilyTable(
    arch="minimax-01",
    classes=("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
    defaults={
        "vocab_size": 200064,
        "hidden_size": 6144,
        "intermediate_size": 9216,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 10240000,
        "rms_norm_eps": 1e-5,
        "num_experts": 32,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    },
    sizes={
        "x": "intermediate_size",
        "linear": "attn_type_list[layer] == 0",
        "alpha": "layernorm_full_attention_alpha",
    },
    layer=(
        Rows(NORMS),
        Rows(BIASED_QKV, "not linear"),
        Rows(
            (
                "self_attn.qkv_proj > attn_qkv | 3*q d",
                "self_attn.norm > attn_norm_2 | q",
                "self_attn.output_gate > attn_gate | q d",
                "self_attn.out_proj > attn_output | d q",
            ),
            "linear",
        ),
        Rows(_ROUTER[:1]),
    ),
    experts=_EXPERTS,
    metadata=(
        "f32 ~residual_scale = alpha",
        "u32 ~rope.dimension_count = first(rotary_dim, h)",
    ),
    refusals=(
        Refusal(
            "layernorm_linear_attention_alpha != alpha or layernorm_mlp_alpha != alpha",
            "residuals are scaled by different factors (layernorm_*_alpha)",
        ),
        Refusal(
            "layernorm_full_attention_beta != 1 or layernorm_linear_attention_beta != 1"
            " or layernorm_mlp_beta != 1",
            "what residuals are added to is scaled (layernorm_*_beta)",
        ),
        Refusal("first(shared_intermediate_size, 0) != 0", "there are shared experts"),
    ),
    rope_theta=10_000_000.0,
)
