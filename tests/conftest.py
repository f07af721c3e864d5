"""Shared by the tests: where the fixtures are, and a stand-in for the native module while it is not built."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
import tarfile
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _header(path: Path) -> dict[str, dict[str, object]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def _read_checkpoint(folder: str) -> list[tuple[str, str, tuple[int, ...], str]]:
    index = Path(folder) / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        shards = sorted(path.name for path in Path(folder).glob("*.safetensors"))
    return [
        (name, entry["dtype"], tuple(entry["shape"]), shard)
        for shard in shards
        for name, entry in _header(Path(folder) / shard).items()
    ]


def _stand_in() -> types.ModuleType:
    """The classes and the header reader of `srd_rs._core`, so that the Python rooms can be tested without
    Rust."""
    module = types.ModuleType("srd_rs._core")
    base = type("SrdError", (Exception,), {})
    module.SrdError = base
    for name in ("FormatError", "ModelError", "NonFiniteError", "UsageError"):
        setattr(module, name, type(name, (base, ValueError), {}))
    module.SrdIOError = type("SrdIOError", (base, OSError), {})
    module.read_checkpoint = _read_checkpoint
    return module


if importlib.util.find_spec("srd_rs") is None:
    sys.path.insert(0, str(ROOT / "python"))
if importlib.util.find_spec("srd_rs._core") is None:
    sys.modules["srd_rs._core"] = _stand_in()


def shared_folder() -> Path:
    return Path(os.environ.get("SRD_SHARED", ROOT.parent / "shared"))


def fixtures_folder() -> Path | None:
    """The unpacked fixtures, unpacked on first use; None where they are not at hand."""
    stated = os.environ.get("SRD_FIXTURES")
    if stated:
        return Path(stated) if Path(stated).is_dir() else None
    archive = shared_folder() / "fixtures" / "a.tar.xz"
    cache = Path.home() / ".cache" / "srd-rs-tests"
    if (cache / "a" / ".complete").is_file():
        return cache / "a"
    if not archive.is_file():
        return None
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(cache, filter="data")
    (cache / "a" / ".complete").touch()
    return cache / "a"


@pytest.fixture(scope="session")
def fixtures() -> Iterator[Path]:
    folder = fixtures_folder()
    if folder is None:
        pytest.skip("the fixtures are not at hand (SRD_SHARED or SRD_FIXTURES)")
    yield folder


@pytest.fixture(scope="session")
def bad_models() -> Path:
    folder = shared_folder() / "fixtures" / "bad" / "dir"
    if not folder.is_dir():
        pytest.skip("the hostile files are not at hand (SRD_SHARED)")
    return folder
