"""The tables of the models of Tencent Hunyuan."""

from __future__ import annotations

from typing import Final

from srd_rs.families.names import MTP
from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    BIASED_QKV,
    GATED_EXPERTS,
    GATED_FFN,
    HEAD_NORMS,
    NEXTN,
    NORMS,
    NOT_LEADING,
    TIED_HEAD,
    leading_dense,
)
from srd_rs.families.tables.deepseek import (
    DEEPSEEK2,
    INDEXER,
    INDEXER_METADATA,
    MLA_METADATA,
    MLA_SIZES,
    MOE_METADATA,
    MOE_SIZES,
)
from srd_rs.families.tables.skeletons import NO_BIASES
from srd_rs.vocab import rules

_ATTENTION: Final = (
    *NORMS,
    *BIASED_QKV,
    "self_attn.query_layernorm > attn_q_norm | h",
    "self_attn.key_layernorm > attn_k_norm | h",
)
_DYNAMIC: Final = (
    "rope['rope_type'] == 'dynamic' and rope['mrope_section'] == None and first(rope['alpha'], 0) != 0"
)
"""Without alpha, dynamic RoPE changes nothing within the trained context, as in other models."""


def _rope() -> tuple[str, ...]:
    """Return the lines of RoPE whose base grows with a factor alpha. The files state a context of 32768 tokens, and
    the models were made for 262144."""

    def when(value: str) -> str:
        return f"{value} if {_DYNAMIC} else None"

    base = "rope['rope_theta'] * pow(rope['alpha'], h / (h - 2))"
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
        **NO_BIASES,
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
    metadata=_rope(),
    vocabulary=rules.HUNYUAN_DENSE,
    skip=TIED_HEAD,
    refusals=(_CONTEXT, Refusal("use_cla", "layers share keys and values (use_cla)")),
)

_XDROPE: Final = "first(rope['xdrope_section'], rope['mrope_section'])"

HUNYUAN_VL: Final = FamilyTable(
    arch="hunyuan_vl",
    classes=("HunYuanVLForConditionalGeneration",),
    defaults={**HUNYUAN_DENSE.defaults, "tie_word_embeddings": True},
    spellings=HUNYUAN_DENSE.spellings,
    sizes={"sections": _XDROPE},
    layer=HUNYUAN_DENSE.layer,
    vocabulary=HUNYUAN_DENSE.vocabulary,
    skip=TIED_HEAD,
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
    vocabulary=rules.HUNYUAN_MOE,
    skip=TIED_HEAD,
    metadata=(
        *_rope(),
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

_FULL: Final = (
    "(indexer_types[{0}] == 'full' if indexer_types != None"
    " else layer_types != None and layer_types[{0}] in ['sparse_attention', 'deepseek_sparse_attention'])"
)
"""A shared layer takes the tokens that the indexer of the last full layer chose."""
_INDEXED: Final = (
    "(indexer_types != None or layer_types != None and"
    " count(layer_types, 'sparse_attention') + count(layer_types, 'deepseek_sparse_attention') > 0)"
)
_CONNECTIONS: Final = tuple(
    f"hc_{source}_layer.hc_pre.hc_{name}! > hc_{target}_{name} | {sizes}"
    for source, target in (("attn", "attn"), ("mlp", "ffn"))
    for name, sizes in (
        ("base", "2*hc_mult"),
        ("fn", "2*hc_mult hc_mult*d | f32"),
        ("scale", "2"),
    )
)

HY_V4: Final = FamilyTable(
    arch="hy_v4",
    classes=("HYV4ForCausalLM",),
    defaults={
        **DEEPSEEK2.defaults,
        "vocab_size": 120832,
        "hidden_size": 2816,
        "intermediate_size": 6912,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 34,
        "num_attention_heads": 32,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "routed_scaling_factor": 2.827,
        "norm_topk_prob": True,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "index_topk": 2048,
        "index_head_dim": 128,
        "index_n_heads": 16,
        "hc_mult": 4,
        "hc_magnitude": 2.0,
        "hc_eps": 1e-6,
        "swiglu_limit": 10.0,
    },
    sizes={
        **MLA_SIZES,
        **MOE_SIZES,
        "dense": leading_dense(1),
        "grouped": "first(n_group, 1) != 1 or first(topk_group, 1) != 1",
    },
    layer=(
        *DEEPSEEK2.layer,
        Rows(
            (
                "self_attn.learnable_sink_param! > attn_sinks | n_head",
                "self_attn.linear_gate > attn_gate | n_head*vd d",
                *_CONNECTIONS,
            )
        ),
        Rows(INDEXER, _FULL.format("layer")),
    ),
    top=(
        *DEEPSEEK2.top,
        "model.hc_head.hc_head_base! > output_hc_base | hc_mult",
        "model.hc_head.hc_head_fn! > output_hc_fn | hc_mult hc_mult*d | f32",
        "model.hc_head.hc_head_scale! > output_hc_scale | 1",
        Rows(("lm_head > output | v d | f32",), "enable_lm_head_fp32 == 1"),
        Rows(("lm_head > output | v d",), "enable_lm_head_fp32 != 1"),
    ),
    output=None,
    experts=DEEPSEEK2.experts,
    n_head_kv="1",
    metadata=(
        *MLA_METADATA,
        *MOE_METADATA,
        "u32 ~expert_group_count = n_group if grouped else None",
        "u32 ~expert_group_used_count = topk_group if grouped else None",
        "u32 ~expert_gating_func = 2",
        "f32s ~swiglu_clamp_exp = fill(float(swiglu_limit), n_layer) if swiglu_limit > 0 else None",
        "u32 ~hyper_connection.count = hc_mult",
        "f32 ~hyper_connection.epsilon = hc_eps",
        "f32 ~hyper_connection.magnitude = hc_magnitude",
        *(f"{line} if {_INDEXED} else None" for line in INDEXER_METADATA),
        f"bools ~attention.indexer.types = [{_FULL.format('i')} for i in layers] if {_INDEXED} else None",
    ),
    without=("~expert_group_count", "~expert_group_used_count"),
    skip=((r"^model\.mtp_layers\.", MTP),),
    refusals=(
        *DEEPSEEK2.refusals,
        NOT_LEADING,
        Refusal(
            "indexer_types != None and indexer_types[0] != 'full'",
            "the first layer has no indexer whose choice it could share (indexer_types)",
        ),
        Refusal("tie_word_embeddings", "the output matrix is the embedding (tie_word_embeddings)"),
    ),
)
