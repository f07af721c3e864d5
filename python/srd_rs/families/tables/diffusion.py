"""The tables of language models that fill in masked tokens: LLaDA and Dream."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows, StackedExperts
from srd_rs.families.tables.common import ATTENTION, GATED_EXPERTS, GATED_FFN, HEAD_NORMS, NORMS, flagged
from srd_rs.vocab.rules import VocabularyRules

LLADA: Final = FamilyTable(
    arch="llada",
    classes=("LLaDAModelLM",),
    vocabulary=VocabularyRules(add={"bos": True}),
    spellings={"hidden_size": ("d_model",), "intermediate_size": ("mlp_hidden_size",)},
    defaults={"max_position_embeddings": 4096, "tie_word_embeddings": False},
    layer_prefix="model.transformer.blocks",
    embedding="model.transformer.wte.weight",
    top=("model.transformer.wte > token_embd | v d", "model.transformer.ln_f > output_norm | d"),
    output="model.transformer.ff_out > output | v d",
    tied="weight_tying",
    layer=(
        Rows(
            (
                "attn_norm > attn_norm | d",
                "q_proj > attn_q | q d | bias? permute_q",
                "k_proj > attn_k | k d | bias? permute_k",
                "v_proj > attn_v | k d | bias?",
                "attn_out > attn_output | d q | bias?",
                "ff_norm > ffn_norm | d",
                "ff_proj > ffn_gate | f d | bias?",
                "up_proj > ffn_up | f d | bias?",
                "ff_out > ffn_down | d f | bias?",
            )
        ),
    ),
    metadata=(
        "u32 ~vocab_size = n_vocab",
        "u32 ~rope.dimension_count = h",
        "bool ~attention.causal = 0 == 1",
        "bool diffusion.shift_logits = 0 == 1",
    ),
    rope_theta=None,
    pooling=True,
    refusals=(
        Refusal("alibi or rope == False", "positions are not rotated"),
        Refusal("block_type != None and block_type != 'llama'", "block_type is not llama"),
        Refusal("attention_layer_norm or input_emb_norm", "there are more norms than llama.cpp's LLaDA has"),
    ),
)

LLADA_MOE: Final = FamilyTable(
    arch="llada-moe",
    classes=("LLaDAMoEModel", "LLaDAMoEModelLM"),
    vocabulary=VocabularyRules(tokens={"mask": 156895}),
    defaults={"rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    sizes={"x": "expert_intermediate_size"},
    n_ff="first(dense_intermediate_size, intermediate_size)",
    tied="0",
    layer=(Rows((*NORMS, *ATTENTION, *HEAD_NORMS, "mlp.gate > ffn_gate_inp | e d")),),
    experts=StackedExperts("mlp.experts", "num_experts", "num_experts_per_tok", GATED_EXPERTS),
    metadata=(
        "u32 ~expert_feed_forward_length = expert_intermediate_size",
        "bool ~attention.causal = 0 == 1",
        "bool diffusion.shift_logits = 0 == 1",
    ),
    rope_theta=None,
    refusals=(Refusal("first(rope_fraction, 1) != 1", "only a part of each head is rotated"),),
    output_needed=True,
    square_output=True,
)

DREAM: Final = FamilyTable(
    arch="dream",
    classes=("DreamModel",),
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
    tied="config['tie_word_embeddings']",
    metadata=("bool ~attention.causal = 0 == 1", "u32 tokenizer.ggml.mask_token_id = mask_token_id"),
    pooling=True,
    square_output=True,
)
