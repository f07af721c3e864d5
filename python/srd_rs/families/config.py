"""This module gives the families one form of config.json: one level, one spelling, class defaults filled in,
every value checked.

Published files come in two generations. `normalize` merges the text part of a multimodal model into the top
level, gives each value its usual name, and fills in the defaults of the configuration class in transformers,
because a raw config.json leaves them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from srd_rs.checkpoint import flatten
from srd_rs.errors import ModelError, message
from srd_rs.reading import shown

MAX_COUNT: Final = 2**31 - 1
"""Readers of GGUF keep counts and sizes of a model in 32 bits."""

_SPELLINGS: Final[dict[str, tuple[str, ...]]] = {
    "num_hidden_layers": ("n_layers", "n_layer", "num_layers"),
    "hidden_size": ("n_embd", "dim"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("n_kv_heads", "num_kv_heads"),
    "max_position_embeddings": (
        "n_ctx",
        "n_positions",
        "max_length",
        "max_sequence_length",
        "model_max_length",
    ),
    "num_experts": ("num_local_experts", "n_routed_experts"),
    "num_experts_per_tok": ("num_experts_per_token", "top_k_experts"),
}


class Config:
    """A configuration with checked access. A value of null counts as absent."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], file: Path) -> None:
        self.values: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
        self.defaults = defaults
        self.file = file

    def get(self, key: str, default: Any = None) -> Any:
        """Return the raw value of the file, else that of the class, else `default`."""
        value = self.values.get(key)
        if value is None:
            value = self.defaults.get(key)
        return default if value is None else value

    def stated(self, key: str) -> bool:
        """Say whether the file itself has the value."""
        return key in self.values

    def error(self, what: str, fix: str = "Correct config.json") -> ModelError:
        return ModelError(message(self.file, what, fix))

    def count(self, key: str, *, least: int = 1) -> int:
        """Return an integer from `least` to 2^31 - 1, which must be there."""
        value = self.get(key)
        if value is None:
            raise self.error(f"{key} is missing", f"Add {key} to config.json")
        return self.check_count(key, value, least=least)

    def optional_count(self, key: str, *, least: int = 1) -> int | None:
        value = self.get(key)
        return None if value is None else self.check_count(key, value, least=least)

    def check_count(self, key: str, value: object, *, least: int = 1) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{key} is {shown(value)}, an integer is expected")
        if not least <= value <= MAX_COUNT:
            raise self.error(f"{key} is {shown(value)}, it must be from {least} to {MAX_COUNT}")
        return value

    def number(self, key: str) -> float:
        """Return a finite number greater than zero, which must be there."""
        value = self.get(key)
        if value is None:
            raise self.error(f"{key} is missing", f"Add {key} to config.json")
        return self.check_number(key, value)

    def optional_number(self, key: str) -> float | None:
        value = self.get(key)
        return None if value is None else self.check_number(key, value)

    def check_number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(f"{key} is {shown(value)}, a number is expected")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or number <= 0:
            raise self.error(f"{key} is {shown(value)}, it must be finite and greater than 0")
        return number

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {shown(value)}, true or false is expected")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a JSON object, which is empty if the key is absent."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key} is {shown(value)}, an object is expected")
        return value

    def strings(self, key: str, length: int | None = None) -> list[str] | None:
        """Return a list of strings, with `length` entries if a length is given; None if the key is absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} is {shown(value)}, a list of strings is expected")
        if length is not None and len(value) != length:
            raise self.error(f"{key} has {len(value)} entries for {length} layers")
        return list(value)

    def numbers(self, key: str, value: object, length: int) -> list[float]:
        """Return `value` as a list of `length` finite numbers greater than zero."""
        if not isinstance(value, list):
            raise self.error(f"{key} is {shown(value)}, a list of numbers is expected")
        if len(value) != length:
            raise self.error(f"{key} has {len(value)} entries, {length} are expected")
        return [self.check_number(f"{key}[{index}]", item) for index, item in enumerate(value)]


def normalize(
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    file: Path,
    spellings: Mapping[str, Sequence[str]] | None = None,
) -> Config:
    """Return config.json in the form that the head of the module describes. `spellings` are a family's own: they
    map the usual name of a value to other names, and the first name that is found counts."""
    values = flatten(config)
    for usual, others in {**_SPELLINGS, **(spellings or {})}.items():
        for other in others:
            if values.get(usual) is None and values.get(other) is not None:
                values[usual] = values[other]
    return Config(values, defaults, file)
