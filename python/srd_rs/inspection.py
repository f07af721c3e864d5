"""This module shows what is in a GGUF, a .safetensors file, a container or a checkpoint folder. No weight is read."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srd_rs import _core, sniff
from srd_rs.checkpoint import layout
from srd_rs.hub import locate
from srd_rs.report import TypeTotals, totals_by_type, type_rows
from srd_rs.text import bytes_text, count_text, html_table, printable


@dataclass(frozen=True)
class InspectedTensor:
    """A tensor as its file describes it.

    `shape` is in the order of the file: a GGUF gives the length of a row first (ne), a safetensors file gives it last.
    `offset` is in bytes from the start of `file`, which is the name of the file that holds the tensor.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    offset: int
    file: str

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Inspection:
    """What was found. `kind` is "gguf", "safetensors" or "axm". `metadata` has (key, kind, value), with arrays cut to
    `max_items` values; `lengths` has the full lengths of the arrays. A split GGUF is one model with all its parts."""

    kind: str
    path: Path
    file_bytes: int
    metadata: tuple[tuple[str, str, Any], ...]
    lengths: dict[str, int]
    tensors: tuple[InspectedTensor, ...]

    def _summary(self) -> str:
        counts = f"{len(self.tensors)} tensors, {count_text(self.n_weights)} weights"
        return f"{printable(str(self.path))}: {self.kind}, {counts}, {bytes_text(self.file_bytes)}"

    def __repr__(self) -> str:
        return f"<Inspection {self._summary()}>"

    def _repr_html_(self) -> str:
        return html_table(f"Inspection {self._summary()}", *type_rows(self.types))

    @property
    def n_weights(self) -> int:
        return sum(t.n_weights for t in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        return sum(t.bytes for t in self.tensors)

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors."""
        return self.tensor_bytes * 8 / max(self.n_weights, 1)

    @property
    def types(self) -> dict[str, TypeTotals]:
        """Type -> number of tensors, weights and bytes; the largest comes first."""
        return totals_by_type(self.tensors)


def inspect(path: str | os.PathLike[str], *, max_items: int = 8) -> Inspection:
    """Read and check the headers of a GGUF, an .axm container, a .safetensors file or a folder of them.

    A model or a file on the hub is downloaded first; see `srd_rs.convert`.

    Raises SrdIOError when the file cannot be read, FormatError when the file breaks its format (an .axm:
    VerificationError), UsageError for another kind of file, which the message names.
    """
    path = locate(path).path
    kind = sniff.check_inspectable(path).kind
    if kind == "axm":
        return _inspect_container(path)
    return _inspect_gguf(path, max_items) if kind in sniff.GGUFS else _inspect_checkpoint(path)


def _inspect_checkpoint(path: Path) -> Inspection:
    tensors = tuple(
        InspectedTensor(t.name, t.shape, t.dtype, t.nbytes, t.offset, t.shard) for t in layout(path)
    )
    folder = path if path.is_dir() else path.parent
    files = {t.file for t in tensors} if path.is_dir() else {path.name}
    size = sum((folder / f).stat().st_size for f in files)
    return Inspection("safetensors", path, size, (), {}, tensors)


def _inspect_gguf(path: Path, max_items: int) -> Inspection:
    header = _core.read_gguf(str(path), max_items)
    files = [Path(part).name for part, count in header["parts"] for _ in range(count)]
    tensors = tuple(
        InspectedTensor(name, tuple(ne), kind, size, offset, file)
        for (name, ne, kind, offset, size), file in zip(header["tensors"], files, strict=True)
    )
    return Inspection(
        "gguf", path, header["file_size"], tuple(header["metadata"]), dict(header["lengths"]), tensors
    )


#: What an inspection shows of the header of a container.
_CONTAINER_KEYS = {
    "axm.fingerprint": "fingerprint",
    "axm.id": "id",
    "axm.key_id": "key_id",
    "axm.ed25519_public_key": "public_key",
    "axm.tool": "tool",
    "axm.method": "method",
    "axm.quant": "quant",
    "axm.seed": "seed",
    "axm.source_digest": "source_digest",
    "axm.source_revision": "revision",
    "axm.n_shards": "n_shards",
    "general.architecture": "arch",
}


def _inspect_container(path: Path) -> Inspection:
    """Inspect a container. The bytes of a tensor count both planes; the type names the residual bits: ``Q4_K+2``."""
    opened = _core.open_container(path)
    header = opened.header.to_dict()
    tensors = tuple(
        InspectedTensor(
            name=t.name,
            shape=t.shape,
            type=t.type + (f"+{t.residual_bits}" if t.residual_bits else ""),
            bytes=t.bytes + t.residual_bytes,
            offset=t.offset,
            file=path.name,
        )
        for t in opened.tensors
    )
    metadata = tuple(
        (key, "UINT64" if isinstance(header[name], int) else "STRING", header[name])
        for key, name in _CONTAINER_KEYS.items()
        if header[name] is not None
    )
    return Inspection("axm", path, header["file_bytes"], metadata, {}, tensors)
