"""The tables of classes that EAGLE-3 draft models name. Without a draft vocabulary they are Llama models."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import GATED_FFN, LLAMA_METADATA
from srd_rs.families.tables.drafts import NEEDS_TARGET, TABLES
from srd_rs.families.tables.skeletons import LLAMA_DEFAULTS, LLAMA_LAYER
from srd_rs.vocab.rules import LLAMA

DRAFT: Final = FamilyTable(
    arch="eagle3",
    classes=(),
    drafts=True,
    defaults=LLAMA_DEFAULTS,
    sizes={
        "seen": "eagle_aux_hidden_state_layer_ids if eagle_aux_hidden_state_layer_ids"
        " else [2, target['num_hidden_layers'] // 2, target['num_hidden_layers'] - 3]",
        "t": "first(target_hidden_size, target['hidden_size'])",
        "w": "draft_vocab_size",
    },
    renames=(
        (r"^(midlayer|layers\.0)\.", "model.layers.0."),
        (r"^(fc|norm|input_norm|embed_tokens)\.", r"model.\1."),
    ),
    top=(
        "model.embed_tokens > token_embd | v d | ?",
        "model.norm > output_norm | d",
        "model.fc > fc | d len(seen)*t",
        Rows(("model.input_norm > enc.output_norm | len(seen)*t",), when="norm_before_fc == 1"),
    ),
    output="lm_head > output | w d | ?",
    token_ids=("d2t = plus_index(integers('d2t')) if stored('d2t') else None",),
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                "hidden_norm > attn_norm_2 | d",
                "self_attn.q_proj > attn_q | q 2*d | permute_q",
                "self_attn.k_proj > attn_k | k 2*d | permute_k",
                "self_attn.v_proj > attn_v | k 2*d",
                "self_attn.o_proj > attn_output | d q",
                "post_attention_layernorm > ffn_norm | d",
                *GATED_FFN,
            )
        ),
    ),
    metadata=(
        *LLAMA_METADATA,
        "i32s ~target_layers = seen",
        "u32 ~target_hidden_size = t",
        "bool ~norm_before_residual = norm_before_residual == 1",
        "bool ~norm_before_fc = norm_before_fc == 1",
    ),
    skip=TABLES,
    llama3_rope=True,
    refusals=(
        NEEDS_TARGET,
        Refusal("len(seen) != 3", "llama.cpp reads the states of exactly three layers of the target"),
        Refusal(
            "len(integers('d2t')) != w if stored('d2t') else w != v",
            "the table of tokens (d2t) has not as many as config.json says (draft_vocab_size)",
        ),
        Refusal("n_layer != 1", "llama.cpp runs EAGLE-3 drafts of one layer only"),
    ),
)

EAGLE3: Final = FamilyTable(
    arch="llama",
    classes=("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"),
    variants=(("draft_vocab_size != None", DRAFT),),
    vocabulary=LLAMA,
    defaults=LLAMA_DEFAULTS,
    layer=LLAMA_LAYER,
    head_dim="h",
    metadata=LLAMA_METADATA,
    llama3_rope=True,
)
