"""This module reads the small files of a model folder: configurations, tokenizers, templates, the model card.

A model folder comes from a stranger. So every read has a limit in bytes, opens regular files only and never
blocks, and follows a link only inside the folder or into the cache of the Hugging Face hub: the text of these
files is copied into the GGUF, and a link to a key file would publish the key. JSON is counted before JSON is
parsed, because a parsed value can take 60 times the memory of its text.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Final, NoReturn

from srd_rs.errors import FormatError, SrdIOError, message

MAX_CONFIG_BYTES: Final = 16 << 20
"""A config.json, tokenizer_config.json, added_tokens.json or template has at most this many bytes. Published ones
stay below 13 MB."""
MAX_CONFIG_VALUES: Final = 1 << 20
"""Such a file has at most this many JSON values: 150 000 added tokens have as many."""

MAX_TOKENIZER_BYTES: Final = 64 << 20
"""A tokenizer file has at most this many bytes."""
MAX_TEMPLATE_BYTES: Final = 1 << 20
"""A chat template in a file of its own has at most this many bytes."""

MAX_POINTER_BYTES: Final = 1024
"""A Git LFS pointer has at most this many bytes."""

_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_FIX: Final = "Download the file again"


def shown(value: object) -> str:
    """Return a value of a file as a message quotes the value, in at most 60 characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_limited(path: Path, limit: int = MAX_CONFIG_BYTES, *, root: Path | None = None) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    `root` is the folder of the model, by default the folder of `path`. Raises SrdIOError if the file cannot be
    opened, FormatError if the file is not regular, too large, or a link that leaves the folder.
    """
    try:
        _check_link(path, root or path.parent)
        with open(path, "rb", opener=open_without_waiting) as file:  # Path.open takes no opener
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                _fail(path, "this is not a regular file", "Replace it by the file of the model")
            data = file.read(limit + 1)
    except OSError as error:
        raise SrdIOError(
            message(path, f"the file cannot be read: {error.strerror or error}", "Check the path")
        ) from None
    if len(data) > limit:
        _fail(path, f"the file is larger than {limit} bytes", "Replace it by the file of the model")
    if data.startswith(_LFS_POINTER):
        what = "this is a Git LFS pointer, which stands for a file that was not downloaded"
        _fail(path, what, "Run: git lfs pull")
    return data


def open_without_waiting(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """A descriptor of a file. A pipe without a writer, which Unix systems have, does not block for ever."""
    more = ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY")  # Windows has the last one alone, Unix systems the others
    return os.open(path, flags | sum(getattr(os, name, 0) for name in more))


def _check_link(path: Path, root: Path) -> None:
    """Follow links only inside the folder, and into the blobs of the hub's cache that the folder is part of."""
    try:
        real, folder = path.resolve(strict=True), root.resolve()
    except RuntimeError:  # Python before 3.13 raises no OSError
        _fail(path, "the file is a link in a circle of links", "Replace it by the file of the model")
    if real.is_relative_to(folder):
        return
    if real.parent.name == "blobs" and real.parent.parent in folder.parents:
        return
    what = "the file is a link that leaves the folder of the model"
    _fail(path, what, "Copy the file into the folder if you trust it")


def read_text(path: Path, limit: int = MAX_CONFIG_BYTES, *, root: Path | None = None) -> str:
    """Return the UTF-8 text of a file; see `read_limited`."""
    try:
        return read_limited(path, limit, root=root).decode("utf-8")
    except UnicodeDecodeError as error:
        _fail(path, f"the text is not UTF-8 at byte {error.start}", _FIX)


def load_json(path: Path, limit: int = MAX_CONFIG_BYTES, *, root: Path | None = None) -> dict[str, Any]:
    """Return the JSON object in a UTF-8 file. A repeated key is an error: readers differ on which value counts."""
    return parse_object(read_limited(path, limit, root=root), path)


def parse_object(
    data: bytes, path: Path, *, values: int = MAX_CONFIG_VALUES, unique: bool = True
) -> dict[str, Any]:
    """Return the JSON object in `data`, which was read from `path`. Raises FormatError."""
    value = parse_json(data, path, values=values, unique=unique)
    if not isinstance(value, dict):
        _fail(path, f"the JSON value is of type {type(value).__name__}, and an object is expected", _FIX)
    return value


def parse_json(data: bytes, path: Path, *, values: int = MAX_CONFIG_VALUES, unique: bool = True) -> Any:
    """Return the JSON value in `data`, which was read from `path`: at most `values` values, and no key
    twice unless `unique` is false, which takes less memory.

    Raises FormatError.
    """
    found = sum(map(data.count, (b",", b"[", b"{")))  # every value begins the file or follows one of these
    if found > values:
        _fail(path, f"the JSON has more than {values} values", "Replace the file by the file of the model")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys if unique else None)
    except UnicodeDecodeError as error:
        _fail(path, f"the text is not UTF-8 at byte {error.start}", _FIX)
    except _RepeatedKeyError as error:
        _fail(path, f"the key {error} occurs twice", "Delete the wrong one")
    except json.JSONDecodeError as error:
        _fail(path, f"the text is not JSON: {error.msg} at line {error.lineno} column {error.colno}", _FIX)
    except RecursionError:
        _fail(path, "the JSON is nested too deep", _FIX)
    except ValueError:
        _fail(path, "the JSON has an integer with thousands of digits", _FIX)


def _fail(path: Path, what: str, fix: str) -> NoReturn:
    raise FormatError(message(path, what, fix)) from None


class _RepeatedKeyError(Exception):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(shown(key))
            seen.add(key)
    return result
