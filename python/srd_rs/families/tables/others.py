"""Classes that are known and not converted, with the reason and with what to do instead."""

from __future__ import annotations

from typing import Final

_VOICE: Final = (
    "speak, and srd-rs writes models that read, see and hear only",
    "Use llama.cpp's converter for this model",
)

REFUSED: Final = {
    **dict.fromkeys(
        ("Lfm25AudioTokenizer", "PocketTTSModel", "Qwen3TTSForConditionalGeneration", "WavTokenizerDec"),
        _VOICE,
    ),
    "UltravoxModel": (
        "hold an encoder of sound alone: the text model is a checkpoint of its own (text_model_id)",
        "Convert this model with --mmproj-only, and the text model by itself",
    ),
}
