"""The table of DeepSeek V4: hyper-connections between the layers, attention to compressed keys, and experts that the
first layers choose by the id of the token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.drafts import NEEDS_TARGET


def _hyper(part: str) -> tuple[str, ...]:
    """Return the rows of the hyper-connection around one part of a layer."""
    return (
        f"hc_{part}_fn! > hc_{part}_fn | mix hc_mult*d | f32",
        f"hc_{part}_base! > hc_{part}_base | mix",
        f"hc_{part}_scale! > hc_{part}_scale | 3",
    )


def _compressor(source: str, target: str, width: str, size: str) -> tuple[str, ...]:
    return (
        f"{source}.ape! > {target}_ape | ratio {width} | f32",
        f"{source}.wkv > {target}_kv | {width} d",
        f"{source}.wgate > {target}_gate | {width} d",
        f"{source}.norm > {target}_norm | {size}",
    )


_DEFAULTS: Final[dict[str, Any]] = {
    "vocab_size": 129280,
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "num_experts_per_tok": 6,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "max_position_embeddings": 1048576,
    "compress_rope_theta": 160000.0,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "num_hash_layers": 3,
    "swiglu_limit": 10.0,
    "sliding_window": 128,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}

_UNUSED: Final = "of routers that choose experts by the id of the token"
_MOST_HASH_LAYERS: Final = 8

_LAYER: Final = (
    "attn_norm > attn_norm | d",
    "ffn_norm > ffn_norm | d",
    "attn.attn_sink! > attn_sinks | n_head",
    "attn.wq_a > attn_q_a | q_lora_rank d",
    "attn.q_norm > attn_q_a_norm | q_lora_rank",
    "attn.wq_b > attn_q_b | q q_lora_rank",
    "attn.wkv > attn_kv | h d",
    "attn.kv_norm > attn_kv_a_norm | h",
    "attn.wo_a > attn_output_a | o_groups*o_lora_rank q//o_groups",
    "attn.wo_b > attn_output_b | d o_groups*o_lora_rank",
    *_hyper("attn"),
    *_hyper("ffn"),
    "ffn.gate > ffn_gate_inp | e d",
    "ffn.shared_experts.w1 > ffn_gate_shexp | s d",
    "ffn.shared_experts.w2 > ffn_down_shexp | d s",
    "ffn.shared_experts.w3 > ffn_up_shexp | s d",
)
_TOP: Final = (
    "norm > output_norm | d",
    "hc_head_fn! > output_hc_fn | hc_mult hc_mult*d | f32",
    "hc_head_base! > output_hc_base | hc_mult",
    "hc_head_scale! > output_hc_scale | 1",
)
_METADATA: Final = (
    "u32 ~rope.dimension_count = qk_rope_head_dim",
    "u32 ~attention.q_lora_rank = q_lora_rank",
    "u32 ~attention.sliding_window = sliding_window",
    "u32 ~expert_feed_forward_length = x",
    "u32 ~expert_shared_count = n_shared_experts",
    "f32 ~expert_weights_scale = routed_scaling_factor",
    "bool ~expert_weights_norm = norm_topk_prob",
    "f32s ~swiglu_clamp_exp = swiglu_limit + 0 * layer",
    "f32s ~swiglu_clamp_shexp = swiglu_limit + 0 * layer",
    "u32 ~attention.indexer.head_count = index_n_heads",
    "u32 ~attention.indexer.key_length = index_head_dim",
    "u32 ~attention.indexer.top_k = index_topk",
    "u32 ~attention.output_group_count = o_groups",
    "u32 ~attention.output_lora_rank = o_lora_rank",
    "f32 ~attention.compress_rope_freq_base = compress_rope_theta",
    "u32 ~hyper_connection.count = hc_mult",
    "u32 ~hyper_connection.sinkhorn_iterations = hc_sinkhorn_iters",
    "f32 ~hyper_connection.epsilon = hc_eps",
)
_REFUSALS: Final = (
    Refusal(
        "scoring_func != 'sqrtsoftplus'", "the scores of the experts are not sqrtsoftplus (scoring_func)"
    ),
    Refusal("q % o_groups != 0", "the heads are no multiple of the groups of the output (o_groups)"),
)

_DEEPSEEK4: Final = FamilyTable(
    arch="deepseek4",
    classes=(),
    defaults=_DEFAULTS,
    sizes={
        "x": "moe_intermediate_size",
        "s": "n_shared_experts * x",
        "mix": "(2 + hc_mult) * hc_mult",
        "ratio": "compress_ratios[layer]",
        "comp": "2 * h if ratio == 4 else h",
        "ih": "index_head_dim",
    },
    top=("embed > token_embd | v d", *_TOP),
    output="head > output | v d",
    layer_prefix="layers",
    embedding="embed.weight",
    layer=(
        Rows((*_LAYER, "ffn.gate.bias_vl! > exp_probs_b_vl=.bias | e | ?")),
        Rows(_compressor("attn.compressor", "attn_compressor", "comp", "h"), "ratio != 0"),
        Rows(
            (
                "attn.indexer.wq_b > indexer.attn_q_b | index_n_heads*ih q_lora_rank",
                "attn.indexer.weights_proj > indexer.proj | index_n_heads d",
                *_compressor("attn.indexer.compressor", "indexer_compressor", "2*ih", "ih"),
            ),
            "ratio == 4",
        ),
        Rows(
            ("ffn.gate.tid2eid! > ffn_gate_tid2eid | v num_experts_per_tok | i32",), "layer < num_hash_layers"
        ),
        Rows(("ffn.gate.bias! > exp_probs_b=.bias | e",), "layer >= num_hash_layers"),
    ),
    experts=StackedExperts(
        "ffn.experts",
        "n_routed_experts",
        "num_experts_per_tok",
        ("w1 ffn_gate_exps x d", "w2 ffn_down_exps d x", "w3 ffn_up_exps x d"),
    ),
    n_ff="None",
    metadata=(
        *_METADATA,
        "i32s ~attention.compress_ratios = compress_ratios",
        "u32 ~hash_layer_count = num_hash_layers",
        "u32 ~embedding_length_out = d * hc_mult",
    ),
    skip=tuple(
        (rf"^layers\.{layer}\.ffn\.gate\.bias$", _UNUSED, f"num_hash_layers > {layer}")
        for layer in range(_MOST_HASH_LAYERS)
    ),
    refusals=(
        Refusal(
            "compress_ratios == None", "the ratios of the compressed attention are missing (compress_ratios)"
        ),
        Refusal(
            "compress_ratios[layer] != 0 and compress_ratios[layer] != 4 and compress_ratios[layer] != 128",
            "a layer compresses by another ratio than 4 or 128 (compress_ratios)",
            per_layer=True,
        ),
        Refusal(f"num_hash_layers > {_MOST_HASH_LAYERS}", "there are too many hash layers (num_hash_layers)"),
        *_REFUSALS,
    ),
    output_needed=True,
)

_ROOT: Final = r"main_proj|main_norm|markov_head|confidence_head|norm|hc_head_"
_MOST_STAGES: Final = 8
DSPARK: Final = replace(
    _DEEPSEEK4,
    arch="dflash",
    classes=("DeepseekV4DSparkModel",),
    drafts=True,
    sizes={**_DEEPSEEK4.sizes, "seen": "first(dspark_target_layer_ids, [])"},
    n_layer=" + ".join(
        f"(1 if stored('mtp.{stage}.attn_norm.weight') else 0)" for stage in range(_MOST_STAGES)
    ),
    renames=(
        (rf"^mtp\.\d+\.(?=({_ROOT})(\.|fn|base|scale))", ""),
        (r"^mtp\.(?=\d+\.)", "layers."),
    ),
    keep=(r"^mtp\.(?!.*\.ffn\.gate\.bias_vl$)",),
    top=(*_TOP, "main_proj > fc | d len(seen)*d", "main_norm > enc.output_norm | d"),
    output=None,
    output_needed=False,
    layer=(Rows((*_LAYER, "ffn.gate.bias! > exp_probs_b=.bias | e")),),
    as_stored=(
        (r"markov_head\.markov_w1\.weight", "markov_w1.weight"),
        (r"markov_head\.markov_w2\.weight", "markov_w2.weight"),
        (r"confidence_head\.proj\.weight", "conf_proj.weight"),
    ),
    metadata=(
        *_METADATA,
        "i32s ~attention.compress_ratios = 0 * layer",
        "u32 ~hash_layer_count = 0",
        "u32 ~block_size = dspark_block_size",
        "i32s ~target_layers = [id + 1 for id in seen]",
        "u32 tokenizer.ggml.mask_token_id = dspark_noise_token_id",
    ),
    skip=(
        (r"^mtp\..*\.ffn\.gate\.bias_vl$", "of routers for images"),
        (r"^(?!mtp\.)", "of the target"),
    ),
    refusals=(
        NEEDS_TARGET,
        Refusal("len(seen) == 0", "config.json does not say which layers of the target the draft reads"),
        Refusal(
            "dspark_block_size == None or dspark_noise_token_id == None",
            "the size of a block or the token of the mask is missing (dspark_block_size, dspark_noise_token_id)",
        ),
        *_REFUSALS,
    ),
)
"""The draft beside DeepSeek V4, whose layers have the names of blocks for further tokens."""

DEEPSEEK4: Final = replace(
    _DEEPSEEK4,
    classes=("DeepseekV4ForCausalLM",),
    variants=(("target != None and stored('mtp.0.main_proj.weight')", DSPARK),),
)
"""Folders that name the class of the whole model hold the draft beside it: with `--target`, the draft is written."""

OTHERS: Final = {"DeepseekV4ForCausalLM": ("aligner.", "image_", "vision.")}
