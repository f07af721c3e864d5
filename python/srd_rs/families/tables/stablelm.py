"""Other names of the StableLM models."""

from __future__ import annotations

from typing import Final

SPELLINGS: Final = {"LlavaStableLMEpochForCausalLM": "StableLMEpochForCausalLM"}
