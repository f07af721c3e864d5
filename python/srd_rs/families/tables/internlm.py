"""Other names of the InternLM and InternVL models."""

from __future__ import annotations

from typing import Final

COMPOSITES: Final = ("InternVLForConditionalGeneration", "InternVLChatModel")
MODEL_TYPES: Final = {"internlm2": "InternLM2ForCausalLM"}
