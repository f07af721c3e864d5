"""The tables of Nemotron-H and Nemotron 3. A layer is a Mamba 2 mixer, attention, or a feed-forward part."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, NORMS, flagged
from srd_rs.families.tables.mamba import MAMBA_2, inside
from srd_rs.families.tables.skeletons import NO_BIASES

_PROJECTIONS: Final = (*flagged(ATTENTION, "bias?"), "mlp.up_proj > ffn_up | f d | bias?")

NEMOTRON: Final = FamilyTable(
    arch="nemotron",
    classes=("NemotronForCausalLM",),
    defaults={
        **NO_BIASES,
        "vocab_size": 256000,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 32,
        "num_attention_heads": 48,
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    },
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | bias plus_one"),
    # Layer norms are stored minus one, and the feed-forward part has no gate.
    layer=(
        Rows((*flagged(NORMS, "bias plus_one"), *_PROJECTIONS, "mlp.down_proj > ffn_down | d f | bias?")),
    ),
    head_dim="head_dim",
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "f32 ~attention.layer_norm_epsilon = norm_eps",
        "u32 ~rope.dimension_count = int(rope_fraction * n_embd) // n_head",
        "str ~rope.scaling.type = 'none' if rope['rope_type'] in ['default', 'dynamic'] else None",
    ),
    output_needed=True,
    square_output=True,
)

_LATENT: Final = "moe_latent_size != None"

_EXPERTS: Final = {"num_experts_per_tok": 2, "norm_topk_prob": True, "routed_scaling_factor": 1.0}

NEMOTRON_H_MOE: Final = FamilyTable(
    arch="nemotron_h_moe",
    classes=(),
    defaults={
        **NO_BIASES,
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 21504,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "ssm_state_size": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "n_groups": 8,
        "tie_word_embeddings": False,
        **_EXPERTS,
    },
    sizes={
        "head_size": "first(config['head_dim'], attention_head_dim, 128)",
        "kinds_of": "[hybrid_override_pattern[n] for n in layers] if hybrid_override_pattern else layers_block_type",
        "i": "mamba_num_heads * mamba_head_dim",
        "st": "ssm_state_size",
        "ck": "conv_kernel",
        "nh": "mamba_num_heads",
        "g": "n_groups",
        "x": "moe_intermediate_size",
        "s": "moe_shared_expert_intermediate_size",
        "l": "first(moe_latent_size, d)",
        "qw": "n_head * head_size",
        "kind": "'next' if layer >= n_layer else hybrid_override_pattern[layer] if hybrid_override_pattern"
        " else layers_block_type[layer]",
        "mamba": "kind in ['M', 'mamba', 'linear_attention']",
        "attention": "kind in ['*', 'attention', 'full_attention', 'next']",
        "mlp": "kind in ['-', 'mlp']",
        "moe": "kind in ['E', 'moe', 'next']",
    },
    top=("backbone.embeddings > token_embd | v d", "backbone.norm_f > output_norm | d"),
    layer_prefix="backbone.layers",
    embedding="backbone.embeddings.weight",
    layer=(
        Rows(("norm > attn_norm | d",)),
        Rows(inside("mixer", MAMBA_2), when="mamba"),
        Rows(
            (
                "mixer.q_proj > attn_q | qw d | bias? permute_q",
                "mixer.k_proj > attn_k | n_head_kv*head_size d | bias? permute_k",
                "mixer.v_proj > attn_v | n_head_kv*head_size d | bias?",
                "mixer.o_proj > attn_output | d qw | bias?",
            ),
            when="attention",
        ),
        Rows(
            ("mixer.up_proj > ffn_up | f d | bias?", "mixer.down_proj > ffn_down | d f | bias?"), when="mlp"
        ),
        Rows(
            (
                "mixer.gate > ffn_gate_inp | e d",
                "mixer.gate.e_score_correction_bias! > exp_probs_b=.bias | e",
                "mixer.shared_experts.up_proj > ffn_up_shexp | s d",
                "mixer.shared_experts.down_proj > ffn_down_shexp | d s",
            ),
            when="moe",
        ),
        Rows(
            (
                "mixer.fc1_latent_proj > ffn_latent_down | l d",
                "mixer.fc2_latent_proj > ffn_latent_up | d l",
            ),
            when=f"moe and {_LATENT}",
        ),
        Rows(
            (
                "eh_proj > nextn.eh_proj | d 2*d",
                "enorm > nextn.enorm | d",
                "hnorm > nextn.hnorm | d",
                "shared_head.norm > nextn.shared_head_norm | d",
                "post_attention_layernorm > post_attention_norm | d",
            ),
            when="layer >= n_layer",
        ),
    ),
    mtp=Mtp(
        "num_nextn_predict_layers",
        "mtp.layers",
        {
            "mtp.layers.1.norm.": "post_attention_layernorm.",
            "mtp.layers.1.final_layernorm.": "shared_head.norm.",
            "mtp.layers.0.": "",
            "mtp.layers.1.": "",
        },
    ),
    experts=StackedExperts(
        "mixer.experts",
        "num_experts",
        "num_experts_per_tok",
        ("down_proj ffn_down_exps l x", "up_proj ffn_up_exps x l"),
        when="moe",
    ),
    n_layer="len(layers_block_type) if layers_block_type else len(hybrid_override_pattern)"
    " if hybrid_override_pattern else num_hidden_layers",
    n_head_kv="num_key_value_heads if attention else 0",
    n_ff="intermediate_size if mlp else x if moe else 0",
    head_dim="head_size",
    metadata=(
        "u32 ~context_length = 1048576",
        "u32 ~vocab_size = n_vocab",
        "u32 ~rope.dimension_count = n_embd // n_head",
        "f32 ~attention.layer_norm_rms_epsilon = layer_norm_epsilon if rms_norm_eps != None else None",
        "u32 ~ssm.conv_kernel = ck",
        "u32 ~ssm.state_size = st",
        "u32 ~ssm.group_count = g",
        "u32 ~ssm.inner_size = i",
        "u32 ~ssm.time_step_rank = nh",
        "bool ~rope.scaling.finetuned = 0 == 1",
        "u32 ~expert_feed_forward_length = x",
        "u32 ~expert_shared_feed_forward_length = s",
        "u32 ~expert_shared_count = n_shared_experts",
        "bool ~expert_weights_norm = norm_topk_prob",
        "f32 ~expert_weights_scale = routed_scaling_factor",
        "u32 ~moe_latent_size = moe_latent_size",
    ),
    renames=((r"^model\.layers\.", "backbone.layers."),),
    refusals=(
        Refusal("first(mamba_hidden_act, 'silu') != 'silu'", "the activation of the mixers is not silu"),
        Refusal(
            "first(time_step_min, 0.001) > 0.001",
            "the steps of time have a least value (time_step_min), but llama.cpp has none, so its answers are not those"
            " of the model",
            warns=True,
        ),
        Refusal(
            "first(mlp_hidden_act, 'relu2') != 'relu2'",
            "the activation of the feed-forward parts and of the experts is not relu2 (mlp_hidden_act)",
        ),
        Refusal(
            "count(kinds_of, 'M') + count(kinds_of, 'mamba') + count(kinds_of, 'linear_attention') == 0"
            " or count(kinds_of, '*') + count(kinds_of, 'attention') + count(kinds_of, 'full_attention') == 0",
            "not both Mamba and attention are there (hybrid_override_pattern, layers_block_type)",
        ),
        Refusal(
            "count(kinds_of, '-') + count(kinds_of, 'mlp') > 0 and n_expert > 0",
            "feed-forward parts without experts stand beside layers with experts",
        ),
    ),
    rope_theta=None,
)

NEMOTRON_H: Final = replace(
    NEMOTRON_H_MOE,
    arch="nemotron_h",
    classes=("NemotronHForCausalLM",),
    defaults={key: value for key, value in NEMOTRON_H_MOE.defaults.items() if key not in _EXPERTS},
    variants=(("count(kinds_of, 'E') + count(kinds_of, 'moe') > 0", NEMOTRON_H_MOE),),
    experts=None,
    mtp=None,
)

NEMOTRON_PUZZLE: Final = replace(
    NEMOTRON_H_MOE,
    classes=("NemotronHPuzzleForCausalLM",),
    sizes={
        **NEMOTRON_H_MOE.sizes,
        "x": "block_configs[layer]['moe_intermediate_size']",
        "kind": "block_configs[layer]['block_type']",
        "kinds_of": "[block_configs[n]['block_type'] for n in layers]",
    },
    n_layer="len(block_configs)",
    n_ff="intermediate_size if mlp else first(x, 0)",
    metadata=(
        *(line for line in NEMOTRON_H_MOE.metadata if "expert_feed_forward_length" not in line),
        "i32s ~expert_used_count = first(block_configs[layer]['num_experts_per_tok'], 0)",
        "i32s ~expert_feed_forward_length = first(x, 0)",
    ),
    renames=((r"^model\.", "backbone."),),
    mtp=None,
)
