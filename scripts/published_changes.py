"""What published configurations of a class have in other ways than the tiny checkpoints: data for
`scripts/compare_variants.py --changes published`.

A change is what it is called, the values that it sets (`ABSENT` leaves a key out), and the tensors that the checkpoint
has beside those of the class. The values are set where the text model is configured. Sizes are those of the tiny
checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

ABSENT: Final = object()


@dataclass(frozen=True)
class Change:
    what: str
    values: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further tensors: name -> keys of the configuration that have the sizes."""
    without: str = "(?!)"
    """A regular expression of tensors that the checkpoint lacks."""
    renames: tuple[str, str] = ("(?!)", "")
    """A regular expression of names of tensors, and what each match becomes."""
    same_tensors: bool = False
    """Whether the tensors are those of the checkpoint before the change, and not those that transformers makes."""


_THETA = {"rope_theta": 500000.0}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
_LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
}
_HEAD = {"lm_head.weight": ("vocab_size", "hidden_size")}


def scaling(**values: Any) -> dict[str, Any]:
    """Return RoPE scaling in the old spelling, beside `rope_theta`."""
    return {"rope_scaling": values or None, "rope_parameters": ABSENT, **_THETA}


def parameters(**values: Any) -> dict[str, Any]:
    """Return RoPE scaling in the spelling of transformers 5."""
    return {"rope_parameters": {**_THETA, **values}, "rope_scaling": ABSENT, "rope_theta": ABSENT}


ROPE: Final = (
    Change("scaling of null", scaling()),
    Change(
        "scaling and base absent", {"rope_scaling": ABSENT, "rope_parameters": ABSENT, "rope_theta": ABSENT}
    ),
    Change("base a whole number", {**scaling(), "rope_theta": 1000000}),
    Change("default, old", scaling(type="default", rope_type="default")),
    Change("linear, old", scaling(type="linear", factor=4)),
    Change("linear, new", parameters(rope_type="linear", factor=4.0)),
    Change("dynamic, old", scaling(type="dynamic", factor=2.0)),
    Change("dynamic, new", parameters(rope_type="dynamic", factor=2.0)),
    Change("yarn of Llama 2", scaling(type="yarn", finetuned=True, **_YARN)),
    Change("yarn of Qwen", scaling(rope_type="yarn", type="yarn", **_YARN)),
    Change("yarn without the trained context", scaling(rope_type="yarn", factor=4.0)),
    Change(
        "yarn, all values",
        scaling(rope_type="yarn", **_YARN, beta_fast=32, beta_slow=1, attention_factor=1.1),
    ),
    Change("yarn, new, nulls", parameters(rope_type="yarn", **_YARN, attention_factor=None, beta_fast=None)),
    Change("yarn, new, truncate", parameters(rope_type="yarn", **_YARN, truncate=False, beta_fast=32.0)),
    Change("yarn, mscale", parameters(rope_type="yarn", **_YARN, mscale=1.0, mscale_all_dim=1.0)),
    Change(
        "yarn, extrapolation_factor", scaling(type="yarn", **_YARN, extrapolation_factor=1.0, attn_factor=1.0)
    ),
    Change("llama3, old", scaling(rope_type="llama3", **_LLAMA3)),
    Change("llama3, new", parameters(rope_type="llama3", **_LLAMA3)),
    Change("base beside new parameters", {"rope_parameters": {"rope_type": "default"}, **_THETA}),
    Change(
        "both spellings",
        {**scaling(type="linear", factor=2.0), "rope_parameters": {**_THETA, "rope_type": "default"}},
    ),
)
"""How RoPE is scaled, in both spellings."""

HEADS: Final = (
    Change("tied", {"tie_word_embeddings": True}),
    Change("tied, with the head", {"tie_word_embeddings": True}, more=_HEAD),
    Change("untied", {"tie_word_embeddings": False}),
    Change("tie absent", {"tie_word_embeddings": ABSENT}),
    Change("heads absent", {"num_key_value_heads": ABSENT}),
    Change("heads null", {"num_key_value_heads": None}),
    Change("one head", {"num_key_value_heads": 1}),
    Change("head_dim absent", {"head_dim": ABSENT}),
    Change("head_dim null", {"head_dim": None}),
    Change("head_dim of another width", {"head_dim": 24}),
    Change("head_dim as computed", {"head_dim": 16}),
    Change("dtype", {"dtype": "float16", "torch_dtype": ABSENT}),
    Change("torch_dtype", {"torch_dtype": "float32", "dtype": ABSENT}),
    Change("attention_bias", {"attention_bias": True}),
    Change("mlp_bias", {"mlp_bias": True}),
    Change("sliding window", {"sliding_window": 128}),
    Change("sliding window null", {"sliding_window": None}),
    Change("sliding window absent", {"sliding_window": ABSENT}),
    Change("max_length beside", {"max_length": 20, "max_sequence_length": 999, "model_max_length": 4096}),
    Change("experts of null", {"num_experts": None, "num_local_experts": None, "n_routed_experts": None}),
)
"""Values of every decoder."""

GENERAL: Final = (*(replace(change, same_tensors=True) for change in ROPE), *HEADS)

OTHERS: Final[Mapping[str, tuple[Change, ...]]] = {
    "llama": (
        Change("mlp and attention bias", {"mlp_bias": True, "attention_bias": True}),
        Change(
            "bare names", {"architectures": ["LlamaModel"]}, without="^lm_head", renames=("^model\\.", "")
        ),
    ),
    "mistral": (Change("no window, heads of 32", {"sliding_window": None, "head_dim": 32}),),
    "mixtral": (
        Change("two experts", {"num_local_experts": 2}),
        Change("one expert used", {"num_experts_per_tok": 1}),
        Change("experts absent", {"num_local_experts": ABSENT, "num_experts_per_tok": ABSENT}),
    ),
    "qwen2": (
        Change("window in use", {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 1}),
        Change("window of null in use", {"use_sliding_window": True, "sliding_window": None}),
        Change("layer types", {"layer_types": ["full_attention", "full_attention"]}),
        Change(
            "1M",
            {
                "dual_chunk_attention_config": {
                    "chunk_size": 64,
                    "local_size": 8,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
    ),
    "qwen2_moe": (
        Change("normalized", {"norm_topk_prob": True}),
        Change("every second layer", {"decoder_sparse_step": 2}),
        Change("first layer dense", {"mlp_only_layers": [0]}),
        Change("no bias", {"qkv_bias": False}),
        Change("shared width absent", {"shared_expert_intermediate_size": 32}),
        Change("scaling by mrope", parameters(rope_type="default", mrope_section=[4, 2, 2])),
    ),
    "qwen3": (
        Change("window in use", {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 1}),
        Change("layer types", {"layer_types": ["full_attention", "full_attention"]}),
    ),
    "qwen3_moe": (
        Change("normalized", {"norm_topk_prob": True}),
        Change("every second layer", {"decoder_sparse_step": 2}),
        Change("first layer dense", {"mlp_only_layers": [0]}),
        Change("mlp_only_layers null", {"mlp_only_layers": None}),
        Change("shared width", {"shared_expert_intermediate_size": 32}),
        Change("experts by the old name", {"num_local_experts": ABSENT, "num_experts": 8}),
        Change("experts by both names", {"num_local_experts": 4, "num_experts": 4}),
    ),
    "qwen3_next": (
        Change(
            "layer types",
            {"layer_types": ["linear_attention", "full_attention"] * 2, "full_attention_interval": ABSENT},
        ),
        Change("rotary share absent", {"partial_rotary_factor": ABSENT}),
        Change("rotary share of a half", {"partial_rotary_factor": 0.5}),
        Change("no shared expert", {"shared_expert_intermediate_size": 0}),
        Change("dense layer", {"mlp_only_layers": [0]}),
    ),
    "qwen2_vl": (
        Change("mrope", scaling(type="mrope", mrope_section=[2, 3, 3])),
        Change("mrope, default", scaling(rope_type="default", type="default", mrope_section=[2, 3, 3])),
        Change("yarn with sections", scaling(type="yarn", mrope_section=[2, 3, 3], **_YARN)),
    ),
    "qwen3_vl": (
        Change(
            "interleaved, old", scaling(mrope_interleaved=True, mrope_section=[2, 3, 3], rope_type="default")
        ),
        Change(
            "interleaved, new",
            parameters(mrope_interleaved=True, mrope_section=[2, 3, 3], rope_type="default"),
        ),
    ),
    "gemma": (
        Change("activation null", {"hidden_activation": None}),
        Change("activation of newer files", {"hidden_activation": "gelu_pytorch_tanh"}),
        Change("head_dim 16", {"head_dim": 16}),
    ),
    "gemma2": (
        Change("no caps", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        Change(
            "old file",
            {"layer_types": ABSENT, "hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 4096},
        ),
        Change("scale of 27b", {"query_pre_attn_scalar": 144}),
        Change("scale absent", {"query_pre_attn_scalar": ABSENT}),
        Change("head_dim absent", {"head_dim": ABSENT}, same_tensors=True),
    ),
    "gemma3_text": (
        Change(
            "old file",
            {
                "layer_types": ABSENT,
                "_sliding_window_pattern": ABSENT,
                "sliding_window_pattern": 6,
                **scaling(),
                "rope_local_base_freq": 10000.0,
            },
        ),
        Change(
            "old file of 4b",
            {
                **scaling(rope_type="linear", factor=8.0),
                "rope_theta": 1000000.0,
                "rope_local_base_freq": 10000.0,
            },
        ),
        Change(
            "pattern of 2",
            {"layer_types": ABSENT, "sliding_window_pattern": 2, "_sliding_window_pattern": ABSENT},
        ),
        Change(
            "pattern of 1",
            {"layer_types": ABSENT, "sliding_window_pattern": 1, "_sliding_window_pattern": ABSENT},
        ),
        Change("layer types of another pattern", {"layer_types": ["sliding_attention", "full_attention"]}),
        Change("both ways", {"use_bidirectional_attention": True}),
        Change("caps", {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}),
        Change("scale of 27b", {"query_pre_attn_scalar": 168}),
        Change(
            "linear per type",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                }
            },
        ),
        Change(
            "yarn per type",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "yarn", "rope_theta": 1000000.0, **_YARN},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                }
            },
        ),
        Change(
            "model of sentences",
            {"architectures": ["Gemma3TextModel"], "use_bidirectional_attention": True},
            without="^lm_head",
        ),
    ),
    "phi": (
        Change("rotary share absent", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        Change(
            "rotary share, old",
            {"rope_parameters": ABSENT, "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        ),
        Change("norms of queries and keys", {"qk_layernorm": True}),
    ),
    "phi3": (
        Change("medium", {**scaling(), "sliding_window": 2047}),
        Change(
            "phi-4",
            {
                **scaling(),
                "sliding_window": None,
                "partial_rotary_factor": 1.0,
                "original_max_position_embeddings": 256,
            },
        ),
        Change(
            "long",
            {
                **scaling(type="longrope", long_factor=[2.0] * 8, short_factor=[1.0] * 8),
                "partial_rotary_factor": ABSENT,
            },
        ),
        Change(
            "long, factor",
            {
                **scaling(type="longrope", factor=4.0, long_factor=[2.0] * 8, short_factor=[1.0] * 8),
                "partial_rotary_factor": ABSENT,
            },
        ),
        Change(
            "long, attention_factor",
            {
                **scaling(
                    type="longrope", attention_factor=1.2, long_factor=[2.0] * 8, short_factor=[1.0] * 8
                ),
                "partial_rotary_factor": ABSENT,
            },
        ),
        Change(
            "su",
            {
                **scaling(type="su", long_factor=[2] * 8, short_factor=[1] * 8),
                "partial_rotary_factor": ABSENT,
            },
        ),
        Change(
            "wrong number of factors", scaling(type="longrope", long_factor=[2.0] * 7, short_factor=[1.0] * 8)
        ),
        Change(
            "rotary share of three quarters",
            {
                **scaling(type="longrope", long_factor=[2.0] * 6, short_factor=[1.0] * 6),
                "partial_rotary_factor": 0.75,
            },
        ),
        Change("trained context absent", {**scaling(), "original_max_position_embeddings": ABSENT}),
        Change("bias", {"attention_bias": True}),
        Change("window 262144", {"sliding_window": 262144}),
    ),
    "glm": (
        Change("rotary share of one", {"partial_rotary_factor": 1.0}),
        Change("no bias", {"attention_bias": False}),
    ),
    "glm4": (
        Change("bias", {"attention_bias": True}),
        Change("rotary share of one", {"partial_rotary_factor": 1.0}),
    ),
    "glm4_moe": (
        Change("no norms of queries and keys", {"use_qk_norm": False}),
        Change("no dense layer", {"first_k_dense_replace": 0}),
        Change("no shared experts", {"n_shared_experts": 0}),
        Change("not normalized", {"norm_topk_prob": False}),
        Change("groups", {"n_group": 2, "topk_group": 1}),
        Change("further blocks are stated", {"num_nextn_predict_layers": 1}),
        Change("further blocks are not stated", {"num_nextn_predict_layers": ABSENT}),
    ),
    "deepseek_v2": (
        Change("group limited", {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}),
        Change("groups of null", {"n_group": None, "topk_group": None}),
        Change("no shared experts", {"n_shared_experts": None}),
        Change("queries plain", {"q_lora_rank": None}),
        Change(
            "mscale of lite",
            scaling(type="yarn", **_YARN, beta_fast=32, beta_slow=1, mscale=0.707, mscale_all_dim=0.707),
        ),
        Change("scaling of a whole number", {"routed_scaling_factor": 16}),
        Change("no dense layer", {"first_k_dense_replace": 0}),
        Change("moe_layer_freq", {"moe_layer_freq": 1}),
        Change("softmax", {"scoring_func": "softmax"}),
        Change("normalized", {"norm_topk_prob": True}),
    ),
    "deepseek_v3": (
        Change(
            "Moonlight",
            {**scaling(), "q_lora_rank": None, "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0},
        ),
        Change("groups", {"n_group": 2, "topk_group": 1, "topk_method": "noaux_tc"}),
        Change("scoring by softmax", {"scoring_func": "softmax"}),
        Change("scoring absent", {"scoring_func": ABSENT}),
        Change("no dense layer", {"first_k_dense_replace": 0}),
        Change("two shared experts", {"n_shared_experts": 2}),
        Change("mscale only", scaling(type="yarn", **_YARN, beta_fast=32, beta_slow=1, mscale=1.0)),
        Change("not normalized", {"norm_topk_prob": False}),
    ),
    "gpt_oss": (
        Change(
            "yarn as published",
            {
                "rope_scaling": {
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                    "factor": 32.0,
                    "original_max_position_embeddings": 64,
                    "rope_type": "yarn",
                    "truncate": False,
                },
                "rope_theta": 150000,
                "rope_parameters": ABSENT,
            },
        ),
        Change("layer types absent", {"layer_types": ABSENT}),
        Change("experts used by the other name", {"experts_per_token": 2}),
        Change("no scaling", scaling()),
    ),
    "granite": (
        Change(
            "multipliers absent",
            dict.fromkeys(
                ("attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"),
                ABSENT,
            ),
        ),
        Change(
            "multipliers of whole numbers",
            {
                "attention_multiplier": 1,
                "embedding_multiplier": 12,
                "logits_scaling": 8,
                "residual_multiplier": 1,
            },
        ),
        Change("base of 3.3", {**scaling(), "rope_theta": 10000000.0}),
    ),
    "lfm2": (
        Change("widths as stated", {"block_auto_adjust_ff_dim": False}),
        Change("width by the old name", {"block_ff_dim": 160, "intermediate_size": ABSENT}),
        Change("layers by numbers", {"layer_types": ABSENT, "full_attn_idxs": [1]}),
        Change("bias of convolutions", {"conv_bias": True}),
        Change("eps by the old name", {"block_norm_eps": 1e-6, "norm_eps": 1e-5}),
        Change("tied by the old name", {"tie_embedding": True, "tie_word_embeddings": ABSENT}),
    ),
    "smollm3": (
        Change(
            "layers without RoPE absent",
            {"no_rope_layers": ABSENT, "num_hidden_layers": 4, "layer_types": ABSENT},
        ),
        Change(
            "layers without RoPE null",
            {"no_rope_layers": None, "num_hidden_layers": 4, "layer_types": ABSENT},
        ),
        Change(
            "every second layer",
            {"no_rope_layers": ABSENT, "no_rope_layer_interval": 2, "layer_types": ABSENT},
        ),
        Change("by a list", {"no_rope_layers": [0, 1]}),
    ),
    "nemotron": (
        Change(
            "rotary share by another name",
            {
                "rope_parameters": ABSENT,
                "rope_theta": 10000.0,
                "rope_percent": 0.5,
                "partial_rotary_factor": 0.5,
            },
        ),
        Change(
            "rotary share absent",
            {"rope_parameters": ABSENT, "rope_theta": 10000.0, "partial_rotary_factor": ABSENT},
        ),
        Change("old keys", {"rope_percentage": 0.5, "rope_parameters": ABSENT, "rope_theta": 10000.0}),
    ),
    "olmo": (Change("no clipping", {"clip_qkv": None}), Change("clipping absent", {"clip_qkv": ABSENT})),
    "olmoe": (Change("clipping", {"clip_qkv": 8.0}), Change("normalized", {"norm_topk_prob": True})),
    "olmo3": (
        Change("old file", {**scaling(), "layer_types": ABSENT}),
        Change(
            "yarn of 32B",
            {
                **scaling(
                    rope_type="yarn",
                    factor=8.0,
                    attention_factor=1.2079441541679836,
                    beta_fast=32,
                    beta_slow=1,
                    original_max_position_embeddings=64,
                )
            },
        ),
    ),
    "falcon": (
        Change("new architecture", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        Change(
            "two norms", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 2}
        ),
        Change(
            "one norm", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}
        ),
        Change("one head of keys", {"new_decoder_architecture": False, "multi_query": True}),
        Change("alibi", {"alibi": True}),
        Change("bias", {"bias": True}),
        Change("not parallel", {"parallel_attn": False}),
    ),
    "falcon_h1": (
        Change("norm", {"mamba_rms_norm": True}),
        Change("no norm", {"mamba_rms_norm": False}),
        Change(
            "biases",
            {"projectors_bias": True, "mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True},
        ),
        Change("theta of a large whole number", {**scaling(), "rope_theta": 100000000000}),
        Change("no conv bias", {"mamba_conv_bias": False}),
        Change(
            "multipliers absent",
            {"ssm_multipliers": ABSENT, "key_multiplier": ABSENT, "mlp_multipliers": ABSENT},
        ),
    ),
    "mamba": (
        Change("rank auto", {"time_step_rank": "auto"}),
        Change("expand absent", {"intermediate_size": ABSENT, "expand": 2}),
        Change("no conv bias", {"use_conv_bias": False}),
        Change("bias", {"use_bias": True}),
    ),
    "bert": (
        Change("one type", {"type_vocab_size": 1}),
        Change("positions", {"position_embedding_type": "absolute"}),
        Change("masked", {"architectures": ["BertForMaskedLM"]}),
        Change("classes", {"architectures": ["BertForSequenceClassification"], "num_labels": 3}),
        Change("gelu of tanh", {"hidden_act": "gelu_new"}),
        Change("names with bert.", {}, renames=("^", "bert.")),
    ),
    "t5": (
        Change("gated", {"feed_forward_proj": "gated-gelu"}),
        Change("relu", {"feed_forward_proj": "relu"}),
        Change("decoder of another depth", {"num_decoder_layers": 1}),
        Change("decoder null", {"num_decoder_layers": None}),
        Change(
            "buckets absent",
            {"relative_attention_num_buckets": ABSENT, "relative_attention_max_distance": ABSENT},
        ),
        Change("width of heads", {"d_kv": 24}),
    ),
    "cohere": (
        Change("norms of queries and keys", {"use_qk_norm": True}),
        Change("scale absent", {"logit_scale": ABSENT}),
        Change("bias", {"attention_bias": True}),
    ),
    "cohere2": (
        Change(
            "old file",
            {
                "layer_types": ABSENT,
                "sliding_window_pattern": 4,
                **scaling(),
                "order_of_interleaved_layers": "local_attn_first",
            },
        ),
        Change(
            "pattern of 2", {"layer_types": ABSENT, "sliding_window_pattern": 2, "_sliding_window_pattern": 2}
        ),
        Change("layer types of another pattern", {"layer_types": ["sliding_attention", "full_attention"]}),
        Change("rotary_pct absent", {"rotary_pct": ABSENT}),
    ),
    "stablelm": (
        Change("parallel", {"use_parallel_residual": True}),
        Change("norms of heads", {"qk_layernorm": True}),
        Change("no bias", {"use_qkv_bias": False}),
        Change(
            "old names",
            {
                "rope_parameters": ABSENT,
                "rope_theta": 10000,
                "rope_pct": 0.25,
                "partial_rotary_factor": ABSENT,
                "norm_eps": 1e-5,
                "layer_norm_eps": ABSENT,
            },
        ),
        Change(
            "share as published",
            {"rope_parameters": ABSENT, "rope_theta": 10000, "partial_rotary_factor": 0.25},
        ),
    ),
    "starcoder2": (
        Change("no bias", {"use_bias": False}),
        Change("window", {"sliding_window": 64}),
        Change("eps absent", {"norm_epsilon": ABSENT}),
    ),
    "gpt2": (
        Change("width", {"n_inner": 160}),
        Change("n_ctx absent", {"n_ctx": ABSENT}),
        Change("names with transformer.", {}, renames=("^transformer\\.", "")),
        Change("tie absent", {"tie_word_embeddings": ABSENT}),
    ),
    "gpt_neox": (
        Change("not parallel", {"use_parallel_residual": False}),
        Change("old share", {"rope_parameters": ABSENT, "rotary_pct": 0.25, "rotary_emb_base": 10000}),
        Change("whole share", {"rope_parameters": ABSENT, "rotary_pct": 1.0, "rotary_emb_base": 10000}),
        Change("no bias", {"attention_bias": False}),
    ),
    "internlm2": (
        Change("scaling null", {"rope_scaling": None}),
        Change("bias", {"bias": True}, same_tensors=True),
        Change("all heads have keys", {"num_key_value_heads": ABSENT}, same_tensors=True),
    ),
    "exaone4": (
        Change("pattern as letters", {"sliding_window_pattern": "LLLG", "layer_types": ABSENT}),
        Change("1.2B", {"sliding_window": None, "sliding_window_pattern": None, "layer_types": ABSENT}),
        Change(
            "1.2B with types",
            {"sliding_window": None, "sliding_window_pattern": None, "layer_types": ["full_attention"] * 5},
        ),
        Change("llama3", {**scaling(rope_type="llama3", **_LLAMA3)}),
    ),
    "seed_oss": (
        Change("bias of the output", {"attention_out_bias": True}),
        Change("no bias", {"attention_bias": False}),
        Change(
            "default scaling",
            {"rope_scaling": {"rope_type": "default"}, "rope_theta": 10000000.0, "rope_parameters": ABSENT},
        ),
    ),
    "ministral3": (
        Change("no beta", parameters(rope_type="yarn", **_YARN, mscale=1.0, mscale_all_dim=1.0)),
        Change("beta at the top", {"llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 64}}),
    ),
    "hunyuan_v1_dense": (
        Change(
            "alpha",
            scaling(
                type="dynamic",
                alpha=1000.0,
                beta_fast=32,
                beta_slow=1,
                factor=1.0,
                mscale=1.0,
                mscale_all_dim=0.0,
            ),
        ),
        Change("alpha of 50", parameters(rope_type="dynamic", alpha=50.0, factor=1.0)),
        Change("no norms of heads", {"use_qk_norm": False}),
        Change("bias", {"attention_bias": True}),
    ),
    "ernie4_5": (Change("bias", {"use_bias": True}), Change("head_dim 128", {"head_dim": 32})),
    "gemma4_text": (
        Change("old pattern", {"layer_types": ABSENT}),
        Change("caps", {"final_logit_softcapping": 30.0}),
        Change("no inputs per layer", {"hidden_size_per_layer_input": 0}),
        Change("inputs per layer null", {"hidden_size_per_layer_input": None}),
        Change("k equals v", {"attention_k_eq_v": True}),
        Change("double width", {"use_double_wide_mlp": True, "num_kv_shared_layers": 2}),
    ),
}
"""What single kinds of models have: model_type -> changes."""


ENCODERS: Final = ("bert", "distilbert", "mamba", "modernbert", "roberta", "t5", "umt5", "xlm-roberta")
"""Kinds of models that have neither RoPE nor grouped heads, or not by these names."""


def changes_of(model_type: str) -> Iterator[Change]:
    """Yield the changes of one kind of model."""
    if model_type not in ENCODERS:
        yield from GENERAL
    yield from OTHERS.get(model_type, ())
