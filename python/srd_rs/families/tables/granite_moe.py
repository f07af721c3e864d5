"""The tables of the Granite models with experts, sliding windows or adapters."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import GATED_FFN, LLAMA_ATTENTION, LLAMA_METADATA, NORMS
from srd_rs.families.tables.skeletons import NO_BIASES
from srd_rs.vocab.rules import LLAMA

_DEFAULTS: Final = {
    **NO_BIASES,
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "attention_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 0,
    "tie_word_embeddings": False,
}
_METADATA: Final = (
    *LLAMA_METADATA,
    "f32 ~attention.scale = attention_multiplier",
    "f32 ~embedding_scale = embedding_multiplier",
    "f32 ~residual_scale = residual_multiplier",
    "f32 ~logit_scale = logits_scaling",
)
_SHARED: Final = (
    "u32 ~expert_shared_feed_forward_length = shared_intermediate_size if shared_intermediate_size else None"
)

GRANITE_MOE: Final = FamilyTable(
    arch="granitemoe",
    classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    vocabulary=LLAMA,
    defaults=_DEFAULTS,
    class_defaults={"GraniteMoeSharedForCausalLM": {"shared_intermediate_size": 1024}},
    sizes={"s": "shared_intermediate_size", "experts": "num_experts > 0"},
    n_expert="num_experts",
    layer=(
        Rows((*NORMS, *LLAMA_ATTENTION)),
        Rows(
            (
                "block_sparse_moe.input_linear > ffn_gate_exps | e 2*f d | slice(1, 0, f)",
                "block_sparse_moe.input_linear > ffn_up_exps | e 2*f d | slice(1, f, f)",
                "block_sparse_moe.output_linear > ffn_down_exps | e d f",
                "block_sparse_moe.router.layer > ffn_gate_inp | e d",
            ),
            "experts",
        ),
        Rows(
            (
                "shared_mlp.input_linear > ffn_gate_shexp | 2*s d | rows(0, s)",
                "shared_mlp.input_linear > ffn_up_shexp | 2*s d | rows(s, s)",
                "shared_mlp.output_linear > ffn_down_shexp | d s",
            ),
            "experts and s > 0",
        ),
        Rows(
            (
                "shared_mlp.input_linear > ffn_gate | 2*s d | rows(0, s)",
                "shared_mlp.input_linear > ffn_up | 2*s d | rows(s, s)",
                "shared_mlp.output_linear > ffn_down | d s",
            ),
            "not experts",
        ),
    ),
    head_dim="None",
    metadata=(*_METADATA, _SHARED),
    llama3_rope=True,
)

_ADAPTED: Final = (
    ("self_attn.qkv_proj.{ab}_slices.0", "attn_q", "q d", "permute(n * n_head)"),
    ("self_attn.qkv_proj.{ab}_slices.1", "attn_k", "k d", "permute(n * n_head_kv)"),
    ("self_attn.qkv_proj.{ab}_slices.2", "attn_v", "k d", ""),
    ("self_attn.o_proj.{ab}", "attn_output", "d q", ""),
    ("shared_mlp.input_linear.{ab}_slices.0", "ffn_gate", "s d", ""),
    ("shared_mlp.input_linear.{ab}_slices.1", "ffn_up", "s d", ""),
    ("shared_mlp.output_linear.{ab}", "ffn_down", "d s", ""),
)


def _adapters() -> tuple[str, ...]:
    """Return the rows of the adapters of a layer. A zero adapter stands before the others."""
    rows = []
    for source, target, sizes, permuted in _ADAPTED:
        out, width = sizes.split()
        a, b = source.format(ab="lora_A"), source.format(ab="lora_B")
        rows.append(f"{a}! > {target}=.lora_a | n 1 r {width} | reshape(n, r, {width}) zero_first")
        steps = f"reshape(n * {out}, r) {permuted} reshape(n, {out}, r) zero_first"
        rows.append(f"{b}! > {target}=.lora_b | n 1 {out} r | {steps}")
    return tuple(rows)


GRANITE_SWITCH: Final = FamilyTable(
    arch="graniteswitch",
    classes=("GraniteSwitchForCausalLM",),
    vocabulary=LLAMA,
    defaults={**_DEFAULTS, "num_experts": 0, "control_token_gain": 15.0},
    sizes={"n": "num_adapters", "r": "max_lora_rank", "s": "shared_intermediate_size", "qkv": "q + 2 * k"},
    # One layer has no weights: it chooses the adapter.
    n_layer="num_hidden_layers - 1",
    n_run="num_hidden_layers",
    output=None,
    skip=(
        (r"^lm_head\.", names.COPY),
        (r"^(model\.)?switch\.", names.BUFFER),
        (r"(^|\.)(adapter_token_ids|control_to_substitute_lut)$", names.BUFFER),
    ),
    keep=(r"\.base_layer\.",),
    layer=(
        Rows(
            (
                *NORMS,
                "self_attn.qkv_proj.base_layer > attn_qkv | qkv d"
                " | rows(0, q) permute_q + rows(q, k) permute_k + rows(q + k, k)",
                "self_attn.o_proj.base_layer > attn_output | d q",
                "shared_mlp.input_linear.base_layer > ffn_gate | 2*s d | rows(0, s)",
                "shared_mlp.input_linear.base_layer > ffn_up | 2*s d | rows(s, s)",
                "shared_mlp.output_linear.base_layer > ffn_down | d s",
                *_adapters(),
            )
        ),
    ),
    head_dim="None",
    metadata=(
        *_METADATA,
        _SHARED,
        "u32 ~expert_count = 0",
        "u32 ~expert_used_count = 0",
        "u32 ~adapters.count = num_adapters",
        "u32 ~adapters.lora_rank = max_lora_rank",
        "i32s ~adapters.token_ids_activate = adapter_token_ids",
        "i32s ~adapters.token_ids_substitute = adapter_substitute_token_ids",
        "f32 ~adapters.router_gain = control_token_gain",
    ),
    without=("general.size_label",),
    refusals=(
        Refusal("num_experts > 0", "the model has experts"),
        Refusal("first(tie_word_embeddings, 0) == False", "the output matrix is not the embedding"),
    ),
)

GRANITE_SWA: Final = FamilyTable(
    arch="granite_swa",
    classes=("GraniteSWAForCausalLM", "GraniteMoeSWAForCausalLM"),
    vocabulary=LLAMA,
    defaults={**_DEFAULTS, "sliding_window": 128},
    class_defaults={
        "GraniteSWAForCausalLM": {
            "vocab_size": 100352,
            "hidden_size": 2560,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 20,
            "num_key_value_heads": 4,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "num_experts": 0,
        }
    },
    sizes={
        "s": "shared_intermediate_size",
        "experts": "num_experts > 0",
        "stacked": "layer_has('block_sparse_moe.experts.gate_up_proj')",
        "full": "layer_types[layer] == 'full_attention' if layer_types != None else layer % 4 == 0",
    },
    n_expert="num_experts",
    renames=((r"\.router\.weight$", ".router.layer.weight"),),
    layer=(
        Rows((*NORMS, *LLAMA_ATTENTION, "self_attn.sinks! > attn_sinks | n_head")),
        Rows(GATED_FFN, "not experts"),
        Rows(("block_sparse_moe.router.layer > ffn_gate_inp | e d",), "experts"),
        Rows(
            (
                "block_sparse_moe.experts.gate_up_proj! > ffn_gate_up_exps | e 2*f d",
                "block_sparse_moe.experts.down_proj! > ffn_down_exps | e d f",
            ),
            "experts and stacked",
        ),
        Rows(
            (
                "block_sparse_moe.input_linear > ffn_gate_up_exps | e 2*f d",
                "block_sparse_moe.output_linear > ffn_down_exps | e d f",
            ),
            "experts and not stacked",
        ),
        Rows(
            (
                "shared_mlp.input_linear > ffn_up_shexp | 2*s d",
                "shared_mlp.output_linear > ffn_down_shexp | d s",
            ),
            "experts and s > 0",
        ),
    ),
    head_dim="None",
    metadata=(
        *_METADATA,
        _SHARED,
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = layer >= 0 and not full",
        "bools ~attention.rope_pattern = no_rope_layers[layer] != 0 if no_rope_layers != None"
        " else layer_rope_theta[layer] != 0 if layer_rope_theta != None else None",
    ),
    llama3_rope=True,
    refusals=(
        Refusal(
            "layer_rope_theta != None and not layer_rope_theta[layer] in [0, rope['rope_theta']]",
            "layers have RoPE bases of their own (layer_rope_theta)",
            per_layer=True,
        ),
    ),
)

COMPOSITES: Final = ("GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration")
MODEL_TYPES: Final = {"granite": "GraniteForCausalLM"}
OTHERS: Final = dict.fromkeys(COMPOSITES, ("encoder.", "projector."))
"""Granite Speech hears through an encoder whose names begin as those of T5."""
