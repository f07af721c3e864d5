"""The groups of rows that several tables share."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.names import COPY
from srd_rs.families.rope import LONG_FACTORS
from srd_rs.families.schema import Refusal

NORMS: Final = ("input_layernorm > attn_norm | d", "post_attention_layernorm > ffn_norm | d")

ATTENTION: Final = (
    "self_attn.q_proj > attn_q | q d",
    "self_attn.k_proj > attn_k | k d",
    "self_attn.v_proj > attn_v | k d",
    "self_attn.o_proj > attn_output | d q",
)

HEAD_NORMS: Final = ("self_attn.q_norm > attn_q_norm | h", "self_attn.k_norm > attn_k_norm | h")

GATED_FFN: Final = (
    "mlp.gate_proj > ffn_gate | f d",
    "mlp.up_proj > ffn_up | f d",
    "mlp.down_proj > ffn_down | d f",
)

GATED_EXPERTS: Final = (
    "down_proj ffn_down_exps d x",
    "gate_proj ffn_gate_exps x d",
    "up_proj ffn_up_exps x d",
)

SHARED_EXPERTS: Final = (
    "mlp.shared_experts.gate_proj > ffn_gate_shexp | shared*x d",
    "mlp.shared_experts.up_proj > ffn_up_shexp | shared*x d",
    "mlp.shared_experts.down_proj > ffn_down_shexp | d shared*x",
)
"""The sizes x (of one expert) and shared (their number) are those of the table."""

ROUTER_BIAS: Final = "mlp.gate.e_score_correction_bias! > exp_probs_b=.bias | e | ?"


def leading_dense(default: int) -> str:
    """Return the expression of the number of layers without experts, which come before all others."""
    return (
        "first_k_dense_replace if first_k_dense_replace != None"
        f" else count(mlp_layer_types, 'dense') if mlp_layer_types != None else {default}"
    )


NOT_LEADING: Final = Refusal(
    "mlp_layer_types != None and (mlp_layer_types[layer] == 'dense') != (layer < dense)",
    "layers without experts come behind layers with experts (mlp_layer_types)",
    per_layer=True,
)

NORMALIZED: Final = Refusal(
    "norm_topk_prob == 0",
    "the weights of the chosen experts are not normalized (norm_topk_prob), but llama.cpp always normalizes them in"
    " this architecture, so its answers are not those of the model",
    warns=True,
)
NOT_NORMALIZED: Final = Refusal(
    "norm_topk_prob == 1",
    "the weights of the chosen experts are normalized (norm_topk_prob), but llama.cpp never normalizes them in"
    " this architecture, so its answers are not those of the model",
    warns=True,
)

TIED_HEAD: Final = ((r"^(language_model\.)?(model\.)?lm_head\.", COPY, "tie_word_embeddings"),)
"""llama.cpp takes the embedding where the output matrix is a copy of it."""

FUSED_FFN: Final = ("mlp.gate_up_proj > ffn_up | 2*f d", "mlp.down_proj > ffn_down | d f")

NEXTN: Final = (
    "eh_proj > nextn.eh_proj | d 2*d",
    "embed_tokens > nextn.embed_tokens | v d | ?",
    "enorm > nextn.enorm | d",
    "hnorm > nextn.hnorm | d",
    "shared_head.head > nextn.shared_head_head | v d | ?",
    "shared_head.norm > nextn.shared_head_norm | d | ?",
)
"""What a block of multi-token prediction has beside a layer."""

LLAMA_ATTENTION: Final = (
    "self_attn.q_proj > attn_q | q d | bias? permute_q",
    "self_attn.k_proj > attn_k | k d | bias? permute_k",
    "self_attn.v_proj > attn_v | k d | bias?",
    "self_attn.o_proj > attn_output | d q | bias?",
)

OTHER_BASE: Final = "f32 ~rope.freq_base = rope['rope_theta'] if rope['rope_theta'] != 10000 else None"
"""The line of families whose usual base, 10000, is not written: readers assume it where the key is absent. The standard
key is among those that such a table leaves out."""

OTHER_PATTERN: Final = "bools ~attention.sliding_window_pattern = slides if slides != usual else None"
"""The line of families whose usual pattern of layers with a sliding window is not written, because readers know it. It
needs the sizes of `sliding`."""


LATENT_NORMS: Final = Refusal(
    "first(rms_norm_eps, 0) > 1e-5",
    "the norms of the latent vectors of attention have an epsilon of 1e-6, whatever rms_norm_eps is, but llama.cpp has"
    " one epsilon for all norms, so its answers are not those of the model",
    warns=True,
)
"""With an epsilon of up to 1e-5, as in published models, log-probabilities change by less than 0.001."""

NO_WINDOW: Final = Refusal(
    "count(slides, True) == 0 or sliding_window == 0",
    "no layer has a sliding window (layer_types, sliding_window)",
)
"""llama.cpp ends the process, or computes no numbers, in architectures that always have such layers."""


def sliding(period: int, stated: str = "sliding_window_pattern") -> dict[str, str]:
    """Return sizes: the layers that have a sliding window, by config.json and usually, where all but every
    `period`-th have one. In a model that is shorter than that, the last layer alone may lack it: such models are
    made for tests, and llama.cpp's converter writes nothing for them."""
    return {
        "slides": "[layer_types[i] == 'sliding_attention' for i in layers] if layer_types != None"
        f" else [(i + 1) % first({stated}, {period}) != 0 for i in layers]",
        "usual": f"slides if len(layers) < {period} and slides == [i + 1 != len(layers) for i in layers]"
        f" else [(i + 1) % {period} != 0 for i in layers]",
    }


def long_factors(when: str) -> tuple[str, ...]:
    """Return the lines of the factors of LongRoPE in families whose graphs read them in another way than
    `FamilyTable.longrope` says."""
    return tuple(f"{tensor} = rope['{key}'] if {when} else None" for tensor, key in LONG_FACTORS.items())


WINDOW: Final = Refusal(
    "first(sliding_window, 0) > 0 and first(use_sliding_window, 1) == 1"
    " and first(sliding_window, 0) < first(max_position_embeddings, 0)",
    "attention has a sliding window (sliding_window), but llama.cpp has none in this architecture, so its answers to"
    " texts longer than the window are not those of the model",
    warns=True,
)

TYPED_WINDOW: Final = replace(
    WINDOW,
    when="layer_types != None and count(layer_types, 'sliding_attention') > 0 and first(sliding_window, 0) > 0"
    " and first(sliding_window, 0) < first(max_position_embeddings, 0)",
)
"""The window of families that have none where config.json names no types of layers."""


def chosen_window(untyped: str) -> Refusal:
    """Return the warning about the window of families that have none where config.json says nothing. `untyped` is the
    condition under which a layer has the window where `layer_types` is missing."""
    return replace(
        WINDOW,
        when="use_sliding_window == 1 and first(sliding_window, 4096) < first(max_position_embeddings, 0)"
        f" and ({untyped} if layer_types == None else count(layer_types, 'sliding_attention') > 0)",
    )


LLAMA_METADATA: Final = ("u32 ~vocab_size = n_vocab", "u32 ~rope.dimension_count = head_dim")


def flagged(rows: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """Return the rows with one more flag each."""
    return tuple(f"{row} {flag}" if row.count("|") == 2 else f"{row} | {flag}" for row in rows)


BIASED_QKV: Final = (*flagged(ATTENTION[:3], "bias?"), ATTENTION[3])
"""Attention where queries, keys and values may have biases. Most architectures of llama.cpp do not load a bias of
`attn_output`, so such a bias is refused."""
LLAMA_BIASED_QKV: Final = (*LLAMA_ATTENTION[:3], ATTENTION[3])
