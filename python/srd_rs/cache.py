"""Where calibrations are kept, so that a second conversion of a model, or one after an interruption, finds them again.

A calibration is found by a key: the digest of everything that it depends on. The folder is ``SRD_CACHE``, or
``srd-rs/calibrations`` in the cache folder of the user; ``SRD_CACHE=off`` keeps nothing. The folder holds at most
`LIMIT` bytes: the calibrations that were not used for the longest time are deleted first.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from srd_rs import _core

LIMIT: Final = 10 << 30
"""Most bytes that the folder holds."""
_SUFFIX: Final = ".calib"


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


def trim(limit: int = LIMIT) -> None:
    """Delete the calibrations that were not used for the longest time, until the folder holds at most `limit` bytes."""
    where = folder()
    if where is None:
        return
    kept = []
    for path in where.glob(f"*{_SUFFIX}"):
        with suppress(OSError):
            state = path.stat()
            kept.append((state.st_mtime_ns, state.st_size, path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= limit:
            return
        with suppress(OSError):
            path.unlink()
            total -= size
