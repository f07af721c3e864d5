"""This module shows what is in a GGUF, a .safetensors file, a container or a checkpoint folder. No weight is read.

>>> import srd_rs
>>> found = srd_rs.inspect("path/to/model-Q4_K_M.gguf")
>>> found.metadata["general.architecture"], found.mix, found.tensors[0].shape
('gemma4', 'Q4_K_M', (256,))
>>> srd_rs.inspect("path/to/model").conversion.possible
True
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srd_rs import _core, sniff
from srd_rs.checkpoint import layout
from srd_rs.errors import SrdError
from srd_rs.hub import Source, glance
from srd_rs.options import DEFAULTS, mix_of
from srd_rs.planning import Planner
from srd_rs.report import TypeTotals, totals_by_type, type_rows
from srd_rs.text import bytes_text, count_text, html_table, printable


@dataclass(frozen=True)
class InspectedTensor:
    """A tensor as its file describes it.

    `shape` is row-major: the length of a row comes last, also for a GGUF, which states it the other way round.
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
class Conversion:
    """Whether a model folder can be converted.

    obstacle: Why it cannot, in the words of the error that a conversion would raise; None if it can.
    effort: The effort that a conversion would choose, ``"srd"``, ``"max"`` or ``"fast"``; None if there would be none.
    why_fast: Why SRD would be left out where it would have something to do.
    """

    obstacle: str | None = None
    effort: str | None = None
    why_fast: str | None = None

    @property
    def possible(self) -> bool:
        return self.obstacle is None


@dataclass(frozen=True)
class Inspection:
    """What was found.

    kind: ``"gguf"``, ``"safetensors"`` or ``"axm"``.
    file_bytes: Size of the file, or of all files of weights. A split GGUF is one model with all its parts.
    metadata: Key -> value, with arrays cut to `max_items` values. Of a model folder that can be converted, it is the
        metadata that its GGUF would have.
    kinds: Key -> kind of the value, as GGUF names it, for example ``UINT32``.
    lengths: Key -> full length of an array.
    conversion: Of a model folder, whether it can be converted; None for other things.
    """

    kind: str
    path: Path
    file_bytes: int
    metadata: dict[str, Any]
    kinds: dict[str, str]
    lengths: dict[str, int]
    tensors: tuple[InspectedTensor, ...]
    conversion: Conversion | None = None

    def _summary(self) -> str:
        counts = f"{len(self.tensors)} tensors, {count_text(self.n_weights)} weights"
        return f"{printable(str(self.path))}: {self.kind}, {counts}, {bytes_text(self.file_bytes)}"

    def __repr__(self) -> str:
        return f"<Inspection {self._summary()}>"

    def _repr_html_(self) -> str:
        return html_table(f"Inspection {self._summary()}", *type_rows(self.types))

    @property
    def mix(self) -> str | None:
        """The name of the mix that a GGUF states (general.file_type), None where it states none that is known."""
        return mix_of(self.metadata.get("general.file_type"))

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

    Of a model folder, config.json and the tokenizer are read as well, to say what its GGUF would be and whether it can
    be converted. Of a model on the hub only the small files and the
    headers of the weights are read, over the network; one file of a model on the hub is downloaded.

    Raises SrdIOError when the file cannot be read, FormatError when the file breaks its format (an .axm:
    VerificationError), UsageError for another kind of file, which the message names.

        >>> srd_rs.inspect("path/to/model-Q4_K_M.gguf").mix
        'Q4_K_M'
    """
    source = glance(path)
    if source.remote is not None:
        return _with_conversion(_inspect_checkpoint(source), source, max_items)
    thing = sniff.check_inspectable(source.path)
    if thing.kind == "axm":
        return _inspect_container(source.path)
    if thing.kind in sniff.GGUFS:
        return _inspect_gguf(source.path, max_items)
    found = _inspect_checkpoint(source)
    return _with_conversion(found, source, max_items) if thing.kind == "checkpoint" else found


def _inspect_checkpoint(source: Source) -> Inspection:
    path = source.path
    tensors = tuple(
        InspectedTensor(t.name, t.shape, t.dtype, t.nbytes, t.offset, t.shard)
        for t in layout(path, source.remote)
    )
    if source.remote is not None:  # the tensors of a safetensors file reach to its end
        ends: dict[str, int] = {}
        for t in tensors:
            ends[t.file] = max(ends.get(t.file, 0), t.offset + t.bytes)
        size = sum(ends.values())
    else:
        folder = path if path.is_dir() else path.parent
        files = {t.file for t in tensors} if path.is_dir() else {path.name}
        size = sum((folder / f).stat().st_size for f in files)
    return Inspection("safetensors", path, size, {}, {}, {}, tensors)


def _with_conversion(found: Inspection, source: Source, max_items: int) -> Inspection:
    """What a conversion with the defaults would make of a model folder, by its plan."""
    try:
        planner = Planner(source, None, DEFAULTS)
        entries = planner.plan().metadata()
    except SrdError as error:
        return replace(found, conversion=Conversion(str(error)))
    # The mix and the provenance belong to a conversion, not to the model.
    entries = [e for e in entries if e[0] != "general.file_type" and not e[0].startswith("srd.")]
    lengths = {key: len(value) for key, _, value in entries if isinstance(value, list)}
    cut = {key: value[:max_items] if key in lengths else value for key, _, value in entries}
    chosen = Conversion(None, planner.options.effort, planner.why_fast)
    kinds = {key: kind for key, kind, _ in entries}
    return replace(found, metadata=cut, kinds=kinds, lengths=lengths, conversion=chosen)


def _inspect_gguf(path: Path, max_items: int) -> Inspection:
    header = _core.read_gguf(str(path), max_items)
    files = [Path(part).name for part, count in header["parts"] for _ in range(count)]
    tensors = tuple(
        InspectedTensor(name, tuple(reversed(ne)), kind, size, offset, file)
        for (name, ne, kind, offset, size), file in zip(header["tensors"], files, strict=True)
    )
    metadata = {key: value for key, _, value in header["metadata"]}
    kinds = {key: kind for key, kind, _ in header["metadata"]}
    return Inspection("gguf", path, header["file_size"], metadata, kinds, dict(header["lengths"]), tensors)


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
            shape=tuple(reversed(t.shape)),
            type=t.type + (f"+{t.residual_bits}" if t.residual_bits else ""),
            bytes=t.bytes + t.residual_bytes,
            offset=t.offset,
            file=path.name,
        )
        for t in opened.tensors
    )
    metadata = {key: header[name] for key, name in _CONTAINER_KEYS.items() if header[name] is not None}
    kinds = {key: "UINT64" if isinstance(value, int) else "STRING" for key, value in metadata.items()}
    return Inspection("axm", path, header["file_bytes"], metadata, kinds, {}, tensors)
