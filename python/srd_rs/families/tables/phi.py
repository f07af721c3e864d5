"""Other names of the Phi models."""

from __future__ import annotations

from typing import Final

SPELLINGS: Final = {"Phi4ForCausalLMV": "Phi3ForCausalLM"}
MODEL_TYPES: Final = {"phi3": "Phi3ForCausalLM"}
