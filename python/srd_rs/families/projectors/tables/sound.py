"""Rows and lines that the encoders of sound of several vendors share."""

from __future__ import annotations

from typing import Final

from srd_rs.families.schema import Rows


def sound_head(layers: str = "n_layer", heads: str = "n_head") -> tuple[str, ...]:
    """Return what every encoder of sound writes. The sizes are a (width), ai (feed-forward width) and t (width of the
    text model)."""
    return (
        "bool ~has_audio_encoder = 1 == 1",
        "u32 ~audio.projection_dim = t",
        "u32 ~audio.embedding_length = a",
        "u32 ~audio.feed_forward_length = ai",
        f"u32 ~audio.block_count = {layers}",
        f"u32 ~audio.attention.head_count = {heads}",
    )


WHISPER_SIZES: Final = {
    "a": "first(audio['hidden_size'], audio['d_model'], 1280)",
    "ai": "first(audio['intermediate_size'], audio['encoder_ffn_dim'], 5120)",
    "mel": "first(audio['num_mel_bins'], 128)",
    "t": "text['hidden_size']",
    "n_sound": "first(audio['encoder_layers'], audio['num_hidden_layers'], 32)",
    "sound_heads": "first(audio['encoder_attention_heads'], audio['num_attention_heads'], 20)",
}
WHISPER_LINES: Final = (
    "u32 ~audio.num_mel_bins = mel",
    "f32 ~audio.attention.layer_norm_epsilon = first(audio['layer_norm_eps'], 1e-5)",
)
WHISPER_LAYER: Final = (
    Rows(
        (
            "self_attn_layer_norm > ln1 | a | bias",
            "final_layer_norm > ln2 | a | bias",
            "self_attn.q_proj > attn_q | a a | bias",
            "self_attn.k_proj > attn_k | a a | bias?",
            "self_attn.v_proj > attn_v | a a | bias",
            "self_attn.out_proj > attn_out | a a | bias",
            "fc1 > ffn_up | ai a | bias",
            "fc2 > ffn_down | a ai | bias",
        )
    ),
)


def convolutions(flags: str = "f16") -> tuple[str, ...]:
    """Return the two convolutions before the layers of Whisper. llama.cpp adds their biases to columns, and
    does not read convolutions in BF16 or Q8_0."""
    return (
        f"audio_tower.conv1 > a.conv1d.1 | a mel 3 | {flags}",
        "audio_tower.conv1.bias! > a.conv1d.1=.bias | a | reshape(a, 1)",
        f"audio_tower.conv2 > a.conv1d.2 | a a 3 | {flags}",
        "audio_tower.conv2.bias! > a.conv1d.2=.bias | a | reshape(a, 1)",
    )
