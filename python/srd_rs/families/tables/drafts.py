"""The tables of models that draft several tokens at once for another model, the target (DFlash, DSpark).

A draft reads the states of some layers of the target, which `fc` brings to its own width. It has no tokenizer: the
GGUF gets that of the target. Most drafts use the embedding and the output matrix of the target as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from srd_rs.families.schema import FamilyTable, Refusal, Rows
from srd_rs.families.tables.common import ATTENTION, GATED_FFN, HEAD_NORMS, NORMS
from srd_rs.families.tables.qwen import QWEN3

NEEDS_TARGET: Final = Refusal(
    "target == None",
    "the model drafts tokens for another model, whose tokenizer its GGUF gets",
    "Name the other model: --target MODEL",
)
TABLES: Final = (
    (r"(^|\.)d2t$", "of a table of tokens, which is written as ids of the target"),
    (r"(^|\.)t2d$", "of a table of tokens that llama.cpp does not use"),
)
"""What a draft with fewer tokens than its target has: the id of each of its tokens in the target, less that of the
draft, and the tokens of the target that it has."""
_PAIRS: Final = (
    "self_attn.q_proj > attn_q | q d | permute_neox(n_head, h)",
    "self_attn.k_proj > attn_k | k d | permute_neox(n_head_kv, h)",
    *ATTENTION[2:],
    "self_attn.q_norm > attn_q_norm | h | permute_neox(1, h)",
    "self_attn.k_norm > attn_k_norm | h | permute_neox(1, h)",
)
"""The attention of drafts that turn neighbours of a head as pairs."""
_HALVES: Final = (*ATTENTION, *HEAD_NORMS)


def _either(name: str) -> str:
    """The value of `name` in dflash_config, or else in config.json."""
    return f"first(dflash_config['{name}'], {name})"


_CONVOLUTIONS: Final = (
    "attention_conv.base_kernel! > attn_conv_base= | 2 kernel d",
    "attention_conv.kernel_projection > attn_conv_proj | 2*kernel*(d//group) d",
    "mlp_conv.base_kernel! > ffn_conv_base= | 2 kernel d",
    "mlp_conv.kernel_projection > ffn_conv_proj | 2*kernel*(d//group) d",
)
"""What each layer of DFlash 2 has beside the matrices of a transformer."""

_TOP: Final = (
    "model.embed_tokens > token_embd | v d | ?",
    "model.norm > output_norm | d",
    "model.fc > fc | d len(seen)*d",
    "model.hidden_norm > enc.output_norm | d",
)
_BLOCKS: Final = (
    "f32 ~attention.value_scale = dflash_config['attention_value_scale']",
    "u32 ~block_size = first(dflash_config['block_size'], block_size, 16)",
    "i32s ~target_layers = [id + 1 for id in seen]",
    "u32 ~attention.sliding_window = window",
    "bools ~attention.sliding_window_pattern = None if window == None"
    " else 1 == 1 if dflash_config['use_swa'] == 1 else layer_types[layer] == 'sliding_attention'",
    "bool ~attention.causal = first(is_causal, dflash_config['causal'])",
)
"""How a block of tokens is drafted, and what the draft reads of the target."""
_METADATA: Final = (
    "u32 ~rope.dimension_count = int(head_dim * rope_fraction) if rope['partial_rotary_factor'] != None else None",
    *_BLOCKS,
    "u32 ~conv_kernel_size = kernel",
    "u32 ~conv_group_size = group if kernel != None else None",
    "u32 ~selector_rank = rank if kernel != None else None",
    "u32 ~selector_top_k = dflash_config['selector_top_k'] if kernel != None else None",
    f"f32 ~logit_scale = {_either('output_multiplier')}",
    f"f32 ~final_logit_softcapping = {_either('final_logit_softcapping')}"
    f" if first({_either('final_logit_softcapping')}, 0) > 0 else None",
    f"f32 ~embedding_scale = {_either('input_embedding_scale')}",
    "i32s ~rope.dimension_sections = [head_dim // 2, 0, 0, 0] if target_rope['mrope_section'] != None else None",
)
DFLASH: Final = FamilyTable(
    arch="dflash",
    classes=("DFlashDraftModel", "DFlash2DraftModel"),
    drafts=True,
    defaults=QWEN3.defaults,
    sizes={
        "seen": "first(dflash_config['target_layer_ids'], target_layer_ids, [])",
        "kernel": "dflash_config['conv_kernel_size']",
        "group": "dflash_config['conv_group_size']",
        "rank": "dflash_config['selector_rank']",
        "slides": "use_sliding_window == 1 or dflash_config['use_swa'] == 1",
        "window": "first(dflash_config['swa_window_size'], sliding_window) if slides else None",
        "target_rope": "first(target['rope_parameters'], target['rope_scaling'])",
    },
    renames=((r"^(?!model\.)", "model."),),
    top=(
        *_TOP,
        Rows(
            (
                "model.candidate_selector.predecessor_codebook! > selector_predecessor | v rank",
                "model.candidate_selector.successor_codebook! > selector_successor | v rank",
                "model.candidate_selector.hidden_projection > selector_hidden | rank d",
            ),
            when="kernel != None",
        ),
    ),
    output="model.lm_head > output | v d | ?",
    layer=(
        Rows((*NORMS, *GATED_FFN, "self_attn.sinks! > attn_sinks | n_head | ?")),
        Rows(_PAIRS, when="rope_is_neox_style == 0"),
        Rows(_HALVES, when="not rope_is_neox_style == 0"),
        Rows(_CONVOLUTIONS, when="kernel != None"),
    ),
    metadata=(*_METADATA, "u32 tokenizer.ggml.mask_token_id = dflash_config['mask_token_id']"),
    refusals=(
        NEEDS_TARGET,
        Refusal("len(seen) == 0", "config.json does not say which layers of the target the draft reads"),
        Refusal("file('mask_embedding.pt')", "the embedding of the mask is a pickle beside the weights"),
    ),
    skip=(
        (r"(^|\.)embed_tokens\.", "of an embedding, which is that of the target", "has_embed_tokens == 0"),
    ),
)

DSPARK: Final = replace(
    DFLASH,
    classes=(
        "Qwen3DSparkModel",
        "DSparkDraftModel",
        "DSparkSpeculator",
        "Lfm2DSparkDraftModel",
        "LingDSparkModel",
    ),
    sizes={
        **DFLASH.sizes,
        "seen": "first(dflash_config['target_layer_ids'] if dflash_config != None"
        " else [id - 1 for id in aux_hidden_state_layer_ids] if aux_hidden_state_layer_ids != None"
        " else target_layer_ids, target_layer_ids, [])",
        "w": "draft_vocab_size if first(draft_vocab_size, 0) > 0 else v",
        "listed": "stored('d2t') or stored('model.d2t')",
        "anchored": "first(sample_from_anchor, 1 if transformer_layer_config == None"
        " and aux_hidden_state_layer_ids == None else 0)",
    },
    as_stored=(
        (r"model\.markov_head\.markov_w1\.weight", "markov_w1.weight"),
        (r"model\.markov_head\.markov_w2\.weight", "markov_w2.weight"),
        (r"model\.confidence_head\.proj\.weight", "conf_proj.weight"),
        (r"model\.confidence_head\.proj\.bias", "conf_proj.bias"),
    ),
    output="model.lm_head > output | w d | ?",
    token_ids=("d2t = plus_index(integers('model.d2t')) if listed else None",),
    metadata=(
        *_METADATA,
        "bool ~sample_from_anchor = anchored == 1",
        "bool ~has_confidence_head = has('model.confidence_head.proj.weight')",
        "u32 tokenizer.ggml.mask_token_id = dflash_config['mask_token_id'] if dflash_config != None"
        " else mask_token_id",
    ),
    skip=(
        *DFLASH.skip,
        (r"(^|\.)lm_head\.", "of an output matrix, which is that of the target", "w == v"),
        *TABLES,
    ),
    refusals=(
        *DFLASH.refusals,
        Refusal(
            "len(integers('model.d2t')) != w if listed else w != v",
            "the table of tokens (d2t) has not as many as config.json says (draft_vocab_size)",
        ),
        Refusal(
            "markov_head_type != None and markov_head_type != 'vanilla'",
            "the Markov head is of a kind that llama.cpp does not know (markov_head_type)",
        ),
    ),
)
"""DFlash with a Markov head: a token also depends on the one before it in the block. A draft may have some of the
tokens of its target only (`draft_vocab_size`)."""

GEMMA4_DSPARK: Final = replace(
    DSPARK,
    classes=("Gemma4DSparkModel",),
    defaults={
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "full_attention": {
                "partial_rotary_factor": 0.25,
                "rope_theta": 1_000_000.0,
                "rope_type": "proportional",
            }
        },
    },
    sizes={
        **DFLASH.sizes,
        "h": "global_head_dim",
        "turned": "int(h * first(rope['partial_rotary_factor'], 0.25) / 2)",
    },
    n_head_kv="num_global_key_value_heads",
    head_dim="h",
    renames=(
        *DFLASH.renames,
        (r"^model\.confidence_proj\.", "model.confidence_head.proj."),
    ),
    top=_TOP,
    output=DFLASH.output,
    token_ids=(),
    layer=(
        Rows(
            (
                "input_layernorm > attn_norm | d",
                "post_attention_layernorm > post_attention_norm | d",
                "pre_feedforward_layernorm > ffn_norm | d",
                "post_feedforward_layernorm > post_ffw_norm | d",
                ATTENTION[0],
                ATTENTION[1],
                ATTENTION[3],
                *HEAD_NORMS,
                *GATED_FFN,
                "layer_scalar! > layer_output_scale | 1 | ?",
            )
        ),
    ),
    generated=(
        "rope_freqs.weight = join(fill(1.0, turned), fill(1e30, h // 2 - turned))"
        " if rope['rope_type'] == 'proportional' else None",
    ),
    metadata=(
        *_BLOCKS,
        "u32 ~rope.dimension_count = h",
        "f32 ~embedding_scale = sqrt(d)",
        "f32 ~attention.scale = 1.0",
        "str ~hidden_activation = 'gelu_pytorch_tanh'",
        "bool ~sample_from_anchor = first(sample_from_anchor, 1) == 1",
        "bool ~has_confidence_head = has('model.confidence_head.proj.weight')",
        f"u32 tokenizer.ggml.mask_token_id = {_either('mask_token_id')}",
    ),
    skip=(),
    refusals=(
        *DFLASH.refusals,
        Refusal("not attention_k_eq_v == 1", "keys and values are not the same (attention_k_eq_v)"),
        Refusal("layer_types[layer] != 'full_attention'", "a layer has no full attention", per_layer=True),
        Refusal("attention_bias == 1 or enable_moe_block == 1", "it has biases of attention or experts"),
        Refusal("hidden_activation != 'gelu_pytorch_tanh'", "its activation is not GELU (hidden_activation)"),
        Refusal(
            "first(draft_vocab_size, v) != v", "the draft has a vocabulary of its own (draft_vocab_size)"
        ),
        Refusal("first(final_logit_softcapping, 0) != 0", "the logits are capped (final_logit_softcapping)"),
        Refusal(
            f"first({_either('markov_head_type')}, 'vanilla') != 'vanilla'",
            "the Markov head is of a kind that llama.cpp does not know (markov_head_type)",
        ),
        Refusal(
            f"{_either('mask_token_id')} == None", "config.json names no token of the mask (mask_token_id)"
        ),
        Refusal(
            "not has('model.lm_head.weight') and not tie_word_embeddings == 1", "the output matrix is missing"
        ),
    ),
)
"""The drafts of Gemma 4, whose matrices of values are those of the keys."""

MUSE_GLIMMER_ASSISTANT: Final = FamilyTable(
    arch="dflash",
    classes=("MuseGlimmerAssistantModel",),
    drafts=True,
    defaults={
        "hidden_size": 6656,
        "intermediate_size": 19968,
        "num_hidden_layers": 5,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "sliding_window": 2048,
        "block_size": 16,
        "mask_token_id": 201818,
        "target_layer_ids": [1, 13, 25, 37, 49],
    },
    rope_theta=500_000.0,
    top=(
        "norm > output_norm | d",
        "encoder.fc > fc | d len(target_layer_ids)*d",
        "encoder.output_norm_enc > enc.output_norm | d",
    ),
    output=None,
    layer_prefix="layers",
    layer=(Rows((*NORMS, *ATTENTION, *HEAD_NORMS, *GATED_FFN)),),
    metadata=(
        "u32 ~block_size = block_size",
        "i32s ~target_layers = [id + 1 for id in target_layer_ids]",
        "u32 ~attention.sliding_window = sliding_window",
        "bools ~attention.sliding_window_pattern = layer_types == None or layer_types[layer] == 'sliding_attention'",
        "u32 tokenizer.ggml.mask_token_id = mask_token_id",
    ),
    refusals=(NEEDS_TARGET,),
)
"""The draft of Muse Glimmer as transformers has it: DFlash under other names."""
