"""The tables of Gemma 1 to 3, Gemma 3n and EmbeddingGemma. Gemma 1 to 3 store the weights of norms minus one."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import (
    ATTENTION,
    GATED_FFN,
    HEAD_NORMS,
    NO_WINDOW,
    NORMS,
    OTHER_BASE,
    OTHER_PATTERN,
    flagged,
    sliding,
)
from srd_rs.vocab.rules import GEMMA, GEMMA_LATER

_NORMS: Final = (
    "input_layernorm > attn_norm | d",
    "post_attention_layernorm > post_attention_norm | d",
    "pre_feedforward_layernorm > ffn_norm | d",
    "post_feedforward_layernorm > post_ffw_norm | d",
)
_LM_HEAD: Final = ((r"^lm_head\.", names.COPY),)

_TOP: Final = ("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | plus_one")
_OWN_HEAD: Final = Refusal(
    "tie_word_embeddings == 0 and has('lm_head.weight')",
    "tie_word_embeddings is false, but llama.cpp's Gemma has no output matrix of its own",
    "Set it to true if lm_head.weight is a copy of the embedding",
)
_NO_HEAD: Final = Refusal(
    "tie_word_embeddings == 0 and not has('lm_head.weight') and class_name != 'Gemma2Model'",
    names.NO_HEAD,
    warns=True,
)
_MAGNITUDE: Final = Refusal(
    "rope['rope_type'] == 'yarn' and (rope['attention_factor'] != None or rope['mscale'] and rope['mscale_all_dim'])",
    "YaRN has an attention_factor, or mscale and mscale_all_dim, which llama.cpp would give to the layers with a"
    " sliding window too",
)
"""The layers with a sliding window have no YaRN."""

GEMMA_1: Final = FamilyTable(
    arch="gemma",
    classes=("GemmaForCausalLM",),
    vocabulary=GEMMA,
    defaults={
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
    },
    top=_TOP,
    output=None,
    layer=(Rows((*flagged(NORMS, "plus_one"), *ATTENTION, *GATED_FFN)),),
    head_dim="head_dim",
    metadata=(OTHER_BASE,),
    without=("~rope.freq_base",),
    skip=((r"^lm_head\.", names.COPY, "not tie_word_embeddings == 0"),),
    refusals=(_OWN_HEAD, _NO_HEAD),
)


def _query_scale(largest: int) -> Refusal:
    """The warning of a scale of queries that is not the one llama.cpp knows, for the model with the most layers and for
    the others."""
    return Refusal(
        f"first(query_pre_attn_scalar, 256) * n_head != (n_embd if n_layer == {largest} else head_dim * n_head)",
        "queries are scaled by query_pre_attn_scalar, but llama.cpp scales them by head_dim, or in the 27B model by"
        " hidden_size / num_attention_heads, so its answers are not those of the model",
        warns=True,
    )


GEMMA_2: Final = replace(
    GEMMA_1,
    arch="gemma2",
    order=("~context_length", "~embedding_length"),
    classes=("Gemma2ForCausalLM",),
    vocabulary=GEMMA_LATER,
    defaults={
        **GEMMA_1.defaults,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
    },
    sizes=sliding(2, "None"),
    layer=(Rows((*flagged(_NORMS, "plus_one"), *ATTENTION, *GATED_FFN)),),
    metadata=(
        *GEMMA_1.metadata,
        OTHER_PATTERN,
        "f32 ~attn_logit_softcapping = first(attn_logit_softcapping, 50.0)",
        "f32 ~final_logit_softcapping = first(final_logit_softcapping, 30.0)",
        "u32 ~attention.sliding_window = sliding_window",
    ),
    refusals=(
        *GEMMA_1.refusals,
        NO_WINDOW,
        _query_scale(46),
        Refusal(
            "states('attn_logit_softcapping') and attn_logit_softcapping == None"
            " or states('final_logit_softcapping') and final_logit_softcapping == None",
            "a softcapping is null, but llama.cpp's Gemma 2 always caps scores and logits",
            "Set attn_logit_softcapping to 50.0 and final_logit_softcapping to 30.0 if the weights need them",
        ),
    ),
)

# bge-multilingual-gemma2, which embeds texts
GEMMA_2_MODEL: Final = replace(GEMMA_2, classes=("Gemma2Model",), pooling=True)

_SLIDING: Final = sliding(6, "sliding_window_pattern, _sliding_window_pattern")

GEMMA_3: Final = FamilyTable(
    arch="gemma3",
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    vocabulary=GEMMA_LATER,
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    },
    sizes=_SLIDING,
    top=_TOP,
    layer=(Rows((*flagged((*_NORMS, *HEAD_NORMS), "plus_one"), *ATTENTION, *GATED_FFN)),),
    tied="1",
    skip=((r"^(language_model\.)?(model\.)?lm_head\.", names.COPY, "not tie_word_embeddings == 0"),),
    metadata=(
        "f32 ~final_logit_softcapping = final_logit_softcapping",
        "u32 ~attention.sliding_window = sliding_window if count(slides, True) > 0 else None",
        "bools ~attention.sliding_window_pattern = slides if slides != usual and count(slides, True) > 0 else None",
    ),
    refusals=(
        _MAGNITUDE,
        Refusal(
            "attn_logit_softcapping != None",
            "attn_logit_softcapping is set, Gemma 3 has none",
            "Remove it if it is a mistake",
        ),
        _query_scale(62),
        Refusal(
            "use_bidirectional_attention == 1",
            "each token sees the later ones (use_bidirectional_attention), but llama.cpp's Gemma 3 is causal",
            "A model that embeds texts has the class Gemma3TextModel",
        ),
    ),
    rope_theta=1_000_000.0,
    rope_theta_sliding=10_000.0,
)

_NO_KEYS: Final = (
    "self_attn.q_proj > attn_k | q d | pad_rows(q + k) rows(q, k)",
    "self_attn.q_proj > attn_v | q d | pad_rows(q + k) rows(q, k)",
    "self_attn.q_norm > attn_k_norm | h | pad_rows(2 * h) rows(h, h)",
)
"""Zeros for the layers that attend with the keys and values of an earlier layer. Such a layer does not use its own, and
transformers 5 does not save them, but llama.cpp does not load a file without them."""

GEMMA3N: Final = FamilyTable(
    arch="gemma3n",
    classes=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    vocabulary=GEMMA_LATER,
    defaults={
        "vocab_size": 262400,
        "vocab_size_per_layer_input": 262144,
        "hidden_size": 2048,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": 16384,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "sliding_window": 512,
        "altup_active_idx": 0,
        "altup_num_inputs": 4,
        "num_kv_shared_layers": 15,
        "laurel_rank": 64,
    },
    sizes={
        "width": "intermediate_size[layer] if is_list(intermediate_size) else intermediate_size",
        "p": "hidden_size_per_layer_input",
        "pl": "p * n_layer",
        "a": "altup_num_inputs",
        "sliding": "layer_types[layer] == 'sliding_attention' if layer_types != None else (layer + 1) % 5 != 0",
        "keyless": "layer >= n_layer - num_kv_shared_layers and not layer_has('self_attn.k_proj.weight')",
        "sparsity": "activation_sparsity_pattern[layer] if is_list(activation_sparsity_pattern)"
        " else first(activation_sparsity_pattern, 0.95 if layer < 10 < n_layer else 0.0)",
    },
    n_ff="width + 0 * layer",
    output=None,
    top=(
        "model.embed_tokens > token_embd | v d",
        Rows(
            (
                "model.embed_tokens_per_layer > per_layer_token_embd | vocab_size_per_layer_input pl | pad_rows(v)",
            ),
            "vocab_size_per_layer_input < v",
        ),
        Rows(
            ("model.embed_tokens_per_layer > per_layer_token_embd | vocab_size_per_layer_input pl",),
            "vocab_size_per_layer_input >= v",
        ),
        "model.per_layer_model_projection > per_layer_model_proj | pl d",
        "model.per_layer_projection_norm > per_layer_proj_norm | p",
        "model.norm > output_norm | d",
        "model.altup_projections.{i} > altup_proj | d d | stack(a-1)",
        "model.altup_unembed_projections.{i} > altup_unembd_proj | d d | stack(a-1)",
    ),
    layer=(
        Rows(
            (
                *_NORMS,
                ATTENTION[0],
                ATTENTION[3],
                HEAD_NORMS[0],
                *GATED_FFN,
                "per_layer_input_gate > inp_gate | p d",
                "per_layer_projection > proj | d p",
                "post_per_layer_input_norm > post_norm | d",
                "altup.correct_output_scale! > altup_correct_scale | d",
                "altup.correction_coefs > altup_correct_coef | a a",
                "altup.modality_router > altup_router | a d",
                "altup.prediction_coefs > altup_predict_coef | a*a a",
                "altup.router_norm > altup_router_norm | d",
                "laurel.linear_left > laurel_l | laurel_rank d",
                "laurel.linear_right > laurel_r | d laurel_rank",
                "laurel.post_laurel_norm > laurel_post_norm | d",
            )
        ),
        Rows((*ATTENTION[1:3], HEAD_NORMS[1]), "not keyless"),
        Rows(_NO_KEYS, "keyless"),
    ),
    skip=(*_LM_HEAD, (r"embed_(vision|audio)\.", names.OTHER_MODALITY)),
    metadata=(
        "f32 ~final_logit_softcapping = first(final_logit_softcapping, 30.0)",
        "u32 ~attention.sliding_window = sliding_window",
        "u32 ~altup.active_idx = altup_active_idx",
        "u32 ~altup.num_inputs = altup_num_inputs",
        "u32 ~embedding_length_per_layer_input = hidden_size_per_layer_input",
        "u32 ~attention.shared_kv_layers = num_kv_shared_layers",
        "f32s ~activation_sparsity_scale = icdf(sparsity) + 0 * layer",
        "bools ~attention.sliding_window_pattern = layer >= 0 and sliding",
    ),
    rope_theta=1_000_000.0,
    rope_theta_sliding=10_000.0,
    refusals=(
        _MAGNITUDE,
        Refusal("altup_num_inputs != 4", "altup_num_inputs is not 4"),
        Refusal(
            "states('final_logit_softcapping') and final_logit_softcapping == None",
            "final_logit_softcapping is null, but llama.cpp's Gemma 3n always caps logits",
            "Set final_logit_softcapping to 30.0 if the weights need it",
        ),
    ),
)

EMBEDDING_GEMMA: Final = FamilyTable(
    arch="gemma-embedding",
    classes=("Gemma3TextModel",),
    vocabulary=GEMMA_LATER,
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    },
    sizes=_SLIDING,
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | plus_one"),
    output=None,
    layer=(Rows((*flagged(_NORMS, "plus_one"), *ATTENTION, *flagged(HEAD_NORMS, "plus_one"), *GATED_FFN)),),
    skip=_LM_HEAD,
    metadata=(
        "f32 ~final_logit_softcapping = final_logit_softcapping",
        "u32 ~attention.sliding_window = sliding_window",
        OTHER_PATTERN,
    ),
    refusals=(
        _MAGNITUDE,
        Refusal(
            "first(query_pre_attn_scalar, 256) != head_dim",
            "queries are scaled by query_pre_attn_scalar, but llama.cpp scales them by head_dim, so its answers are not"
            " those of the model",
            warns=True,
        ),
        Refusal(
            "not use_bidirectional_attention == 1",
            "tokens do not see later ones (use_bidirectional_attention), but in llama.cpp's EmbeddingGemma they do",
            "Set use_bidirectional_attention to true if the model was trained so, or name the class Gemma3ForCausalLM",
        ),
    ),
    rope_theta=1_000_000.0,
    rope_theta_sliding=10_000.0,
    pooling=True,
    symmetric_window=True,
)

OTHERS: Final = {
    "MERaLiON2ForConditionalGeneration": ("speech_encoder.", "speech_audio_adapter.", "ln_speech.")
}
"""These models hear through an encoder whose names no other model has."""
