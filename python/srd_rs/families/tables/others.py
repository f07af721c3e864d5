"""Classes that are known and not converted, with the reason and with what to do instead."""

from __future__ import annotations

from typing import Final

_DRAFT: Final = (
    "are drafts of DeepSeek V4, which srd-rs does not write",
    "Convert the other model alone, or make the draft with llama.cpp's converter and its option --target-model-dir",
)
_VOICE: Final = (
    "speak, and srd-rs writes models that read, see and hear only",
    "Use llama.cpp's converter for this model",
)

REFUSED: Final = {
    "DeepseekV4DSparkModel": _DRAFT,
    **dict.fromkeys(
        ("Lfm25AudioTokenizer", "PocketTTSModel", "Qwen3TTSForConditionalGeneration", "WavTokenizerDec"),
        _VOICE,
    ),
    "UltravoxModel": (
        "hold an encoder of sound alone: the text model is a checkpoint of its own (text_model_id)",
        "Convert this model with --mmproj-only, and the text model by itself",
    ),
}
