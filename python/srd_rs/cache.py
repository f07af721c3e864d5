"""Where calibrations are kept, so that a second conversion of a model, or one after an interruption, finds them again.

A calibration is found by a key: the digest of everything that it depends on. The folder is ``SRD_CACHE``, or
``srd-rs/calibrations`` in the cache folder of the user; ``SRD_CACHE=off`` keeps nothing. The folder holds at most
`LIMIT` bytes: the calibrations that were not used for the longest time are deleted first.

To know the key, all files of the model are read and the text is tokenized. A note, ``.NAME.note``, says what was found,
so that a conversion that goes on, or a second mix, need do neither while no file has changed.

While a calibration is made, it is kept as ``.KEY.calib.partial`` layer by layer. ``.KEY.calib.state-0`` and
``.KEY.calib.state-1`` say in turn how far it is. A calibration that is interrupted goes on from there when it is asked
for again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from srd_rs import _core
from srd_rs.errors import SrdError

LIMIT: Final = 10 << 30
"""Most bytes that the folder holds."""
INTERRUPTED: Final = 24 * 3600
"""Seconds for which what an interrupted calibration has left is kept in any case, because it may be going on."""
_SUFFIX: Final = ".calib"
_NOTE: Final = ".note"


def folder() -> Path | None:
    """The folder of the cache; None where nothing is kept."""
    named = os.environ.get("SRD_CACHE")
    if named:
        return None if named == "off" else Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "srd-rs" / "calibrations"
    except RuntimeError:  # there is no home folder
        return None


def key(facts: Mapping[str, Any]) -> str:
    """The key of a calibration. `facts` are what it depends on beside the program that makes it."""
    text = json.dumps({"made by": program(), **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def program() -> list[str | int]:
    """Version, size and time of the native module. The size and the time tell one build of a version from another."""
    state = Path(_core.__file__).stat()
    return [_core.__version__, state.st_size, state.st_mtime_ns]


def find(key: str) -> Path | None:
    """The file of a kept calibration; None where it is not there."""
    path = place(key)
    if path is None or not path.is_file():
        return None
    with suppress(OSError):
        os.utime(path)  # the time of the last use
    return path


def place(key: str) -> Path | None:
    """The file that a calibration goes to, in a folder that is there; None where nothing can be kept."""
    where = folder()
    if where is None:
        return None
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return where / f"{key}{_SUFFIX}"


def remember(states: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Note what was `found` by reading files, for facts (`states`) that are known without reading them."""
    path = _note(states)
    if path is not None:
        text = json.dumps(found).encode()
        with suppress(SrdError):
            _core.write_file(path, hashlib.sha256(text).hexdigest().encode() + b"\n" + text, overwrite=True)


def remembered(states: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `remember` has noted for these facts; None where nothing is noted, or where the note is damaged."""
    path = _note(states)
    try:
        raw = b"" if path is None else path.read_bytes()
    except OSError:
        return None
    digest, _, text = raw.partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        return None
    found: dict[str, Any] = json.loads(text)
    return found


def _note(states: Mapping[str, Any]) -> Path | None:
    file = place(key(states))
    return None if file is None else file.with_name(f".{file.stem}{_NOTE}")


def trim(limit: int = LIMIT) -> None:
    """Delete the calibrations that were not used for the longest time, until the folder holds at most `limit` bytes."""
    where = folder()
    if where is None:
        return
    kept = []
    # What an interrupted calibration has left has a hidden name. One that is going on is not touched.
    for path in (*where.glob(f"*{_SUFFIX}"), *where.glob(f".*{_SUFFIX}.*"), *where.glob(f".*{_NOTE}")):
        with suppress(OSError):
            state = path.stat()
            if path.suffix in (_SUFFIX, _NOTE) or time.time() - state.st_mtime > INTERRUPTED:
                kept.append((state.st_mtime_ns, state.st_size, path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= limit:
            return
        with suppress(OSError):
            path.unlink()
            total -= size
