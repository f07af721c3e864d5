"""The table of DeepSeek V4: hyper-connections between the layers, attention to compressed keys, and experts that the
first layers choose by the id of the token."""

from __future__ import annotations

from typing import Any, Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts


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

DEEPSEEK4: Final = FamilyTable(
    arch="deepseek4",
    classes=("DeepseekV4ForCausalLM",),
    defaults=_DEFAULTS,
    sizes={
        "x": "moe_intermediate_size",
        "s": "n_shared_experts * x",
        "mix": "(2 + hc_mult) * hc_mult",
        "ratio": "compress_ratios[layer]",
        "comp": "2 * h if ratio == 4 else h",
        "ih": "index_head_dim",
    },
    top=(
        "embed > token_embd | v d",
        "norm > output_norm | d",
        "hc_head_fn! > output_hc_fn | hc_mult hc_mult*d | f32",
        "hc_head_base! > output_hc_base | hc_mult",
        "hc_head_scale! > output_hc_scale | 1",
    ),
    output="head > output | v d",
    layer_prefix="layers",
    embedding="embed.weight",
    layer=(
        Rows(
            (
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
                "ffn.gate.bias_vl! > exp_probs_b_vl=.bias | e | ?",
                "ffn.shared_experts.w1 > ffn_gate_shexp | s d",
                "ffn.shared_experts.w2 > ffn_down_shexp | d s",
                "ffn.shared_experts.w3 > ffn_up_shexp | s d",
            )
        ),
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
        "i32s ~attention.compress_ratios = compress_ratios",
        "f32 ~attention.compress_rope_freq_base = compress_rope_theta",
        "u32 ~hyper_connection.count = hc_mult",
        "u32 ~hyper_connection.sinkhorn_iterations = hc_sinkhorn_iters",
        "f32 ~hyper_connection.epsilon = hc_eps",
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
        Refusal(
            "scoring_func != 'sqrtsoftplus'", "the scores of the experts are not sqrtsoftplus (scoring_func)"
        ),
        Refusal("q % o_groups != 0", "the heads are no multiple of the groups of the output (o_groups)"),
    ),
)

OTHERS: Final = {"DeepseekV4ForCausalLM": ("aligner.", "image_", "vision.")}
