"""The tables of the EXAONE models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, GATED_FFN, HEAD_NORMS

_WINDOWS: Final = Refusal(
    "(window != None) != (n_layer == 64)",
    "llama.cpp has a sliding window in EXAONE 4 with 64 layers, and in no other, so its answers are not those of the"
    " model",
    warns=True,
)
_DEFAULTS: Final = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
EXAONE4: Final = FamilyTable(
    arch="exaone4",
    classes=("Exaone4ForCausalLM",),
    defaults={**_DEFAULTS, "sliding_window_pattern": 4},
    sizes={
        # A window that is null in the file is meant, not one that is left out.
        "window": "None if states('sliding_window') and sliding_window == None else first(sliding_window, 4096)",
        "pattern": "sliding_window_pattern",
        "sliding": "layer_types[layer] == 'sliding_attention' if layer_types != None"
        " else pattern[layer % len(pattern)] == 'L' if is_text(pattern) else (layer + 1) % pattern != 0",
    },
    layer=(
        Rows(
            (
                *ATTENTION,
                *HEAD_NORMS,
                "post_attention_layernorm > post_attention_norm | d",
                "post_feedforward_layernorm > post_ffw_norm | d",
                *GATED_FFN,
            )
        ),
    ),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.sliding_window = window",
        "bools ~attention.sliding_window_pattern = None if window == None else sliding",
    ),
    llama3_rope=True,
    refusals=(
        Refusal(
            "layer_types != None and len(first(layer_types, [])) != n_layer",
            "layer_types has not one entry for each layer",
            "Correct config.json",
        ),
        _WINDOWS,
    ),
    square_output=True,
)

EXAONE: Final = FamilyTable(
    arch="exaone",
    classes=("ExaoneForCausalLM",),
    defaults={
        "vocab_size": 102400,
        "hidden_size": 2048,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "silu",
    },
    n_ff="first(intermediate_size, 4 * d)",
    layer_prefix="transformer.h",
    embedding="transformer.wte.weight",
    top=("transformer.wte > token_embd | v d", "transformer.ln_f > output_norm | d"),
    layer=(
        Rows(
            (
                "ln_1 > attn_norm | d",
                "attn.attention.q_proj > attn_q | q d",
                "attn.attention.k_proj > attn_k | k d",
                "attn.attention.v_proj > attn_v | k d",
                "attn.attention.out_proj > attn_output | d q",
                "ln_2 > ffn_norm | d",
                "mlp.c_fc_0 > ffn_gate | f d",
                "mlp.c_fc_1 > ffn_up | f d",
                "mlp.c_proj > ffn_down | d f",
            )
        ),
    ),
    metadata=(
        "u32 ~rope.dimension_count = int(rope_fraction * (hidden_size // n_head))",
        "u32 ~attention.head_count_kv = num_key_value_heads",
        # The norms are RMS norms, whatever config.json calls their epsilon, and llama.cpp asks for it by this name.
        "f32 ~attention.layer_norm_rms_epsilon = first(layer_norm_epsilon, rms_norm_eps)",
    ),
    without=("~attention.head_count_kv",),
    llama3_rope=True,
    refusals=(Refusal("activation_function != 'silu'", "the activation is not silu"),),
)

EXAONE4_5: Final = FamilyTable(
    arch="exaone4",
    classes=("Exaone4_5_ForConditionalGeneration",),
    defaults=_DEFAULTS,
    sizes={
        "period": "4 if is_text(sliding_window_pattern) else first(sliding_window_pattern, 4)",
        "window": "sliding_window",
    },
    layer=(
        Rows(
            (
                *ATTENTION,
                *HEAD_NORMS,
                "post_attention_layernorm > post_attention_norm | d",
                "post_feedforward_layernorm > post_ffw_norm | d",
                *GATED_FFN,
            )
        ),
        Rows(
            (
                "eh_proj > nextn.eh_proj | d 2*d",
                "enorm > nextn.enorm | d",
                "hnorm > nextn.hnorm | d",
                "shared_head.norm > nextn.shared_head_norm | d",
            ),
            "layer >= n_layer",
        ),
    ),
    mtp=Mtp(
        "num_nextn_predict_layers",
        "mtp.layers",
        {
            "mtp.fc.": "eh_proj.",
            "mtp.pre_fc_norm_embedding.": "enorm.",
            "mtp.pre_fc_norm_hidden.": "hnorm.",
            "mtp.norm.": "shared_head.norm.",
        },
    ),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = None if sliding_window == None"
        " else [kind == 'sliding_attention' for kind in layer_types] if layer_types != None"
        " else [(i + 1) % period != 0 for i in layers]",
    ),
    llama3_rope=True,
    refusals=(
        Refusal(
            "is_text(sliding_window_pattern) and sliding_window_pattern != 'LLLG'",
            "sliding_window_pattern is a text other than LLLG",
        ),
        Refusal(
            "first(num_nextn_predict_layers, 0) > 1",
            "several blocks predict further tokens and share weights",
        ),
        _WINDOWS,
    ),
    square_output=True,
)
