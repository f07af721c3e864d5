"""The tables of the models of Tencent Hunyuan."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_EXPERTS,
    GATED_FFN,
    HEAD_NORMS,
    NEXTN,
    NORMS,
    NOT_LEADING,
    flagged,
    leading_dense,
)

_ATTENTION: Final = (
    *NORMS,
    *flagged(ATTENTION, "bias?"),
    "self_attn.query_layernorm > attn_q_norm | h",
    "self_attn.key_layernorm > attn_k_norm | h",
)
_DYNAMIC: Final = "rope['rope_type'] == 'dynamic' and rope['mrope_section'] == None"


def _rope(alpha: int) -> tuple[str, ...]:
    """Return the lines of RoPE whose base grows with a factor alpha. The files state a context of 32768 tokens, and
    the models were made for 262144."""

    def when(value: str) -> str:
        return f"{value} if {_DYNAMIC} else None"

    base = f"rope['rope_theta'] * pow(first(rope['alpha'], {alpha}), h / (h - 2))"
    return (
        f"f32 ~rope.freq_base = {when(base)}",
        f"str ~rope.scaling.type = {when(repr('none'))}",
        f"f32 ~rope.scaling.factor = {when('1.0')}",
        f"u32 ~rope.scaling.original_context_length = {when('262144')}",
        f"u32 ~context_length = {when('262144')}",
    )


_CONTEXT: Final = Refusal(
    f"{_DYNAMIC} and (rope['rope_theta'] != 10000 or not (max_position_embeddings in [32768, 262144]))",
    "the base or the context of its dynamic RoPE is unknown",
    "Write rope_theta 10000 and max_position_embeddings 262144 if they are right",
)

HUNYUAN_DENSE: Final = FamilyTable(
    arch="hunyuan-dense",
    classes=("HunYuanDenseV1ForCausalLM",),
    defaults={
        "vocab_size": 290943,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    spellings={"head_dim": ("attention_head_dim",)},
    layer=(Rows((*_ATTENTION, *GATED_FFN)),),
    metadata=_rope(50),
    refusals=(_CONTEXT, Refusal("use_cla", "layers share keys and values (use_cla)")),
)

_XDROPE: Final = "first(rope['xdrope_section'], rope['mrope_section'])"

HUNYUAN_VL: Final = FamilyTable(
    arch="hunyuan_vl",
    classes=("HunYuanVLForConditionalGeneration",),
    defaults=HUNYUAN_DENSE.defaults,
    spellings=HUNYUAN_DENSE.spellings,
    sizes={"sections": _XDROPE},
    layer=HUNYUAN_DENSE.layer,
    metadata=(
        "f32 ~rope.scaling.alpha = rope['alpha']",
        "str ~rope.scaling.type = 'none'",
        "f32 ~rope.scaling.factor = first(rope['factor'], 1.0)",
        "u32 ~rope.scaling.original_context_length = max_position_embeddings",
        "i32s ~rope.dimension_sections = sections",
    ),
    refusals=(
        Refusal("sections == None", "RoPE has no sections (xdrope_section)", "Add them to rope_scaling"),
    ),
)

HUNYUAN_MOE: Final = FamilyTable(
    arch="hunyuan-moe",
    classes=("HunYuanMoEV1ForCausalLM",),
    defaults={**HUNYUAN_DENSE.defaults, "vocab_size": 290943},
    sizes={
        "x": "first(moe_intermediate_size[0] if is_list(moe_intermediate_size) else moe_intermediate_size, n_ff)",
        "topk": "moe_topk[0] if is_list(moe_topk) else moe_topk",
        "shared": "num_shared_expert[0] if is_list(num_shared_expert) else num_shared_expert",
    },
    layer=(
        Rows(
            (
                *_ATTENTION,
                "mlp.gate.wg > ffn_gate_inp | e d",
                "mlp.shared_mlp.gate_proj > ffn_gate_shexp | shared*f d",
                "mlp.shared_mlp.up_proj > ffn_up_shexp | shared*f d",
                "mlp.shared_mlp.down_proj > ffn_down_shexp | d shared*f",
            )
        ),
    ),
    experts=StackedExperts("mlp.experts", "num_experts", "topk", GATED_EXPERTS),
    metadata=(
        *_rope(1000),
        "u32 ~expert_shared_feed_forward_length = n_ff",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_count = shared",
    ),
    refusals=(
        _CONTEXT,
        Refusal("use_cla", "layers share keys and values (use_cla)"),
        Refusal(
            "is_list(moe_intermediate_size) and moe_intermediate_size[layer] != x"
            " or is_list(moe_topk) and moe_topk[layer] != topk"
            " or is_list(num_shared_expert) and num_shared_expert[layer] != shared",
            "layers differ in their experts (moe_intermediate_size, moe_topk, num_shared_expert)",
            per_layer=True,
        ),
    ),
)

HY_V3: Final = FamilyTable(
    arch="hy_v3",
    classes=("HYV3ForCausalLM",),
    defaults={
        "vocab_size": 120832,
        "hidden_size": 4096,
        "intermediate_size": 13312,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts": 192,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "router_scaling_factor": 2.826,
        "tie_word_embeddings": False,
    },
    sizes={
        "dense": leading_dense(1),
        "x": "moe_intermediate_size",
        "shared": "first(num_shared_experts, 1)",
    },
    layer=(
        Rows((*NORMS, *ATTENTION, *HEAD_NORMS)),
        Rows(GATED_FFN, "layer < dense"),
        Rows(
            (
                "mlp.router.gate > ffn_gate_inp | e d",
                "mlp.expert_bias! > exp_probs_b= | e",
                "mlp.shared_mlp.gate_proj > ffn_gate_shexp | shared*x d",
                "mlp.shared_mlp.up_proj > ffn_up_shexp | shared*x d",
                "mlp.shared_mlp.down_proj > ffn_down_shexp | d shared*x",
            ),
            "layer >= dense",
        ),
        Rows(
            (*NEXTN[:4], "final_layernorm > nextn.shared_head_norm | d"),
            "layer >= n_layer",
        ),
    ),
    experts=StackedExperts(
        "mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS, "layer >= dense"
    ),
    mtp=Mtp("num_nextn_predict_layers"),
    metadata=(
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_feed_forward_length = x * shared",
        "bool ~expert_weights_norm = first(route_norm, 1) == 1",
        "f32 ~expert_weights_scale = first(router_scaling_factor, 1.0)",
        "u32 ~expert_gating_func = 2",
    ),
    refusals=(
        NOT_LEADING,
        Refusal("dense != 1", "not exactly the first layer has no experts (first_k_dense_replace)"),
    ),
    rope_theta=11_158_840.0,
)
