"""Rows and lines that the encoders of several vendors share."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import Refusal, Rows


def head(feed_forward: str = "i") -> tuple[str, ...]:
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


LEAST_PIXELS: Final = "first(preprocessor['min_pixels'], preprocessor['size']['shortest_edge'])"
MOST_PIXELS: Final = "first(preprocessor['max_pixels'], preprocessor['size']['longest_edge'])"
"""How many pixels a picture may have. transformers 5 saves the numbers as `size`."""
PIXELS: Final = (
    f"u32 ~vision.image_min_pixels = {LEAST_PIXELS}",
    f"u32 ~vision.image_max_pixels = {MOST_PIXELS}",
)
NO_PIXELS: Final = Refusal(
    f"{LEAST_PIXELS} is None or {MOST_PIXELS} is None",
    "preprocessor_config.json lacks min_pixels or max_pixels, which say how large a picture may be",
    "Download preprocessor_config.json as well",
)

SIZES: Final = {
    "w": "hidden_size",
    "i": "intermediate_size",
    "t": "text['hidden_size']",
    "p": "patch_size",
    "c": "first(num_channels, in_channels, in_chans, 3)",
    "n_image": "image_size",
}
SIGLIP_LAYER: Final = (
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
SIGLIP_SIZES: Final = {**SIZES, "n_pos": "(image_size // patch_size) * (image_size // patch_size)"}
SIGLIP_DEFAULTS: Final = {
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_size": 16,
}


def siglip_top(prefix: str, patch: str = "") -> tuple[str, ...]:
    """Return the tensors outside the layers. `patch` are flags of the matrix for patches."""
    return (
        f"{prefix}.embeddings.patch_embedding > v.patch_embd | w c p p | bias {patch}",
        f"{prefix}.embeddings.position_embedding > v.position_embd | n_pos w | f32",
        f"{prefix}.post_layernorm > v.post_ln | w | bias",
    )


QWEN_PATCH: Final = (
    "visual.patch_embed.proj > v.patch_embd | w c 2 p p | slice(2,0,1) reshape(w,c,p,p)",
    "visual.patch_embed.proj > v.patch_embd=.weight.1 | w c 2 p p | slice(2,1,1) reshape(w,c,p,p)",
)
GATED: Final = (
    "mlp.gate_proj > ffn_gate | i w | bias",
    "mlp.up_proj > ffn_up | i w | bias",
    "mlp.down_proj > ffn_down | w i | bias",
)
VISUAL: Final = ((r"^model\.visual\.", "visual."),)
"""Newer files of Qwen and GLM put `model.` before the names of the encoder."""

VISION_MODEL: Final = (
    (r"^model\.(vision_tower|multi_modal_projector|vision_model)\.", r"\1."),
    (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
)
"""Newer files put `model.` before the names of the encoder and of the projector, and leave out `vision_model.`."""
