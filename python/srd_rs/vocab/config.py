"""This module reads tokenizer_config.json and special_tokens_map.json, which name special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from srd_rs.vocab.files import read_json

_ROLE_KEYS: Final = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_MORE_SPECIAL: Final = ("additional_special_tokens", "extra_special_tokens")


def read_config(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json. What the file leaves out comes from special_tokens_map.json, which older
    folders have. As in transformers, that file counts more than a tokenizer_config.json without
    ``added_tokens_decoder``, which is as old. The lists of further special tokens are joined."""
    config = read_json(folder / "tokenizer_config.json") or {}
    is_old = "added_tokens_decoder" not in config
    for key, value in (read_json(folder / "special_tokens_map.json") or {}).items():
        if key in _MORE_SPECIAL:
            config[key] = [*_entries(config.get(key)), *_entries(value)]
        elif key not in config or (is_old and value is not None):
            config[key] = value
    return config


def token_text(entry: object) -> str | None:
    """Return the text of a special token, which is written as text or as an object with ``content``."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def named_tokens(config: dict[str, Any]) -> list[str]:
    """Return the texts that a configuration names as special, each once: the tokens of roles (``bos_token`` and the
    like, or a model's own) and the additional ones. The order is that in which transformers adds them."""
    roles = [key for key in config if key.endswith("_token") and key not in _ROLE_KEYS]
    entries = [config.get(key) for key in (*_ROLE_KEYS, *roles)]
    for key in _MORE_SPECIAL:
        entries += _entries(config.get(key))
    return list(dict.fromkeys(text for entry in entries if (text := token_text(entry))))


def _entries(value: object) -> list[Any]:
    """Return a list of tokens, which may be written as an object from name to token."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
