"""Which models are encoders: their tokens attend to those behind them as well, and most write no text.

is_encoder({"general.architecture": "bert", "bert.attention.causal": False})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_UNMARKED: Final = ("gemma-embedding",)
"""Architectures of encoders whose metadata does not say so."""


def is_encoder(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata of a GGUF is that of an encoder.

    >>> is_encoder({"general.architecture": "bert", "bert.attention.causal": False})
    True
    >>> is_encoder({"general.architecture": "llama"})
    False
    """
    arch = metadata.get("general.architecture")
    return arch in _UNMARKED or metadata.get(f"{arch}.attention.causal", True) is False
