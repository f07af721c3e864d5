"""The tables of the models of StepFun."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, GATED_FFN, NEXTN, NORMS, flagged

_KINDS: Final = "join(first(layer_types, []), first(mtp_layer_types, []))"
_SLIDES: Final = f"pad({_KINDS}, n_block, 'full_attention')[layer] == 'sliding_attention'"
_OTHER: Final = "attention_other_setting"

STEP35: Final = FamilyTable(
    arch="step35",
    classes=("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"),
    defaults={
        "vocab_size": 128815,
        "hidden_size": 4096,
        "intermediate_size": 11264,
        "moe_intermediate_size": 1280,
        "share_expert_dim": 1280,
        "num_hidden_layers": 45,
        "num_attention_heads": 64,
        "num_attention_groups": 8,
        "head_dim": 128,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-5,
        "moe_num_experts": 288,
        "moe_top_k": 8,
        "moe_router_activation": "sigmoid",
        "tie_word_embeddings": False,
    },
    spellings={
        "num_attention_groups": ("num_key_value_heads",),
        "moe_num_experts": ("n_routed_experts", "num_experts"),
        "moe_top_k": ("num_experts_per_tok",),
    },
    n_head=f"first({_OTHER}['num_attention_heads'], num_sliding_attention_heads, num_attention_heads)"
    f" if {_SLIDES} else num_attention_heads",
    n_head_kv=f"first({_OTHER}['num_attention_groups'], num_attention_groups)"
    f" if {_SLIDES} else num_attention_groups",
    n_expert="moe_num_experts",
    n_expert_used="moe_top_k",
    sizes={
        "x": "moe_intermediate_size",
        "shared": "share_expert_dim",
        "first_mixture": "numbers(moe_layers_enum)[0] if is_text(moe_layers_enum)"
        " else count(mlp_layer_types, 'dense') if mlp_layer_types != None else 3",
        "mixture": "layer < n_layer and (layer in numbers(moe_layers_enum) if is_text(moe_layers_enum)"
        " else layer >= first_mixture)",
    },
    layer=(
        Rows(
            (
                *flagged(NORMS, "plus_one"),
                *ATTENTION,
                "self_attn.q_norm > attn_q_norm | h | plus_one ?",
                "self_attn.k_norm > attn_k_norm | h | plus_one ?",
                "self_attn.g_proj > attn_gate | n_head d | ?",
            )
        ),
        Rows(GATED_FFN, "not mixture"),
        Rows(
            (
                "moe.gate > ffn_gate_inp | e d",
                "moe.router_bias! > exp_probs_b=.bias | e | ?",
                "moe.gate_proj > ffn_gate_exps | e x d",
                "moe.up_proj > ffn_up_exps | e x d",
                "moe.down_proj > ffn_down_exps | e d x",
                "share_expert.gate_proj > ffn_gate_shexp | shared d",
                "share_expert.up_proj > ffn_up_shexp | shared d",
                "share_expert.down_proj > ffn_down_shexp | d shared",
            ),
            "mixture",
        ),
        Rows(
            (
                *NEXTN[:2],
                "enorm > nextn.enorm | d | plus_one",
                "hnorm > nextn.hnorm | d | plus_one",
                *NEXTN[4:5],
                "shared_head.norm > nextn.shared_head_norm | d | plus_one ?",
            ),
            "layer >= n_layer",
        ),
    ),
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | plus_one"),
    renames=(
        (r"\.transformer\.shared_head\.output\.", ".shared_head.head."),
        (r"\.transformer\.shared_head\.", ".shared_head."),
    ),
    mtp=Mtp("num_nextn_predict_layers"),
    metadata=(
        "u32 ~attention.sliding_window = sliding_window",
        f"bools ~attention.sliding_window_pattern = {_SLIDES}",
        "u32 ~attention.value_length = h",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_feed_forward_length = shared",
        "f32 ~expert_weights_scale = moe_router_scaling_factor",
        "bool ~expert_weights_norm = norm_expert_weight",
        "u32 ~leading_dense_block_count = first_mixture",
        "u32 ~moe_every_n_layers = first(moe_every_n_layer, 1)",
        "f32s ~swiglu_clamp_exp = None if swiglu_limits == None"
        " else [float(first(i, 0.0)) for i in pad(swiglu_limits, n_block, 0.0)]",
        "f32s ~swiglu_clamp_shexp = None if swiglu_limits_shared == None"
        " else [float(first(i, 0.0)) for i in pad(swiglu_limits_shared, n_block, 0.0)]",
    ),
    refusals=(
        Refusal(
            "partial_rotary_factors != None and partial_rotary_factors[layer]"
            f" != (1.0 if {_SLIDES} else 0.5)",
            "RoPE does not turn a half of each head of full and all of each head of sliding layers",
            per_layer=True,
        ),
        Refusal(
            "layer >= first_mixture and not mixture or mlp_layer_types != None"
            " and (mlp_layer_types[layer] == 'sparse') != mixture",
            "layers without experts come behind layers with experts (moe_layers_enum)",
            per_layer=True,
        ),
    ),
    llama3_rope="h // 2",
    output_needed=True,
)

SPELLINGS: Final = {"StepVLForConditionalGeneration": "Qwen3ForCausalLM"}
