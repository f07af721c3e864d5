"""The tables of PLaMo 2 and 3. Norm weights are stored minus a constant that depends on their place."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows

_NORMS: Final = (
    "pre_mixer_norm > attn_norm | d | plus_one",
    "post_mixer_norm > post_attention_norm= | d | affine(1, 1 / 5)",
    "pre_mlp_norm > ffn_norm | d | plus_one",
    "post_mlp_norm > post_ffw_norm= | d | affine(1, 1 / (5 * sqrt(5)))",
)
_FFN: Final = ("mlp.gate_up_proj > ffn_up | 2*f d", "mlp.down_proj > ffn_down | d f")
_QKV: Final = (
    "mixer.qkv_proj > attn_qkv | (n_head+2*n_head_kv)*h d",
    "mixer.o_proj > attn_output | d q",
)
_TOP: Final = ("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | plus_one")

PLAMO2: Final = FamilyTable(
    arch="plamo2",
    classes=("Plamo2ForCausalLM", "PLaMo2ForCausalLM"),
    defaults={
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "hidden_size_per_head": 128,
        "intermediate_size": 13312,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "vocab_size": 32000,
        "mamba_step": 2,
        "mamba_enabled": True,
        "mamba_d_state": 64,
        "mamba_d_conv": 4,
        "mamba_num_heads": 64,
    },
    sizes={
        "h": "hidden_size_per_head",
        "nh": "mamba_num_heads",
        "i": "nh * h",
        "st": "mamba_d_state",
        "rank": "max(64, d // 16)",
        "half": "mamba_step // 2",
        "mamba": "mamba_enabled and (layer != n_layer - 1 if n_layer <= half else layer % mamba_step != half)",
    },
    top=_TOP,
    layer_prefix="model.layers.layers",
    layer=(
        Rows((*_NORMS, *_FFN)),
        Rows(
            (
                *_QKV,
                "mixer.q_weight! > attn_q_norm | n_head h",
                "mixer.k_weight! > attn_k_norm | n_head_kv h",
            ),
            when="not mamba",
        ),
        Rows(
            (
                "mixer.in_proj > ssm_in | 2*i d",
                "mixer.conv1d > ssm_conv1d | i 1 mamba_d_conv | squeeze",
                "mixer.bcdt_proj > ssm_x | rank+2*st i",
                "mixer.dt_proj > ssm_dt | nh rank",
                "mixer.dt_bias! > ssm_dt=.bias | nh",
                "mixer.A_log! > ssm_a= | nh | neg_exp",
                "mixer.D! > ssm_d= | nh",
                "mixer.dt_norm_weight! > ssm_dt_norm= | rank",
                "mixer.B_norm_weight! > ssm_b_norm= | st",
                "mixer.C_norm_weight! > ssm_c_norm= | st",
                "mixer.out_proj > ssm_out | d i",
            ),
            when="mamba",
        ),
    ),
    n_head="0 if mamba else num_attention_heads",
    n_head_kv="0 if mamba else num_key_value_heads",
    head_dim="h",
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~ssm.state_size = st",
        "u32 ~ssm.conv_kernel = mamba_d_conv",
        "u32 ~ssm.time_step_rank = nh",
        "u32 ~ssm.inner_size = i",
        "u32 ~ssm.group_count = 0",
    ),
)

_YARN: Final = "first(rope_scaling_factor, 1) != 1 and rope['rope_type'] == 'default'"

PLAMO3: Final = FamilyTable(
    arch="plamo3",
    classes=("Plamo3ForCausalLM", "PLaMo3ForCausalLM"),
    defaults={
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 13312,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "vocab_size": 32000,
    },
    sizes={"yarn": _YARN},
    top=_TOP,
    layer_prefix="model.layers.layers",
    layer=(
        Rows(
            (
                *_NORMS,
                *_FFN,
                *_QKV,
                "mixer.q_norm > attn_q_norm | h | plus_one",
                "mixer.k_norm > attn_k_norm | h | plus_one",
            )
        ),
    ),
    metadata=(
        "str ~rope.scaling.type = 'yarn' if yarn else None",
        "f32 ~rope.scaling.factor = rope_scaling_factor if yarn else None",
        "u32 ~rope.scaling.original_context_length = initial_context_length if yarn else None",
        "f32 ~rope.scaling.yarn_beta_fast = 32.0 if yarn else None",
        "f32 ~rope.scaling.yarn_beta_slow = 1.0 if yarn else None",
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.sliding_window = first(window_size, sliding_window)",
        "u32 ~attention.sliding_window_pattern = sliding_window_pattern"
        " if first(window_size, sliding_window) != None else None",
    ),
)
