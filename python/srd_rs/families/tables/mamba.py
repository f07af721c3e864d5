"""The tables of state space models and of their hybrids with attention."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import GATED_EXPERTS

_NO_ATTENTION: Final = ("~attention.head_count_kv", "~attention.layer_norm_epsilon")
_BACKBONE: Final = ("backbone.embeddings > token_embd | v d", "backbone.norm_f > output_norm | d")
_RENAMES: Final = (
    (r"^model\.(backbone|lm_head)\.", r"\1."),
    (r"^backbone\.embedding\.", "backbone.embeddings."),
)
TIME_STEPS: Final = Refusal(
    "time_step_limit != None and time_step_limit[0] > 0",
    "the steps of time have a least value (time_step_limit)",
)
_RMS: Final = "f32 ~attention.layer_norm_rms_epsilon = first(layer_norm_epsilon, rms_norm_eps, 1e-05)"

MAMBA_1: Final = (
    "in_proj > ssm_in | 2*i d",
    "conv1d > ssm_conv1d | i 1 ck | squeeze bias",
    "x_proj > ssm_x | rank+2*st i",
    "dt_proj > ssm_dt | i rank | bias",
    "A_log! > ssm_a= | i st | neg_exp",
    "D! > ssm_d= | i",
    "out_proj > ssm_out | d i",
)
"""A mixer of Mamba 1: ``i`` is its width, ``st`` the state, ``rank`` that of the time steps, ``ck`` the kernel."""

MAMBA_2: Final = (
    "in_proj > ssm_in | 2*i+2*g*st+nh d",
    "conv1d > ssm_conv1d | i+2*g*st 1 ck | squeeze bias",
    "dt_bias! > ssm_dt=.bias | nh",
    "A_log! > ssm_a= | nh | neg_exp reshape(nh, 1)",
    "D! > ssm_d= | nh | reshape(nh, 1)",
    "norm > ssm_norm | i | reshape(g, i // g)",
    "out_proj > ssm_out | d i",
)
"""A mixer of Mamba 2: ``nh`` heads in ``g`` groups, the other sizes as in Mamba 1."""


def inside(name: str, rows: tuple[str, ...]) -> tuple[str, ...]:
    """Return the rows of a module with the name of the module before them."""
    return tuple(f"{name}.{row}" for row in rows)


MAMBA: Final = FamilyTable(
    arch="mamba",
    classes=("MambaForCausalLM", "MambaLMHeadModel", "FalconMambaForCausalLM"),
    defaults={"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 32},
    class_defaults={"FalconMambaForCausalLM": {"hidden_size": 4096, "num_hidden_layers": 64}},
    spellings={"hidden_size": ("d_model",)},
    sizes={
        "i": "first(intermediate_size, d_inner, 2 * d)",
        "st": "first(state_size, d_state, 16)",
        "ck": "first(conv_kernel, d_conv, 4)",
        "stated": "first(time_step_rank, dt_rank, 'auto')",
        "rank": "(d + 15) // 16 if stated == 'auto' else stated",
    },
    top=_BACKBONE,
    layer_prefix="backbone.layers",
    embedding="backbone.embeddings.weight",
    layer=(Rows(("norm > attn_norm | d", *inside("mixer", MAMBA_1))),),
    n_head="0",
    n_head_kv="0",
    n_ff="0",
    metadata=(
        "u32 ~context_length = 1048576",
        _RMS,
        "u32 ~ssm.conv_kernel = ck",
        "u32 ~ssm.inner_size = i",
        "u32 ~ssm.state_size = st",
        "u32 ~ssm.time_step_rank = rank",
        "bool ~ssm.dt_b_c_rms = model_type == 'falcon_mamba'",
    ),
    without=_NO_ATTENTION,
    renames=_RENAMES,
    refusals=(Refusal("i != 2 * d", "the inner width is not twice the width of the model"),),
    rope_theta=None,
)

MAMBA2: Final = FamilyTable(
    arch="mamba2",
    classes=("Mamba2ForCausalLM",),
    defaults={"vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64},
    spellings={"hidden_size": ("d_model",), "tie_word_embeddings": ("tie_embeddings",)},
    sizes={
        "i": "first(mamba_d_ssm, intermediate_size, d_inner, first(mamba_expand, expand, 2) * d)",
        "st": "first(state_size, d_state, 128)",
        "ck": "first(conv_kernel, d_conv, 4)",
        "nh": "i // first(mamba_d_head, config['head_dim'], headdim, 64)",
        "g": "first(n_groups, ngroups, 1)",
    },
    top=_BACKBONE,
    layer_prefix="backbone.layers",
    embedding="backbone.embeddings.weight",
    layer=(Rows(("norm > attn_norm | d", *inside("mixer", MAMBA_2))),),
    n_head="0",
    n_head_kv="0",
    n_ff="0",
    head_dim="None",
    metadata=(
        "u32 ~context_length = 1048576",
        _RMS,
        "u32 ~ssm.conv_kernel = ck",
        "u32 ~ssm.inner_size = i",
        "u32 ~ssm.state_size = st",
        "u32 ~ssm.time_step_rank = nh",
        "u32 ~ssm.group_count = g",
    ),
    without=_NO_ATTENTION,
    renames=_RENAMES,
    refusals=(
        Refusal(
            "i != first(mamba_expand, expand, 2) * d or i % first(mamba_d_head, config['head_dim'], headdim, 64) != 0",
            "the inner width is not that of the heads, or not the expanded width of the model",
        ),
        TIME_STEPS,
    ),
    rope_theta=None,
)

_JAMBA_ATTENTION: Final = (
    "layer >= attn_layer_offset and (layer - attn_layer_offset) % attn_layer_period == 0"
)

JAMBA: Final = FamilyTable(
    arch="jamba",
    classes=("JambaForCausalLM",),
    defaults={
        "vocab_size": 65536,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "attn_layer_offset": 4,
        "attn_layer_period": 8,
        "mamba_expand": 2,
        "tie_word_embeddings": False,
    },
    spellings={"hidden_size": ("mamba_d_model",)},
    sizes={
        "i": "mamba_expand * d",
        "st": "first(mamba_d_state, 16)",
        "ck": "first(mamba_d_conv, 4)",
        "rank": "(d + 15) // 16 if first(mamba_dt_rank, 'auto') == 'auto' else mamba_dt_rank",
        "attention": _JAMBA_ATTENTION,
        "moe": "layer_has('feed_forward.router.weight')",
    },
    top=("model.embed_tokens > token_embd | v d", "model.final_layernorm > output_norm | d"),
    layer=(
        Rows(("input_layernorm > attn_norm | d", "pre_ff_layernorm > ffn_norm | d")),
        Rows(
            (
                "self_attn.q_proj > attn_q | q d",
                "self_attn.k_proj > attn_k | k d",
                "self_attn.v_proj > attn_v | k d",
                "self_attn.o_proj > attn_output | d q",
            ),
            when="attention",
        ),
        Rows(
            (
                *inside("mamba", MAMBA_1),
                "mamba.dt_layernorm > ssm_dt_norm | rank",
                "mamba.b_layernorm > ssm_b_norm | st",
                "mamba.c_layernorm > ssm_c_norm | st",
            ),
            when="not attention",
        ),
        Rows(("feed_forward.router > ffn_gate_inp | e d",), when="moe"),
        *(
            Rows(
                (
                    f"{source}.gate_proj > ffn_gate | f d",
                    f"{source}.up_proj > ffn_up | f d",
                    f"{source}.down_proj > ffn_down | d f",
                ),
                when=f"not moe and {found}",
            )
            for source, found in (
                ("feed_forward", "not layer_has('feed_forward.experts.0.gate_proj.weight')"),
                ("feed_forward.experts.0", "layer_has('feed_forward.experts.0.gate_proj.weight')"),
            )
        ),
    ),
    experts=StackedExperts(
        "feed_forward.experts",
        "num_experts",
        "num_experts_per_tok",
        tuple(part.replace(" x", " f") for part in GATED_EXPERTS),
        when="moe",
    ),
    n_head_kv="num_key_value_heads if attention else 0",
    metadata=(
        "f32 ~attention.layer_norm_rms_epsilon = first(layer_norm_epsilon, rms_norm_eps)",
        "u32 ~ssm.conv_kernel = ck",
        "u32 ~ssm.inner_size = i",
        "u32 ~ssm.state_size = st",
        "u32 ~ssm.time_step_rank = rank",
    ),
    without=("~attention.layer_norm_epsilon",),
    renames=((r"\.moe\.", ".feed_forward."),),
    rope_theta=None,
    square_output=True,
)
