"""Open files: the tensors of a GGUF, a container or a checkpoint as lazily mapped numpy views.

    >>> import srd_rs
    >>> with srd_rs.open("path/to/model-Q4_K_M.gguf") as file:
    ...     tensor = file["blk.0.attn_q.weight"]
    ...     print(tensor.type, tensor.shape, tensor.numpy(rows=slice(0, 2)).shape)
    Q4_K (256, 256) (2, 256)

The headers are read and checked by the native module when a file is opened. The bytes of a tensor are mapped when
they are asked for, and nothing is copied until a tensor is dequantized.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from srd_rs import _core, hub, sniff
from srd_rs.checkpoint import Checkpoint as _Model
from srd_rs.checkpoint import layout
from srd_rs.errors import FormatError, UsageError, message
from srd_rs.report import TypeTotals, totals_by_type, type_rows
from srd_rs.text import bytes_text, count_text, html_table, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Axm", "Checkpoint", "Gguf", "Tensor", "open"]

_Opened = TypeVar("_Opened", bound="_Tensors")
_SHARD_ALIGNMENT: Final = 65536
"""Shards of a container begin at multiples of this (docs/axm-format.md)."""
#: Types of GGUF and of safetensors that the native module does not read, and numpy does.
_NUMPY: Final = {
    "F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8",
    "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor of an open file.

    name: The name in the file.
    type: The name of the type: of GGUF (``"Q4_K"``), or the dtype of safetensors (``"BF16"``).
    shape: Row-major: the length of a row comes last, also for a GGUF, which states it the other way round.
    file: The file that the bytes lie in.
    offset: In bytes, from the start of `file`.
    nbytes: Size in bytes.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int
    _home: _Tensors = field(repr=False, compare=False)
    _runs: tuple[tuple[int, int], ...] = field(repr=False, compare=False)

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The same as `nbytes`."""
        return self.nbytes

    @property
    def rows(self) -> int:
        """Number of rows: the product of all dimensions but the last."""
        return math.prod(self.shape[:-1])

    @property
    def raw(self) -> NDArray[np.uint8]:
        """The bytes as stored, uint8 ``[rows, bytes of a row]``, read-only.

        A view of the mapped file without a copy, except for a tensor of a container that is longer than one shard.
        For a GGUF, ``srd_rs.dequantize(t.raw, t.type)`` is ``t.numpy()`` as a matrix. Raises FormatError if the file
        has become shorter, UsageError if it is closed.
        """
        whole = self._raw()
        return whole.reshape(self.rows, len(whole) // max(self.rows, 1))

    def numpy(self, rows: int | slice | None = None) -> NDArray[np.float32]:
        """The values as float32, in the shape of the tensor. The native module reads blocks, without the GIL.

        rows: One row, or a slice of the rows, of the tensor as a matrix ``[rows, row length]``: an array of one
            dimension, or of two. Only these rows are read.

        A type that float32 holds exactly is exact; F64 and integers are rounded to float32. Raises UsageError for a
        type that cannot be read and for a row that is out of range.

            >>> file = srd_rs.open("path/to/model-Q4_K_M.gguf")
            >>> file["token_embd.weight"].numpy(rows=7).shape
            (256,)
        """
        import numpy as np

        blocks = self.raw
        if isinstance(rows, int):
            if not -self.rows <= rows < self.rows:
                what = f"row {rows} is out of range: the tensor has {self.rows} rows"
                raise UsageError(message(self.name, what, "Pass a number of a row"))
            blocks = blocks[rows : rows + 1 or None]
        elif rows is not None:
            blocks = blocks[rows]
        length = self.shape[-1] if self.shape else 1
        shape = (length,) if isinstance(rows, int) else (len(blocks), length)
        if self.type in _core.readable_types():
            values = _core.dequantize(np.ascontiguousarray(blocks), self.type)
        elif self.type in _NUMPY:
            values = np.ascontiguousarray(blocks).view(_NUMPY[self.type]).astype(np.float32)
        else:
            what = f"srd-rs reads no values of the type {self.type}"
            raise UsageError(message(f"{self.file}, {self.name}", what, "Tensor.raw has the bytes"))
        return values.reshape(self.shape if rows is None else shape)

    def _raw(self) -> NDArray[np.uint8]:
        import numpy as np

        parts = [self._home._bytes(self.file, offset, size) for offset, size in self._runs]
        if len(parts) == 1:
            return parts[0]
        joined = np.concatenate(parts)
        joined.flags.writeable = False
        return joined

    def __repr__(self) -> str:
        return f"<Tensor {self.name!r}: {self.type} {list(self.shape)}, {bytes_text(self.nbytes)}>"


class _Tensors(Mapping[str, Tensor]):
    """Tensors by name, in the order of the file. A context manager; `close` lets go of the maps."""

    kind = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors: dict[str, Tensor] = {}
        self._maps: dict[Path, NDArray[np.uint8]] = {}
        self._closed = False

    def _add(
        self, name: str, kind: str, shape: tuple[int, ...], file: Path, runs: tuple[tuple[int, int], ...]
    ) -> None:
        size = sum(n for _, n in runs)
        self._tensors[name] = Tensor(name, kind, shape, file, runs[0][0], size, self, runs)

    def _bytes(self, file: Path, offset: int, size: int) -> NDArray[np.uint8]:
        import numpy as np

        if self._closed:
            raise UsageError(message(self.path, "the file is closed", "Open the file again"))
        mapped = self._maps.get(file)
        if mapped is None:
            if file.stat().st_size == 0:
                raise FormatError(message(file, "the file has become empty", "Open the file again"))
            mapped = self._maps[file] = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        if offset + size > len(mapped):
            raise FormatError(
                message(file, "the file is shorter than its header says", "Open the file again")
            )
        return mapped[offset : offset + size]

    def __getitem__(self, name: str) -> Tensor:
        if (found := self._tensors.get(name)) is None:
            raise KeyError(
                f"{self.path.name} has no tensor {name!r}. Iterating over the file gives all names"
            )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def n_weights(self) -> int:
        """Number of weights of all tensors."""
        return sum(t.n_weights for t in self.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.values())

    @property
    def types(self) -> dict[str, TypeTotals]:
        """Type -> number of tensors, weights and bytes; the largest comes first."""
        return totals_by_type(self.values())

    def close(self) -> None:
        """Let go of the file. Arrays that were handed out stay valid."""
        self._closed = True
        self._maps.clear()

    def __enter__(self: _Opened) -> _Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _summary(self) -> str:
        size = bytes_text(self.nbytes)
        return (
            f"{printable(self.path.name)}: {len(self)} tensors, {count_text(self.n_weights)} weights, {size}"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._summary()}>"

    def _repr_html_(self) -> str:
        return html_table(f"{type(self).__name__} {self._summary()}", *type_rows(self.types))


class _Metadata(Mapping[str, Any]):
    """The metadata of a GGUF. Arrays are read when the first of them is asked for."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._path = path
        self._lengths: dict[str, int] = header["lengths"]
        self._values = {key: value for key, _, value in header["metadata"]}
        self.kinds: dict[str, str] = {key: kind for key, kind, _ in header["metadata"]}

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        whole = _core.read_gguf(self._path)["metadata"]
        return {key: value for key, _, value in whole if key in self._lengths}

    def __getitem__(self, key: str) -> Any:
        return self._arrays[key] if key in self._lengths else self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<metadata of {printable(self._path.name)}: {len(self)} keys>"


class Gguf(_Tensors):
    """An open GGUF, or all parts of a split one: a mapping of names to `Tensor`.

    metadata: A mapping of keys to values (str, int, float, bool or a list); ``metadata.kinds`` has their types.
    """

    kind = "gguf"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        header: dict[str, Any] = dict(_core.read_gguf(path, 0))
        self.metadata = _Metadata(path, header)
        files = [part for part, count in header["parts"] for _ in range(count)]
        for file, (name, ne, kind, offset, size) in zip(files, header["tensors"], strict=True):
            self._add(name, kind, tuple(reversed(ne)), Path(file), ((offset, size),))

    @property
    def architecture(self) -> str:
        """What `general.architecture` says."""
        return str(self.metadata.get("general.architecture", ""))


class Axm(_Tensors):
    """An open container: a mapping of names to the tensors of its GGUF, as they are in the base plane.

    Opening a container does not verify the shards; `srd_rs.verify` does.

    metadata: What the signed header says: architecture, fingerprint, mix, method, seed, and so on.
    """

    kind = "axm"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        opened = _core.open_container(path)
        self.metadata: Mapping[str, Any] = opened.header.to_dict()
        for t in opened.tensors:
            runs = _shards(t.offset, t.bytes, math.prod(t.shape), t.shard_weights)
            self._add(t.name, t.type, tuple(reversed(t.shape)), path, runs)


class Checkpoint(_Tensors):
    """An open model folder or safetensors file: a mapping of names to `Tensor`.

    metadata: What config.json says; empty for a single file.
    """

    kind = "safetensors"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        folder = path if path.is_dir() else path.parent
        config = path.is_dir() and (path / "config.json").is_file()
        self.metadata: Mapping[str, Any] = _Model.open(path).config if config else {}
        for t in layout(path):
            self._add(t.name, t.dtype, t.shape, folder / t.shard, ((t.offset, t.nbytes),))


def _shards(offset: int, size: int, weights: int, shard_weights: int) -> tuple[tuple[int, int], ...]:
    """Offset and size of the shards of a plane: each shard begins at the next multiple of the alignment."""
    shard = size * shard_weights // weights if shard_weights < weights else size
    runs = []
    for begin in range(0, size, max(shard, 1)):
        length = min(shard, size - begin)
        runs.append((offset, length))
        offset += -(-length // _SHARD_ALIGNMENT) * _SHARD_ALIGNMENT
    return tuple(runs)


def open(path: str | os.PathLike[str]) -> Gguf | Axm | Checkpoint:
    """Open a GGUF, a container (.axm), a safetensors file or a model folder, to look at its tensors.

    path: A path, or a model or a file on the hub, which is downloaded first (see `srd_rs.convert`).

    Headers are read and checked; no weight is read until it is asked for. Raises SrdIOError if the file cannot be read,
    FormatError if the file breaks its format (an .axm: VerificationError), UsageError for another kind of file,
    which the message names.

        >>> file = srd_rs.open("path/to/model-Q4_K_M.gguf")
        >>> file
        <Gguf model-Q4_K_M.gguf: 99 tensors, 13.2 M weights, 10.05 MB>
        >>> file.metadata["general.architecture"]
        'gemma4'
        >>> file["output_norm.weight"].numpy().dtype
        dtype('float32')
    """
    found = hub.locate(path).path
    kind = sniff.check_inspectable(found).kind
    if kind == "axm":
        return Axm(found)
    return Gguf(found) if kind in sniff.GGUFS else Checkpoint(found)
