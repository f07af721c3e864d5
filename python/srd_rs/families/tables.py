"""The families that are tables: one `FamilyTable` each, read by `srd_rs.families.interpreter`."""

from __future__ import annotations

from typing import Final

from srd_rs.families.interpreter import family_of
from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts

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


def flagged(rows: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """Return the rows with one more flag each."""
    return tuple(f"{row} {flag}" if row.count("|") == 2 else f"{row} | {flag}" for row in rows)


SEED_OSS: Final = FamilyTable(
    arch="seed_oss",
    classes=("SeedOssForCausalLM",),
    defaults={
        "vocab_size": 155136,
        "hidden_size": 4096,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 80,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                *flagged(ATTENTION, "bias?"),
                "post_attention_layernorm > post_attention_norm | d",
                *GATED_FFN,
            )
        ),
    ),
)

STARCODER2: Final = FamilyTable(
    arch="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    defaults={
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
    },
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | bias"),
    layer=(
        Rows(
            (
                *flagged(NORMS, "bias"),
                *flagged(ATTENTION, "bias"),
                "mlp.c_fc > ffn_up | f d | bias",
                "mlp.c_proj > ffn_down | d f | bias",
            )
        ),
    ),
)

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
    layer=(Rows((*NORMS, *flagged(ATTENTION[:3], "bias"), *flagged(ATTENTION[3:], "bias?"), *GATED_FFN)),),
    pooling=True,
)

QWEN3: Final = FamilyTable(
    arch="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    defaults={**QWEN2.defaults, "head_dim": 128},
    layer=(Rows((*NORMS, *flagged(ATTENTION, "bias?"), *HEAD_NORMS, *GATED_FFN)),),
    pooling=True,
)

QWEN3_MOE: Final = FamilyTable(
    arch="qwen3moe",
    classes=("Qwen3MoeForCausalLM",),
    defaults={
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
    sizes={"x": "moe_intermediate_size"},
    layer=(Rows((*NORMS, *flagged(ATTENTION, "bias?"), *HEAD_NORMS, "mlp.gate > ffn_gate_inp | e d")),),
    experts=StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS),
    metadata=("u32 ~expert_feed_forward_length = moe_intermediate_size",),
    refusals=(
        Refusal(
            "mlp_only_layers or decoder_sparse_step != 1",
            "some layers are dense (mlp_only_layers, decoder_sparse_step)",
        ),
    ),
)

LLAMA_ATTENTION: Final = (
    "self_attn.q_proj > attn_q | q d | bias? permute_q",
    "self_attn.k_proj > attn_k | k d | bias? permute_k",
    "self_attn.v_proj > attn_v | k d | bias?",
    "self_attn.o_proj > attn_output | d q | bias?",
)
LLAMA_METADATA: Final = ("u32 ~vocab_size = n_vocab", "u32 ~rope.dimension_count = head_dim")

ARCEE: Final = FamilyTable(
    arch="arcee",
    classes=("ArceeForCausalLM",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 2560,
        "intermediate_size": 18432,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    layer=(
        Rows(
            (
                *NORMS[:1],
                *LLAMA_ATTENTION,
                *NORMS[1:],
                "mlp.up_proj > ffn_up | f d",
                "mlp.down_proj > ffn_down | d f",
            )
        ),
    ),
    metadata=LLAMA_METADATA,
    head_dim="head_dim",
    llama3_rope=True,
    pooling=True,
)

SMOLLM3: Final = FamilyTable(
    arch="smollm3",
    classes=("SmolLM3ForCausalLM",),
    defaults={
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
    },
    layer=(Rows((*NORMS[:1], *LLAMA_ATTENTION, *NORMS[1:], *flagged(GATED_FFN, "bias?"))),),
    metadata=LLAMA_METADATA,
    refusals=(
        Refusal(
            "no_rope_layers[layer] != ((layer + 1) % 4 != 0) if no_rope_layers != None"
            " else no_rope_layer_interval != None and no_rope_layer_interval != 4",
            "layers without RoPE are not every fourth",
            per_layer=True,
        ),
    ),
    rope_theta=2_000_000.0,
    llama3_rope=True,
)

OLMO2: Final = FamilyTable(
    arch="olmo2",
    classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    defaults={
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    class_defaults={"Olmo3ForCausalLM": {"sliding_window": 4096}},
    layer=(
        Rows(
            (
                *ATTENTION,
                "self_attn.q_norm > attn_q_norm | q",
                "self_attn.k_norm > attn_k_norm | k",
                "post_attention_layernorm > post_attention_norm | d",
                "post_feedforward_layernorm > post_ffw_norm | d",
                *GATED_FFN,
            )
        ),
    ),
    metadata=(
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = None if sliding_window == None"
        " else layer_types[layer] == 'sliding_attention' if layer_types != None else (layer + 1) % 4 != 0",
    ),
)

FAMILIES: Final = tuple(
    map(family_of, (SEED_OSS, STARCODER2, QWEN2, QWEN3, QWEN3_MOE, ARCEE, SMOLLM3, OLMO2))
)
