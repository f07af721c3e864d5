"""GGUF metadata: typed key/values in the order in which they are written."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from srd_rs.errors import ModelError, message
from srd_rs.reading import shown

_INTEGER_RANGES: Final[dict[str, tuple[int, int]]] = {
    "UINT8": (0, 2**8 - 1),
    "INT8": (-(2**7), 2**7 - 1),
    "UINT16": (0, 2**16 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "UINT32": (0, 2**32 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "UINT64": (0, 2**64 - 1),
    "INT64": (-(2**63), 2**63 - 1),
}
_MAX_KEY_BYTES: Final = 65535
_FLOAT32_SAFE: Final = 1e38


def _scalar(key: str, kind: str, value: object) -> object:
    """`value` as the Python type of `kind`, or a ModelError that names `key`."""
    if kind in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[kind]
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return int(value)
    elif kind in ("FLOAT32", "FLOAT64"):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _float(key, kind, value)
    elif kind == "BOOL":
        if isinstance(value, bool):
            return value
    elif kind == "STRING":
        if isinstance(value, str):
            _utf8(key, value)
            return value
    else:
        raise ValueError(f"'{kind}' is no GGUF value type")
    what = f"{shown(value)} does not fit GGUF type {kind}"
    raise ModelError(
        message(f"metadata key '{key}'", what, "Correct the value it comes from in the model's files")
    )


def _all_fit(kind: str, items: list[Any]) -> bool:
    """Whether a whole array needs no conversion: a vocabulary has a million elements, and one look at all of them
    is quicker than one at each."""
    types = set(map(type, items))
    if kind == "STRING":
        if not types <= {str}:
            return False
        try:
            "".join(items).encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True
    if kind in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[kind]
        return types <= {int} and (not items or (low <= min(items) and max(items) <= high))
    if kind == "FLOAT32":
        # The sum of magnitudes is finite and small only if each of them is.
        return types <= {float} and sum(map(abs, items)) < _FLOAT32_SAFE
    return kind == "BOOL" and types <= {bool}


def _float(key: str, kind: str, value: float) -> float:
    try:
        number = float(value)
        if kind == "FLOAT32":
            struct.pack("<f", number)
    except OverflowError:
        number = math.inf
    if math.isfinite(number) or value == -math.inf:  # Gemma 3n: no bound of an activation
        return number
    what = f"{shown(value)} is not a finite {kind}"
    raise ModelError(
        message(f"metadata key '{key}'", what, "Correct the value it comes from in the model's files")
    )


def _utf8(key: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # lone surrogates from JSON escapes
        what = f"text with an unpaired surrogate at character {error.start} cannot be written as UTF-8"
        raise ModelError(message(f"metadata key '{key}'", what, "Correct the model's files")) from None


class Metadata:
    """Insertion-ordered, typed GGUF key/values.

    Kinds are written as the GGUF specification names them: ``"STRING"``, ``"UINT32"``, ``"FLOAT32"``,
    ``"BOOL"``, ..., and arrays as ``"ARRAY[INT32]"``. Adding a key again replaces its value and keeps its
    place.
    """

    def __init__(self, entries: Iterable[tuple[str, str, object]] = ()) -> None:
        self._entries: dict[str, tuple[str, object]] = {}
        for key, kind, value in entries:
            self.add(key, kind, value)

    def add(self, key: str, kind: str, value: object) -> None:
        """Add a value of a kind; a value that the kind cannot hold raises ModelError, an unknown kind
        ValueError."""
        if not key or len(key.encode("utf-8", "surrogatepass")) > _MAX_KEY_BYTES:
            raise ValueError(f"a GGUF key has 1 to {_MAX_KEY_BYTES} bytes")
        if kind.startswith("ARRAY[") and kind.endswith("]"):
            element = kind[6:-1]
            if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
                raise ModelError(
                    message(f"metadata key '{key}'", "the value is not a list", "Correct the model's files")
                )
            items = list(value)
            if not _all_fit(element, items):
                items = [_scalar(key, element, item) for item in items]
            self._entries[key] = (kind, items)
        else:
            self._entries[key] = (kind, _scalar(key, kind, value))

    def string(self, key: str, value: str) -> None:
        self.add(key, "STRING", value)

    def uint32(self, key: str, value: int) -> None:
        self.add(key, "UINT32", value)

    def int32(self, key: str, value: int) -> None:
        self.add(key, "INT32", value)

    def uint64(self, key: str, value: int) -> None:
        self.add(key, "UINT64", value)

    def float32(self, key: str, value: float) -> None:
        self.add(key, "FLOAT32", value)

    def boolean(self, key: str, value: bool) -> None:
        self.add(key, "BOOL", value)

    def strings(self, key: str, values: Sequence[str]) -> None:
        self.add(key, "ARRAY[STRING]", values)

    def int32s(self, key: str, values: Sequence[int]) -> None:
        self.add(key, "ARRAY[INT32]", values)

    def float32s(self, key: str, values: Sequence[float]) -> None:
        self.add(key, "ARRAY[FLOAT32]", values)

    def booleans(self, key: str, values: Sequence[bool]) -> None:
        self.add(key, "ARRAY[BOOL]", values)

    def put_first(self, prefix: str, keys: Sequence[str]) -> None:
        """Put `keys` before the other keys that begin with `prefix`. A key that is not here is passed over."""
        inside = [key for key in self._entries if key.startswith(prefix)]
        order = [*(key for key in keys if key in self._entries), *(key for key in inside if key not in keys)]
        places = iter(order)
        self._entries = {
            key: self._entries[key]
            for key in (next(places) if old.startswith(prefix) else old for old in self._entries)
        }

    def entries(self) -> list[tuple[str, str, object]]:
        """All entries as (key, kind, value), in order: what goes to Rust."""
        return [(key, kind, value) for key, (kind, value) in self._entries.items()]

    def update(self, other: Metadata) -> None:
        """Append the entries of `other`; a key that is here already takes the new value in its old place."""
        self._entries.update(other._entries)

    def remove(self, key: str) -> None:
        """Take a key out, if it is there."""
        self._entries.pop(key, None)

    def get(self, key: str, default: Any = None) -> Any:
        entry = self._entries.get(key)
        return default if entry is None else entry[1]

    def kind(self, key: str) -> str:
        """The kind of a key that is present; KeyError otherwise."""
        return self._entries[key][0]

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        """Equal keys, kinds and values in the same order."""
        return isinstance(other, Metadata) and self.entries() == other.entries()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Metadata({self.entries()!r})"
