"""Other names of the Mistral models."""

from __future__ import annotations

from typing import Final

COMPOSITES: Final = ("VoxtralForConditionalGeneration",)
MODEL_TYPES: Final = {"mistral": "MistralForCausalLM"}
