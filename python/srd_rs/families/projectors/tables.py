"""The tables of the projectors: one `FamilyTable` for each layout, read by `srd_rs.families.projectors`."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import FamilyTable, Rows, Stack


def _head(feed_forward: str = "i") -> tuple[str, ...]:
    """Return what every encoder of pictures writes. The sizes are w (width), i (feed-forward width), t (width of the
    text model), p (side of a patch) and c (channels)."""
    return (
        "bool ~has_vision_encoder = 1 == 1",
        "u32 ~vision.projection_dim = t",
        "u32 ~vision.image_size = n_image",
        "u32 ~vision.patch_size = p",
        "u32 ~vision.embedding_length = w",
        f"u32 ~vision.feed_forward_length = {feed_forward}",
        "u32 ~vision.block_count = n_layer",
        "u32 ~vision.attention.head_count = n_head",
        "f32s ~vision.image_mean = preprocessor['image_mean']",
        "f32s ~vision.image_std = preprocessor['image_std']",
    )


_SIZES: Final = {
    "w": "hidden_size",
    "i": "intermediate_size",
    "t": "text['hidden_size']",
    "p": "patch_size",
    "c": "first(num_channels, in_channels, in_chans, 3)",
    "n_image": "image_size",
}
_SIGLIP_LAYER: Final = (
    Rows(
        (
            "layer_norm1 > ln1 | w | bias",
            "layer_norm2 > ln2 | w | bias",
            "self_attn.q_proj > attn_q | w w | bias",
            "self_attn.k_proj > attn_k | w w | bias",
            "self_attn.v_proj > attn_v | w w | bias",
            "self_attn.out_proj > attn_out | w w | bias",
            "mlp.fc1 > ffn_up | i w | bias",
            "mlp.fc2 > ffn_down | w i | bias",
        )
    ),
)
_SIGLIP_SIZES: Final = {**_SIZES, "n_pos": "(image_size // patch_size) * (image_size // patch_size)"}
_SIGLIP_DEFAULTS: Final = {
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_size": 16,
}


def _siglip_top(prefix: str) -> tuple[str, ...]:
    return (
        f"{prefix}.embeddings.patch_embedding > v.patch_embd | w c p p | bias f32",
        f"{prefix}.embeddings.position_embedding > v.position_embd | n_pos w | f32",
        f"{prefix}.post_layernorm > v.post_ln | w | bias",
    )


GEMMA3: Final = FamilyTable(
    arch="clip",
    classes=("Gemma3ForConditionalGeneration",),
    defaults=_SIGLIP_DEFAULTS,
    sizes={
        **_SIGLIP_SIZES,
        "scale": "(image_size // patch_size) // int(sqrt(first(preprocessor['image_seq_length'], 256)))",
    },
    renames=((r"^model\.", ""), (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.")),
    skip=((r"vision_model\.head\.", "of the head of the encoder, which is not used"),),
    layer_prefix="vision_tower.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *_siglip_top("vision_tower.vision_model"),
        "multi_modal_projector.mm_input_projection_weight! > mm.input_projection | w t",
        "multi_modal_projector.mm_soft_emb_norm > mm.soft_emb_norm | w | plus_one",
    ),
    layer=_SIGLIP_LAYER,
    metadata=(
        *_head(),
        "str ~projector_type = 'gemma3'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.projector.scale_factor = scale if scale > 0 and scale != 4 else None",
    ),
)

SMOLVLM: Final = FamilyTable(
    arch="clip",
    classes=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    defaults={**_SIGLIP_DEFAULTS, "hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32},
    sizes={**_SIGLIP_SIZES, "fold": "first(whole['scale_factor'], 2) * first(whole['scale_factor'], 2)"},
    layer_prefix="model.vision_model.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        *_siglip_top("model.vision_model"),
        "model.connector.modality_projection.proj > mm.model.fc | t fold*w",
    ),
    layer=_SIGLIP_LAYER,
    metadata=(
        *_head(),
        "str ~projector_type = 'idefics3'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
        "u32 ~vision.projector.scale_factor = first(whole['scale_factor'], 2)",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.preproc_image_size = first(preprocessor['size']['longest_edge'], image_size)",
    ),
)

_QWEN_PATCH: Final = (
    "visual.patch_embed.proj > v.patch_embd | w c 2 p p | slice(2,0,1) reshape(w,c,p,p)",
    "visual.patch_embed.proj > v.patch_embd=.weight.1 | w c 2 p p | slice(2,1,1) reshape(w,c,p,p)",
)
_QWEN_QKV: Final = (
    "attn.qkv > attn_q | 3*w w | bias rows(0,w)",
    "attn.qkv > attn_k | 3*w w | bias rows(w,w)",
    "attn.qkv > attn_v | 3*w w | bias rows(2*w,w)",
    "attn.proj > attn_out | w w | bias",
)
_GATED: Final = (
    "mlp.gate_proj > ffn_gate | i w | bias",
    "mlp.up_proj > ffn_up | i w | bias",
    "mlp.down_proj > ffn_down | w i | bias",
)
_QWEN_DEFAULTS: Final = {"depth": 32, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}

QWEN2_VL: Final = FamilyTable(
    arch="clip",
    classes=("Qwen2VLForConditionalGeneration", "Qwen2VLModel"),
    defaults={**_QWEN_DEFAULTS, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4},
    sizes={
        **_SIZES,
        "w": "embed_dim",
        "i": "embed_dim * mlp_ratio",
        "n_image": "first(image_size, 560)",
        "m": "spatial_merge_size * spatial_merge_size * embed_dim",
    },
    renames=((r"^model\.visual\.", "visual."),),
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *_QWEN_PATCH,
        "visual.merger.ln_q > v.post_ln | w | bias",
        "visual.merger.mlp.0 > mm.0 | m m | bias",
        "visual.merger.mlp.2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w | bias",
                "norm2 > ln2 | w | bias",
                *_QWEN_QKV,
                "mlp.fc1 > ffn_up | i w | bias",
                "mlp.fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    metadata=(
        *_head("first(hidden_size, t)"),  # llama.cpp's converter writes the width of the text model
        "str ~projector_type = 'qwen2vl_merger'",
        "f32 ~vision.attention.layer_norm_epsilon = first(whole['rms_norm_eps'], 1e-6)",
    ),
)

QWEN25_VL: Final = FamilyTable(
    arch="clip",
    classes=("Qwen2_5_VLForConditionalGeneration",),
    defaults={**_QWEN_DEFAULTS, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
    sizes={
        **_SIZES,
        "n_image": "first(image_size, 560)",
        "m": "spatial_merge_size * spatial_merge_size * hidden_size",
        "window": "fullatt_block_indexes[0] + 1",
    },
    renames=QWEN2_VL.renames,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *_QWEN_PATCH,
        "visual.merger.ln_q > v.post_ln | w",
        "visual.merger.mlp.0 > mm.0 | m m | bias",
        "visual.merger.mlp.2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                *_QWEN_QKV,
                *_GATED,
            )
        ),
    ),
    metadata=(
        *_head(),
        "str ~projector_type = 'qwen2.5vl_merger'",
        "bool ~use_silu = 1 == 1",
        "u32 ~vision.n_wa_pattern = window",
        "f32 ~vision.attention.layer_norm_epsilon = first(whole['rms_norm_eps'], 1e-6)",
    ),
)

QWEN3_VL: Final = FamilyTable(
    arch="clip",
    classes=(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    ),
    defaults={
        **_QWEN_DEFAULTS,
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "patch_size": 16,
        "deepstack_visual_indexes": [],
    },
    sizes={
        **_SIZES,
        "n_image": "first(image_size, int(sqrt(num_position_embeddings) * patch_size))",
        "m": "spatial_merge_size * spatial_merge_size * hidden_size",
    },
    renames=QWEN2_VL.renames,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *_QWEN_PATCH,
        "visual.patch_embed.proj.bias! > v.patch_embd=.bias | w",
        "visual.pos_embed > v.position_embd | num_position_embeddings w | f32",
        "visual.merger.norm > v.post_ln | w | bias",
        "visual.merger.linear_fc1 > mm.0 | m m | bias",
        "visual.merger.linear_fc2 > mm.2 | t m | bias",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w | bias",
                "norm2 > ln2 | w | bias",
                "attn.qkv > attn_qkv | 3*w w | bias",
                "attn.proj > attn_out | w w | bias",
                "mlp.linear_fc1 > ffn_up | i w | bias",
                "mlp.linear_fc2 > ffn_down | w i | bias",
            )
        ),
    ),
    stacks=(
        Stack(
            "visual.deepstack_merger_list",
            "v.deepstack",
            "len(deepstack_visual_indexes)",
            (
                Rows(
                    (
                        "norm > norm | m | bias",
                        "linear_fc1 > fc1 | m m | bias",
                        "linear_fc2 > fc2 | t m | bias",
                    )
                ),
            ),
            number="deepstack_visual_indexes[layer]",
        ),
    ),
    metadata=(
        *_head(),
        "str ~projector_type = 'qwen3vl_merger'",
        "bool ~use_gelu = 1 == 1",
        "u32 ~vision.spatial_merge_size = spatial_merge_size",
        "f32 ~vision.attention.layer_norm_epsilon = first(whole['text_config']['rms_norm_eps'], 1e-6)",
        "bools ~vision.is_deepstack_layers = layer in deepstack_visual_indexes",
    ),
)

PIXTRAL: Final = FamilyTable(
    arch="clip",
    classes=("Mistral3ForConditionalGeneration", "LlavaForConditionalGeneration"),
    defaults={
        "hidden_size": 1024,
        "image_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 16,
        "hidden_act": "gelu",
    },
    sizes={**_SIZES, "merged": "whole['spatial_merge_size'] * whole['spatial_merge_size'] * hidden_size"},
    renames=((r"^model\.", ""),),
    layer_prefix="vision_tower.transformer.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "vision_tower.patch_conv > v.patch_embd | w c p p",
        "vision_tower.ln_pre > v.pre_ln | w",
        "multi_modal_projector.linear_1 > mm.1 | t w | bias?",
        "multi_modal_projector.linear_2 > mm.2 | t t | bias?",
        Rows(
            (
                "multi_modal_projector.norm > mm.input_norm | w",
                "multi_modal_projector.patch_merger.merging_layer > mm.patch_merger | w merged",
            ),
            when="has('multi_modal_projector.patch_merger.merging_layer.weight')",
        ),
    ),
    layer=(
        Rows(
            (
                "attention_norm > ln1 | w",
                "ffn_norm > ln2 | w",
                "attention.q_proj > attn_q | w w | permute_q",
                "attention.k_proj > attn_k | w w | permute_q",
                "attention.v_proj > attn_v | w w",
                "attention.o_proj > attn_out | w w",
                "feed_forward.gate_proj > ffn_gate | i w",
                "feed_forward.up_proj > ffn_up | i w",
                "feed_forward.down_proj > ffn_down | w i",
            )
        ),
    ),
    metadata=(
        *_head(),
        "str ~projector_type = 'pixtral'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-5)",
        "bool ~use_silu = None if hidden_act != 'silu' else 1 == 1",
        "bool ~use_gelu = None if hidden_act != 'gelu' else 1 == 1",
        "u32 ~vision.spatial_merge_size = whole['spatial_merge_size']",
    ),
)

_CLIPS: Final = ("input_max", "input_min", "output_max", "output_min")
"""The ends of the range to which a linear layer of Gemma 4 clips its inputs and outputs. Not every model has them."""


def _clipped(row: str) -> tuple[str, ...]:
    """Return the rows of a linear layer: its matrix, ``NAME.linear``, and the ends of its ranges."""
    source, _, rest = row.partition(" > ")
    target, _, sizes = rest.partition(" | ")
    ends = (f"{source}.{end}! > {target}=.{end} | scalar | ? reshape(1)" for end in _CLIPS)
    return (f"{source}.linear > {target} | {sizes}", *ends)


GEMMA4: Final = FamilyTable(
    arch="clip",
    classes=("Gemma4ForConditionalGeneration",),
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "patch_size": 16,
        "position_embedding_size": 10240,
    },
    sizes={**_SIZES, "n_image": "224", "k": "first(num_key_value_heads, num_attention_heads) * head_dim"},
    renames=((r"^model\.", ""),),
    skip=((r"audio", "of the audio encoder, which is not written yet: the model sees, but does not hear"),),
    layer_prefix="vision_tower.encoder.layers",
    layer_target="v.blk",
    output=None,
    top=(
        "embed_vision.embedding_projection > mm.input_projection | t w",
        "vision_tower.patch_embedder.input_proj > v.patch_embd | w 3*p*p | reshape(w,p,p,3) axes(0,3,1,2)",
        "vision_tower.patch_embedder.position_embedding_table! > v.position_embd | 2 position_embedding_size w | f32",
    ),
    layer=(
        Rows(
            (
                "input_layernorm > ln1 | w",
                "post_attention_layernorm > attn_post_norm | w",
                "pre_feedforward_layernorm > ln2 | w",
                "post_feedforward_layernorm > ffn_post_norm | w",
                "self_attn.q_norm > attn_q_norm | head_dim",
                "self_attn.k_norm > attn_k_norm | head_dim",
                *_clipped("self_attn.q_proj > attn_q | n_head*head_dim w"),
                *_clipped("self_attn.k_proj > attn_k | k w"),
                *_clipped("self_attn.v_proj > attn_v | k w"),
                *_clipped("self_attn.o_proj > attn_out | w n_head*head_dim"),
                *_clipped("mlp.gate_proj > ffn_gate | i w"),
                *_clipped("mlp.up_proj > ffn_up | i w"),
                *_clipped("mlp.down_proj > ffn_down | w i"),
            )
        ),
    ),
    metadata=(
        *_head(),
        "str ~vision.projector_type = 'gemma4v'",
        "f32 ~vision.attention.layer_norm_epsilon = first(layer_norm_eps, 1e-6)",
    ),
)

GLM_OCR: Final = FamilyTable(
    arch="clip",
    classes=("GlmOcrForConditionalGeneration",),
    defaults={
        "depth": 24,
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 1536,
        "patch_size": 14,
        "spatial_merge_size": 2,
    },
    sizes={
        **_SIZES,
        "o": "out_hidden_size",
        "s": "spatial_merge_size",
        "merger": "rows_of('visual.merger.gate_proj.weight')",
        "head": "hidden_size // num_heads",
    },
    renames=QWEN2_VL.renames,
    n_layer="depth",
    n_head="num_heads",
    layer_prefix="visual.blocks",
    layer_target="v.blk",
    output=None,
    top=(
        *_QWEN_PATCH,
        "visual.patch_embed.proj.bias! > v.patch_embd=.bias | w",
        "visual.post_layernorm > v.post_ln | w",
        "visual.downsample > mm.patch_merger | o w s s | bias",
        "visual.merger.proj > mm.model.fc | o o",
        "visual.merger.post_projection_norm > mm.post_norm | o | bias",
        "visual.merger.gate_proj > mm.gate | merger o",
        "visual.merger.up_proj > mm.up | merger o",
        "visual.merger.down_proj > mm.down | o merger",
    ),
    layer=(
        Rows(
            (
                "norm1 > ln1 | w",
                "norm2 > ln2 | w",
                "attn.q_norm > attn_q_norm | head",
                "attn.k_norm > attn_k_norm | head",
                "attn.qkv > attn_qkv | 3*w w | bias",
                "attn.proj > attn_out | w w | bias",
                *_GATED,
            )
        ),
    ),
    metadata=(
        *_head(),
        "str ~projector_type = 'glm4v'",
        "bool ~use_silu = 1 == 1",
        "f32 ~vision.attention.layer_norm_epsilon = first(rms_norm_eps, 1e-5)",
    ),
)

PROJECTORS: Final = (GEMMA3, GEMMA4, SMOLVLM, QWEN2_VL, QWEN25_VL, QWEN3_VL, PIXTRAL, GLM_OCR)
ONLY_WITH: Final = {"LlavaForConditionalGeneration": "pixtral"}
"""Classes whose projector is written for one `model_type` of the encoder of pictures only: llama.cpp's converter knows
no other."""
