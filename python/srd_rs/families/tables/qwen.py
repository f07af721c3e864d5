"""The tables of the Qwen models."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.schema import FamilyTable, Mtp, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import (
    ATTENTION,
    BIASED_QKV,
    GATED_EXPERTS,
    GATED_FFN,
    HEAD_NORMS,
    NORMALIZED,
    NORMS,
    NOT_NORMALIZED,
    chosen_window,
    flagged,
)
from srd_rs.families.tables.skeletons import NO_BIASES

_WINDOW: Final = chosen_window("first(max_window_layers, 28) < n_layer")
_WINDOW_OF_ALL: Final = chosen_window("True")

QWEN2: Final = FamilyTable(
    arch="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    layer=(Rows((*NORMS, *flagged(ATTENTION[:3], "bias"), ATTENTION[3], *GATED_FFN)),),
    refusals=(_WINDOW,),
    pooling=True,
    square_output=True,
)

# A reranker is a language model whose answer is one of two tokens. The rows of the two tokens are its classifier.
_RERANK: Final = "slice(0, token('yes'), 1) + slice(0, token('no'), 1)"
_RERANK_TOP: Final = (
    "model.embed_tokens > token_embd | v d",
    "model.norm > output_norm | d",
    Rows((f"model.embed_tokens > cls.output | v d | {_RERANK}",), when="tie_word_embeddings == 1"),
    Rows((f"lm_head > cls.output | v d | {_RERANK}",), when="not tie_word_embeddings == 1"),
)
_RERANK_TEXT: Final = (
    "<|im_start|>system\\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be \\"yes\\" or \\"no\\".<|im_end|>\\n'
    "<|im_start|>user\\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\\n"
    "<Query>: {query}\\n<Document>: {document}<|im_end|>\\n"
    "<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n"
)
"""The prompt that the models were trained with, as their cards give it."""
RERANK_METADATA: Final = (
    "u32 ~pooling_type = 4",
    "strs ~classifier.output_labels = ['yes', 'no']",
    "strs tokenizer.chat_templates = ['rerank']",
    f'str tokenizer.chat_template.rerank = "{_RERANK_TEXT}"',
)

_QWEN3: Final = FamilyTable(
    arch="qwen3",
    classes=(),
    defaults={**QWEN2.defaults, **NO_BIASES, "head_dim": 128},
    layer=(Rows((*NORMS, *BIASED_QKV, *HEAD_NORMS, *GATED_FFN)),),
    refusals=(_WINDOW,),
    pooling=True,
)
_QWEN3_RERANKER: Final = replace(
    _QWEN3, top=_RERANK_TOP, output=None, pooling=False, metadata=RERANK_METADATA
)
QWEN3: Final = replace(
    _QWEN3,
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    variants=(("named('qwen3-reranker')", _QWEN3_RERANKER),),
)

_DENSE_LAYERS: Final = Refusal(
    "mlp_only_layers or decoder_sparse_step != 1",
    "some layers are dense (mlp_only_layers, decoder_sparse_step)",
)

QWEN3_MOE: Final = FamilyTable(
    arch="qwen3moe",
    classes=("Qwen3MoeForCausalLM",),
    defaults={
        **NO_BIASES,
        **QWEN2.defaults,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "decoder_sparse_step": 1,
    },
    class_defaults={"Qwen3MoeForCausalLM": {"norm_topk_prob": False}},
    sizes={"x": "moe_intermediate_size"},
    layer=(Rows((*NORMS, *BIASED_QKV, *HEAD_NORMS, "mlp.gate > ffn_gate_inp | e d")),),
    experts=StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS),
    metadata=(
        "u32 ~expert_feed_forward_length = moe_intermediate_size",
        # Qwen3-Coder says 0
        "u32 ~expert_shared_feed_forward_length = shared_expert_intermediate_size",
    ),
    refusals=(_DENSE_LAYERS, NORMALIZED, _WINDOW_OF_ALL),
)

QWEN2_MOE: Final = FamilyTable(
    arch="qwen2moe",
    classes=("Qwen2MoeForCausalLM",),
    defaults={
        **QWEN2.defaults,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
        "num_experts": 60,
        "decoder_sparse_step": 1,
    },
    sizes={"x": "moe_intermediate_size", "s": "shared_expert_intermediate_size"},
    layer=(
        Rows(
            (
                *NORMS,
                *BIASED_QKV,
                "mlp.gate > ffn_gate_inp | e d",
                "mlp.shared_expert_gate > ffn_gate_inp_shexp | 1 d",
                "mlp.shared_expert.gate_proj > ffn_gate_shexp | s d",
                "mlp.shared_expert.up_proj > ffn_up_shexp | s d",
                "mlp.shared_expert.down_proj > ffn_down_shexp | d s",
            )
        ),
    ),
    experts=QWEN3_MOE.experts,
    metadata=(
        "u32 ~expert_feed_forward_length = moe_intermediate_size",
        "u32 ~expert_shared_feed_forward_length = shared_expert_intermediate_size",
    ),
    refusals=(_DENSE_LAYERS, NOT_NORMALIZED, _WINDOW_OF_ALL),
    output_needed=True,
    square_output=True,
)

QWEN: Final = FamilyTable(
    arch="qwen",
    classes=("QWenLMHeadModel",),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 8192,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": False,
    },
    top=("transformer.wte > token_embd | v d", "transformer.ln_f > output_norm | d"),
    layer_prefix="transformer.h",
    embedding="transformer.wte.weight",
    layer=(
        Rows(
            (
                "ln_1 > attn_norm | d",
                "attn.c_attn > attn_qkv | 3*q d | bias",
                "attn.c_proj > attn_output | d q",
                "ln_2 > ffn_norm | d",
                "mlp.w2 > ffn_gate | f//2 d",
                "mlp.w1 > ffn_up | f//2 d",
                "mlp.c_proj > ffn_down | d f//2",
            )
        ),
    ),
    # llama.cpp reads the epsilon under this name and refuses a file without the key.
    metadata=("f32 ~attention.layer_norm_rms_epsilon = layer_norm_epsilon",),
    without=("~attention.head_count_kv",),
    output_needed=True,
    square_output=True,
)

THINKER: Final = ((r"^thinker\.", ""),)
"""Names of models that speak: the text model is the thinker."""
DEEPSTACK: Final = (
    "u32 ~n_deepstack_layers = len(first(config['vision_config']['deepstack_visual_indexes'],"
    " [8, 16, 24] if config['vision_config'] != None else []))"
)
MOE_WIDTHS: Final = (
    "u32 ~expert_feed_forward_length = moe_intermediate_size",
    "u32 ~expert_shared_feed_forward_length = shared_expert_intermediate_size",
)
_ATTENTION_2: Final = (*flagged(ATTENTION[:3], "bias"), ATTENTION[3])
_ATTENTION_3: Final = (*BIASED_QKV, *HEAD_NORMS)

QWEN2_VL: Final = FamilyTable(
    arch="qwen2vl",
    classes=(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLModel",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5OmniModel",
    ),
    defaults={**QWEN2.defaults, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80}
    | {"num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "vocab_size": 152064},
    class_defaults={
        "Qwen2_5OmniModel": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
        }
    },
    layer=(Rows((*NORMS, *_ATTENTION_2, *GATED_FFN)),),
    renames=THINKER,
    refusals=(chosen_window("first(max_window_layers, 80) < n_layer"),),
    rope_theta=1_000_000.0,
    square_output=True,
)

_QWEN3_VL: Final = FamilyTable(
    arch="qwen3vl",
    classes=(),
    defaults={**QWEN3.defaults, "max_position_embeddings": 128000},
    class_defaults={
        "Qwen3ASRForConditionalGeneration": {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "max_position_embeddings": 65536,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": True,
        }
    },
    layer=(Rows((*NORMS, *_ATTENTION_3, *GATED_FFN)),),
    metadata=(DEEPSTACK,),
    renames=THINKER,
    rope_theta=500_000.0,
    pooling=True,
)
_QWEN3_VL_RERANKER: Final = replace(
    _QWEN3_VL, top=_RERANK_TOP, output=None, pooling=False, metadata=(DEEPSTACK, *RERANK_METADATA)
)
QWEN3_VL: Final = replace(
    _QWEN3_VL,
    classes=("Qwen3VLForConditionalGeneration", "Qwen3ASRForConditionalGeneration"),
    variants=(("named('qwen3-vl-reranker')", _QWEN3_VL_RERANKER),),
)

_FUSED: Final = "layer_has('mlp.experts.gate_up_proj')"

QWEN3_VL_MOE: Final = FamilyTable(
    arch="qwen3vlmoe",
    classes=("Qwen3VLMoeForConditionalGeneration", "Qwen3OmniMoeForConditionalGeneration"),
    defaults={**QWEN3_MOE.defaults, "intermediate_size": 5632, "num_attention_heads": 16}
    | {"num_key_value_heads": 16, "max_position_embeddings": 128000, "moe_intermediate_size": 1408}
    | {"num_experts": 60, "num_experts_per_tok": 4, "shared_expert_intermediate_size": None, "head_dim": 128},
    class_defaults={
        "Qwen3OmniMoeForConditionalGeneration": {
            "vocab_size": 3584,
            "head_dim": None,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "rope_theta": 1_000_000.0,
        }
    },
    sizes=QWEN3_MOE.sizes,
    layer=(
        Rows((*NORMS, *_ATTENTION_3, "mlp.gate > ffn_gate_inp | e d")),
        Rows(
            (
                "mlp.experts.gate_up_proj! > ffn_gate_exps | e d 2*x | cols(0, x) axes(0, 2, 1)",
                "mlp.experts.gate_up_proj! > ffn_up_exps | e d 2*x | cols(x, x) axes(0, 2, 1)",
                "mlp.experts.down_proj! > ffn_down_exps | e x d | axes(0, 2, 1)",
            ),
            when=_FUSED,
        ),
    ),
    experts=StackedExperts(
        "mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS, when=f"not {_FUSED}"
    ),
    metadata=(*MOE_WIDTHS, DEEPSTACK),
    refusals=(_DENSE_LAYERS,),
    renames=THINKER,
    rope_theta=500_000.0,
)

RND1: Final = FamilyTable(
    arch="rnd1",
    classes=("RND1",),
    defaults=QWEN3_MOE.defaults,
    sizes=QWEN3_MOE.sizes,
    layer=QWEN3_MOE.layer,
    experts=QWEN3_MOE.experts,
    metadata=(
        *MOE_WIDTHS,
        "bool ~attention.causal = 0 == 1",
        "u32 tokenizer.ggml.mask_token_id = mask_token_id",
    ),
    refusals=(_DENSE_LAYERS,),
)

# Gated delta net: most layers are recurrent. Norm weights are stored minus one, except that of the recurrent layers.

_LINEAR: Final = (
    "first(layer_types[layer] == 'linear_attention', 0) if layer < n_layer and layer_types != None"
    " else layer < n_layer and (layer + 1) % first(full_attention_interval, 4) != 0"
)
_DELTA_SIZES: Final = {
    "hk": "linear_key_head_dim",
    "hv": "linear_value_head_dim",
    "kh": "linear_num_key_heads",
    "vh": "linear_num_value_heads",
    "r": "vh // kh",
    "kw": "hk * kh",
    "vw": "hv * vh",
    "ck": "linear_conv_kernel_dim",
    "x": "moe_intermediate_size",
    "s": "shared_expert_intermediate_size",
    "linear": _LINEAR,
}
_DELTA_NORMS: Final = (
    "input_layernorm > attn_norm | d | plus_one",
    "post_attention_layernorm > post_attention_norm | d | plus_one",
)
_GATED_ATTENTION: Final = (
    "self_attn.q_proj > attn_q | 2*q d | bias?",
    *BIASED_QKV[1:],
    *flagged(HEAD_NORMS, "plus_one"),
)
_SHARED_EXPERT: Final = (
    "mlp.shared_expert.gate_proj > ffn_gate_shexp | s d",
    "mlp.shared_expert.up_proj > ffn_up_shexp | s d",
    "mlp.shared_expert.down_proj > ffn_down_shexp | d s",
    "mlp.shared_expert_gate > ffn_gate_inp_shexp | 1 d",
)
_DELTA_MOE: Final = ("mlp.gate > ffn_gate_inp | e d", *_SHARED_EXPERT)
_NEXT_TOKEN: Final = Rows(
    (
        "eh_proj > nextn.eh_proj | d 2*d",
        "enorm > nextn.enorm | d | plus_one",
        "hnorm > nextn.hnorm | d | plus_one",
        "shared_head.norm > nextn.shared_head_norm | d | plus_one",
    ),
    when="layer >= n_layer",
)
_DELTA_METADATA: Final = (
    *MOE_WIDTHS,
    "u32 ~ssm.conv_kernel = ck",
    "u32 ~ssm.state_size = hk",
    "u32 ~ssm.group_count = kh",
    "u32 ~ssm.time_step_rank = vh",
    "u32 ~ssm.inner_size = vw",
    "bools ~attention.recurrent_layers = linear",
    "u32 ~full_attention_interval = first(full_attention_interval, 4)",
    "u32 ~rope.dimension_count = int(head_dim * first(rope['partial_rotary_factor'], 0.25))",
)
_DELTA_MTP: Final = Mtp(
    "mtp_num_hidden_layers",
    "mtp.layers",
    {
        "mtp.fc.": "eh_proj.",
        "mtp.pre_fc_norm_embedding.": "enorm.",
        "mtp.pre_fc_norm_hidden.": "hnorm.",
        "mtp.norm.": "shared_head.norm.",
    },
)
_DELTA_TOP: Final = (
    "model.embed_tokens > token_embd | v d",
    "model.norm > output_norm | d | plus_one",
)
_DELTA_EPSILON: Final = Refusal(
    "first(rms_norm_eps, 0) > 1e-3",
    "queries and keys of delta attention are normalized with an epsilon of 1e-6, whatever rms_norm_eps is, but"
    " llama.cpp has one epsilon for all norms, so its answers are not those of the model",
    warns=True,
)
_DELTA_REFUSALS: Final = (
    _DELTA_EPSILON,
    Refusal("vh % kh != 0", "linear_num_value_heads is no multiple of linear_num_key_heads"),
    _DENSE_LAYERS,
)
_DELTA_DEFAULTS: Final = {
    **QWEN3.defaults,
    "head_dim": 256,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_sparse_step": 1,
}
_DELTA_MOE_DEFAULTS: Final = {
    **_DELTA_DEFAULTS,
    "hidden_size": 2048,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}

QWEN3_NEXT: Final = FamilyTable(
    arch="qwen3next",
    classes=("Qwen3NextForCausalLM",),
    defaults={**_DELTA_MOE_DEFAULTS, "intermediate_size": 5632, "num_hidden_layers": 48},
    sizes={**_DELTA_SIZES, "g": "2 * hk + 2 * r * hv"},
    top=_DELTA_TOP,
    layer=(
        Rows((*_DELTA_NORMS, *_DELTA_MOE)),
        _NEXT_TOKEN,
        Rows(_GATED_ATTENTION, when="not linear"),
        Rows(
            (
                "linear_attn.in_proj_qkvz > attn_qkv | kh*g d"
                " | reshape(kh, g, d) slice(1, 0, hk) reshape(kw, d)"
                " + reshape(kh, g, d) slice(1, hk, hk) reshape(kw, d)"
                " + reshape(kh, g, d) slice(1, 2 * hk, r * hv) reshape(vw, d)",
                "linear_attn.in_proj_qkvz > attn_gate | kh*g d"
                " | reshape(kh, g, d) slice(1, 2 * hk + r * hv, r * hv) reshape(vw, d)",
                "linear_attn.in_proj_ba > ssm_ba | 2*vh d",
                "linear_attn.conv1d > ssm_conv1d | 2*kw+vw 1 ck | squeeze",
                "linear_attn.A_log! > ssm_a= | vh | neg_exp",
                "linear_attn.dt_bias! > ssm_dt=.bias | vh",
                "linear_attn.norm > ssm_norm | hv",
                "linear_attn.out_proj > ssm_out | d vw",
            ),
            when="linear",
        ),
    ),
    experts=QWEN3_MOE.experts,
    metadata=_DELTA_METADATA,
    mtp=_DELTA_MTP,
    refusals=(*_DELTA_REFUSALS, NORMALIZED),
)

_TILED: Final = "reshape(kh, r, hv, d) axes(1, 0, 2, 3) reshape(vw, d)"
_TILED_HEADS: Final = "reshape(kh, r) axes(1, 0) reshape(vh)"
# llama.cpp repeats the key heads one after another, so the value heads of one key head do not stand together.
_DELTA: Final = Rows(
    (
        f"linear_attn.in_proj_qkv > attn_qkv | 2*kw+vw d | rows(0, 2 * kw) + rows(2 * kw, vw) {_TILED}",
        f"linear_attn.in_proj_z > attn_gate | vw d | {_TILED}",
        "linear_attn.in_proj_b > ssm_beta | vh d | reshape(kh, r, d) axes(1, 0, 2) reshape(vh, d)",
        "linear_attn.in_proj_a > ssm_alpha | vh d | reshape(kh, r, d) axes(1, 0, 2) reshape(vh, d)",
        "linear_attn.conv1d > ssm_conv1d | 2*kw+vw 1 ck | squeeze rows(0, 2 * kw)"
        " + squeeze rows(2 * kw, vw) reshape(kh, r, hv, ck) axes(1, 0, 2, 3) reshape(vw, ck)",
        f"linear_attn.A_log! > ssm_a= | vh | {_TILED_HEADS} neg_exp",
        f"linear_attn.dt_bias! > ssm_dt=.bias | vh | {_TILED_HEADS}",
        "linear_attn.norm > ssm_norm | hv",
        "linear_attn.out_proj > ssm_out | d vw | reshape(d, kh, r, hv) axes(0, 2, 1, 3) reshape(d, vw)",
    ),
    when="linear",
)
_SECTIONS: Final = (
    "i32s ~rope.dimension_sections = [11, 11, 10, 0] if rope['mrope_section'] == None else None"
)

QWEN35: Final = FamilyTable(
    arch="qwen35",
    classes=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    defaults={**_DELTA_DEFAULTS, "vocab_size": 248320, "intermediate_size": 12288, "num_key_value_heads": 4},
    sizes=_DELTA_SIZES,
    top=_DELTA_TOP,
    layer=(
        Rows((*_DELTA_NORMS, *GATED_FFN)),
        _NEXT_TOKEN,
        Rows(_GATED_ATTENTION, when="not linear"),
        _DELTA,
    ),
    metadata=(*_DELTA_METADATA, _SECTIONS),
    mtp=_DELTA_MTP,
    refusals=_DELTA_REFUSALS[:2],
)

QWEN35_MOE: Final = FamilyTable(
    arch="qwen35moe",
    classes=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    defaults={**_DELTA_MOE_DEFAULTS, "vocab_size": 248320, "num_hidden_layers": 40}
    | {"num_experts": 256, "num_experts_per_tok": 8, "intermediate_size": None},
    sizes=_DELTA_SIZES,
    top=_DELTA_TOP,
    layer=(
        Rows((*_DELTA_NORMS, *_DELTA_MOE)),
        _NEXT_TOKEN,
        Rows(_GATED_ATTENTION, when="not linear"),
        _DELTA,
    ),
    experts=QWEN3_MOE.experts,
    n_ff="intermediate_size",
    metadata=(*_DELTA_METADATA, _SECTIONS),
    mtp=_DELTA_MTP,
    refusals=_DELTA_REFUSALS,
)


# Qwen 4 has hyper-connections in place of norms, an indexer beside each full attention, and embeddings of n-grams.

_HYPER: Final = (
    ("attn_hyper_connection", "hc_attn"),
    ("mlp_hyper_connection", "hc_ffn"),
)
_NGRAMS: Final = "len(first(ple_layer_ids, [])) > 0"
_PLE: Final = "ple_embedding."

QWEN4_EXP: Final = FamilyTable(
    arch="qwen4exp",
    classes=("Qwen4ExpForConditionalGeneration", "Qwen4ExpForCausalLM"),
    defaults={
        **NO_BIASES,
        **QWEN35_MOE.defaults,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "hc_count": 4,
        "hc_lowrank": 320,
        "ple_layer_ids": [],
        "ple_conv_kernel_size": 4,
        "ngram_size": 3,
        "heads_per_ngram": 8,
        "split_ngram_parts": 512,
    },
    sizes={
        **{name: size for name, size in _DELTA_SIZES.items() if name != "linear"},
        "linear": "layer_types[layer] == 'linear_attention' if layer_types != None"
        " else (layer + 1) % first(full_attention_interval, 4) != 0",
        "w": "hc_count * d",
        "lr": "hc_lowrank",
        "ih": "indexer_head_dim",
        "iq": "indexer_n_heads * ih",
        "ngrams": _NGRAMS,
        "shard": "rows_of('ple_embedding.ngram_embedding.shard_0.weight')",
        "pd": "ple_embed_dim // (heads_per_ngram * (ngram_size - 1))",
        "eos": "eos_token_id[len(eos_token_id) - 1] if is_list(eos_token_id) else eos_token_id",
    },
    top=(
        "model.embed_tokens > token_embd | v d",
        "model.hyper_connection_mixer.hc_norm > output_hc_norm | w | plus_one",
        "model.hyper_connection_mixer.input_mix_weight_down > output_hc_down | lr w",
        "model.hyper_connection_mixer.input_mix_weight_up > output_hc_up | w lr",
        Rows(
            (
                "ple_embedding.ngram_embedding.shard_{i} > per_layer_token_embd | shard pd"
                " | parts(split_ngram_parts)",
            ),
            when="ngrams",
        ),
    ),
    layer=(
        Rows(
            tuple(
                row
                for source, target in _HYPER
                for row in (
                    f"{source}.hc_norm > {target}_norm | w | plus_one",
                    f"{source}.block_inject_weight > {target}_inject | hc_count w",
                    f"{source}.input_mix_weight_down > {target}_down | lr w",
                    f"{source}.input_mix_weight_up > {target}_up | w lr",
                )
            )
        ),
        Rows(_DELTA_MOE),
        _DELTA,
        Rows(
            (
                *_GATED_ATTENTION,
                "self_attn.indexer.index_qk_proj > indexer.q_proj | iq+ih d | rows(0, iq)",
                "self_attn.indexer.index_qk_proj > indexer.k_proj | iq+ih d | rows(iq, ih)",
                "self_attn.indexer.q_layernorm > indexer.q_norm | ih | plus_one",
                "self_attn.indexer.k_layernorm > indexer.k_norm | ih | plus_one",
            ),
            when="not linear",
        ),
        Rows(
            (
                "ple.conv1d > ple_conv1d | w 1 ple_conv_kernel_size | squeeze",
                "ple.key_proj > ple_key | w ple_embed_dim",
                "ple.value_proj > ple_value | d ple_embed_dim",
                "ple.norm_key > ple_norm_key | w | plus_one",
                "ple.norm_query > ple_norm_query | w | plus_one",
                "ple.norm_conv > ple_norm_conv | w | plus_one",
            ),
            when="(layer + 1) in ple_layer_ids",
        ),
    ),
    experts=QWEN3_MOE.experts,
    n_ff="intermediate_size",
    metadata=(
        *_DELTA_METADATA,
        _SECTIONS,
        "u32 ~hyper_connection.count = hc_count",
        "u32 ~hyper_connection.low_rank = hc_lowrank",
        "u32 ~attention.indexer.head_count = indexer_n_heads",
        "u32 ~attention.indexer.key_length = ih",
        "u32 ~attention.indexer.top_k = indexer_budget",
        "i32s ~attention.compress_ratios = 0 if linear else indexer_compress_ratio",
        "i32s ~ple.layers = [number - 1 for number in ple_layer_ids] if ngrams else None",
        "u32 ~ple.ngram_size = ngram_size if ngrams else None",
        "u32 ~ple.heads_per_ngram = heads_per_ngram if ngrams else None",
        "u32 ~ple.conv_kernel = ple_conv_kernel_size if ngrams else None",
        "u32 ~ple.eos_token_id = eos if ngrams else None",
        "u32 ~ple.image_token_id = image_token_id if ngrams else None",
        "u32 ~embedding_length_per_layer_input = pd if ngrams else None",
        "u64s ~ple.layer_multipliers = integers('ple_embedding.layer_multipliers') if ngrams else None",
        "u64s ~ple.head_offsets = integers('ple_embedding.ngram_heads_offsets') if ngrams else None",
        "u64s ~ple.head_vocab_sizes = integers('ple_embedding.ngram_heads_vocab_sizes') if ngrams else None",
    ),
    renames=((r"^model\.layers\.\d+\.ple\.ple_embedding\.", _PLE),),
    skip=(
        (
            r"\.ple_embedding\.(layer_multipliers|ngram_heads_offsets|ngram_heads_vocab_sizes)$",
            "of constants, which are written as metadata",
        ),
    ),
    refusals=(
        *_DELTA_REFUSALS[:2],
        Refusal("ngrams and eos == None", "eos_token_id is missing, at which n-grams begin anew"),
    ),
)

SPELLINGS: Final = {"KORMoForCausalLM": "Qwen2ForCausalLM", "DotsOCRForCausalLM": "Qwen2ForCausalLM"}
COMPOSITES: Final = ("Qwen2AudioForConditionalGeneration", "AudioFlamingo3ForConditionalGeneration")
MODEL_TYPES: Final = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
