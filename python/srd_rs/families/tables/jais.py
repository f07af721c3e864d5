"""The tables of Jais."""

from __future__ import annotations

from typing import Final

from srd_rs.families import names
from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, NORMS, flagged

JAIS: Final = FamilyTable(
    arch="jais",
    classes=("JAISLMHeadModel",),
    sizes={
        "embedding_scale": "first(mup_embeddings_scale, embeddings_scale, 1.0)",
        "output_scale": "mup_output_alpha * mup_width_scale if mup_output_alpha != None else first(width_scale, 1.0)",
    },
    n_ff="n_inner",
    layer_prefix="transformer.h",
    embedding="transformer.wte.weight",
    top=(
        "transformer.wte > token_embd | v d | affine(embedding_scale, 0)",
        "transformer.ln_f > output_norm | d | bias",
        # Published checkpoints may lack the output matrix, which is the embedding with a scale of its own.
        Rows(("transformer.wte > output | v d | affine(output_scale, 0)",), "not has('lm_head.weight')"),
        Rows(("lm_head > output | v d | affine(output_scale, 0)",), "has('lm_head.weight')"),
    ),
    output=None,
    layer=(
        Rows(
            (
                "ln_1 > attn_norm | d | bias",
                "attn.c_attn > attn_qkv | d 3*d | transpose bias",
                "attn.c_proj > attn_output | d d | transpose bias",
                "ln_2 > ffn_norm | d | bias",
                "mlp.c_fc > ffn_up | d f | transpose bias",
                "mlp.c_fc2 > ffn_gate | d f | transpose bias",
                "mlp.c_proj > ffn_down | f d | transpose bias",
            )
        ),
    ),
    skip=((r"relative_pe\.slopes$", names.BUFFER), (r"\.attn\.(masked_)?bias$", names.BUFFER)),
    metadata=("f32 ~attention.max_alibi_bias = 8.0",),
    without=("~attention.head_count_kv",),
    rope_theta=None,
    refusals=(
        Refusal("activation_function != 'swiglu'", "the activation is not swiglu"),
        Refusal("position_embedding_type != 'alibi'", "positions are not biases (alibi)"),
    ),
    square_output=True,
)

JAIS2: Final = FamilyTable(
    arch="jais2",
    classes=("Jais2ForCausalLM",),
    defaults={
        "vocab_size": 150272,
        "hidden_size": 3328,
        "intermediate_size": 26624,
        "num_hidden_layers": 32,
        "num_attention_heads": 26,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    top=("model.embed_tokens > token_embd | v d", "model.norm > output_norm | d | bias"),
    layer=(
        Rows(
            (
                *flagged(NORMS, "bias"),
                *flagged(ATTENTION, "bias?"),
                "mlp.up_proj > ffn_up | f d | bias?",
                "mlp.down_proj > ffn_down | d f | bias?",
            )
        ),
    ),
    head_dim="h",
    metadata=("u32 ~rope.dimension_count = h",),
)
