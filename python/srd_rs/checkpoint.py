"""A Hugging Face checkpoint folder: its configuration, and what tensors it has. No weight is read here."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srd_rs.errors import FormatError, SrdIOError, message

MAX_CONFIG_BYTES: Final = 16 << 20
"""The largest configuration file that is read; published ones have a few KB."""


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the checkpoint: safetensors dtype name (``"BF16"``), shape row-major, and the file that
    holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str


@dataclass
class Checkpoint:
    """A model folder. `tensors` is in file order, shard by shard."""

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any] | None = None
    tensors: dict[str, SourceTensor] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Read config.json, generation_config.json and the shard headers of `folder`.

        Raises SrdIOError if a file cannot be read, FormatError if one breaks its format. A broken
        generation_config.json is passed over: it only holds advice, and published ones are not always valid.
        """
        from srd_rs import _core

        folder = Path(folder)
        config = load_json(folder / "config.json")
        generation = folder / "generation_config.json"
        generation_config = None
        if generation.is_file():
            with suppress(FormatError):
                generation_config = load_json(generation)
        listed = _core.read_checkpoint(str(folder))
        tensors = {
            name: SourceTensor(name, dtype, tuple(shape), shard) for name, dtype, shape, shard in listed
        }
        return cls(folder, config, generation_config, tensors)


def read_limited(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises SrdIOError or FormatError."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise SrdIOError(message(path, f"cannot read: {error.strerror or error}", "Check the path")) from None
    if len(data) > limit:
        raise FormatError(
            message(path, f"larger than {limit} bytes", "This is not a file of a model; replace it")
        )
    return data


def load_json(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object from a UTF-8 file. A duplicate key is an error: readers differ on which value counts."""
    data = read_limited(path, limit)
    fix = "Download the file again"
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise FormatError(message(path, f"not UTF-8 at byte {error.start}", fix)) from None
    except _DuplicateKeyError as error:
        raise FormatError(message(path, f"the key {error} occurs twice", "Delete the wrong one")) from None
    except json.JSONDecodeError as error:
        raise FormatError(
            message(path, f"not JSON: {error.msg} at line {error.lineno} column {error.colno}", fix)
        ) from None
    except RecursionError:
        raise FormatError(message(path, "JSON nested too deep", fix)) from None
    except ValueError as error:  # an integer with thousands of digits
        raise FormatError(message(path, f"not JSON: {error}", fix)) from None
    if not isinstance(value, dict):
        raise FormatError(message(path, f"a JSON object is expected, found {type(value).__name__}", fix))
    return value


class _DuplicateKeyError(Exception):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(repr(key))
            seen.add(key)
    return result
