"""The table of Kimi-Linear: most layers have delta attention, the others multi-head latent attention."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows, StackedExperts
from srd_rs.families.tables.common import GATED_FFN, LATENT_NORMS, NORMS

_EXPERTS: Final = "block_sparse_moe"

KIMI_LINEAR: Final = FamilyTable(
    arch="kimi-linear",
    classes=("KimiLinearForCausalLM", "KimiLinearModel"),
    defaults={
        "vocab_size": 163840,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "first_k_dense_replace": 0,
        "num_shared_experts": 0,
        "routed_scaling_factor": 1.0,
        "moe_router_activation_func": "sigmoid",
    },
    sizes={
        "full": "layer + 1 in linear_attn_config['full_attn_layers']",
        "dense": "layer < first_k_dense_replace",
        "hd": "linear_attn_config['head_dim']",
        "nh": "linear_attn_config['num_heads']",
        "w": "nh * hd",
        "ck": "linear_attn_config['short_conv_kernel_size']",
        "qr": "first(q_lora_rank, n_lora_q)",
        "kr": "first(kv_lora_rank, n_lora_kv)",
        "nope": "qk_nope_head_dim",
        "rot": "first(qk_rope_head_dim, n_rot)",
        "vh": "first(n_embd_head_v_mla, v_head_dim)",
        "heads": "num_attention_heads",
        "x": "moe_intermediate_size",
        "s": "moe_intermediate_size * num_shared_experts",
    },
    layer=(
        Rows(NORMS),
        Rows(
            (
                *(f"self_attn.{part}_proj > attn_{part} | w d" for part in "qkv"),
                *(
                    f"self_attn.{part}_conv1d > ssm_conv1d_{part} | w 1 ck | reshape(1, w, 1, ck)"
                    for part in "qkv"
                ),
                "self_attn.A_log! > ssm_a= | 1 1 nh 1 | neg_exp",
                "self_attn.dt_bias! > ssm_dt=.bias | w",
                "self_attn.b_proj > ssm_beta | nh d",
                *(f"self_attn.{part}_a_proj > ssm_{part}_a | hd d" for part in "fg"),
                *(f"self_attn.{part}_b_proj > ssm_{part}_b | w hd" for part in "fg"),
                "self_attn.o_norm > ssm_norm | hd",
                "self_attn.o_proj > attn_output | d w",
            ),
            when="not full",
        ),
        Rows(
            (
                "self_attn.kv_a_proj_with_mqa > attn_kv_a_mqa | kr+rot d",
                "self_attn.kv_a_layernorm > attn_kv_a_norm | kr",
                "self_attn.kv_b_proj > attn_k_b | heads*(nope+vh) kr"
                " | reshape(heads, nope + vh, kr) slice(1, 0, nope) axes(0, 2, 1)",
                "self_attn.kv_b_proj > attn_v_b | heads*(nope+vh) kr"
                " | reshape(heads, nope + vh, kr) slice(1, nope, vh)",
                "self_attn.o_proj > attn_output | d heads*vh",
            ),
            when="full",
        ),
        Rows(("self_attn.q_proj > attn_q | heads*(nope+rot) d",), when="full and qr == None"),
        Rows(
            (
                "self_attn.q_a_proj > attn_q_a | qr d",
                "self_attn.q_a_layernorm > attn_q_a_norm | qr",
                "self_attn.q_b_proj > attn_q_b | heads*(nope+rot) qr",
            ),
            when="full and qr != None",
        ),
        Rows(GATED_FFN, when="dense"),
        Rows(
            (
                f"{_EXPERTS}.gate > ffn_gate_inp | e d",
                f"{_EXPERTS}.gate.e_score_correction_bias! > exp_probs_b=.bias | e",
                f"{_EXPERTS}.shared_experts.gate_proj > ffn_gate_shexp | s d",
                f"{_EXPERTS}.shared_experts.up_proj > ffn_up_shexp | s d",
                f"{_EXPERTS}.shared_experts.down_proj > ffn_down_shexp | d s",
            ),
            when="not dense",
        ),
    ),
    experts=StackedExperts(
        f"{_EXPERTS}.experts",
        "num_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps x d", "w2 ffn_down_exps d x", "w3 ffn_up_exps x d"),
        when="not dense",
    ),
    n_head_kv="1 if full else 0",
    metadata=(
        "u32 ~attention.key_length = kr + rot",
        "u32 ~vocab_size = n_vocab",
        "u32 ~ssm.conv_kernel = ck",
        "u32 ~kda.head_dim = hd",
        "u32 ~attention.q_lora_rank = qr",
        "u32 ~attention.kv_lora_rank = kr",
        "u32 ~rope.dimension_count = rot",
        "u32 ~attention.key_length_mla = first(n_embd_head_k_mla, nope + rot)",
        "u32 ~attention.value_length_mla = vh",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_count = num_shared_experts",
        "u32 ~leading_dense_block_count = first_k_dense_replace",
        "f32 ~expert_weights_scale = routed_scaling_factor",
    ),
    # transformers 5 saves layers without experts under the name of those with experts
    renames=((r"\.block_sparse_moe\.((gate|up|down)_proj)\.", r".mlp.\1."),),
    refusals=(LATENT_NORMS,),
    output_needed=True,
)
