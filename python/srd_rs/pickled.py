"""The tensors of PyTorch checkpoints (``pytorch_model.bin``), found without PyTorch and without running their code.

Such a file is a zip archive: a pickle that describes tensors, and one stored entry for each storage. The pickle is
read by an unpickler that knows the few names which describe tensors and refuses every other name. The result says where
each tensor lies in the file; the core reads the weights from there, as it reads those of safetensors files.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from srd_rs.errors import FormatError, ModelError, SrdIOError, message
from srd_rs.reading import load_json, shown

SINGLE: Final = "pytorch_model.bin"
INDEX: Final = "pytorch_model.bin.index.json"
FILES: Final = ("pytorch_model*.bin", INDEX)
"""Patterns of the files that a checkpoint of this kind consists of."""

_DTYPES: Final[Mapping[str, tuple[str, int]]] = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}
"""The safetensors type and the bytes of an element, for each kind of storage."""
_TYPED: Final[Mapping[str, tuple[str, int]]] = {
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "float32": ("F32", 4),
}
_MAX_PICKLE: Final = 1 << 26
_MAX_TENSORS: Final = 1 << 20
_AGAIN: Final = "Download the file again"
_SAVE: Final = "Save the model as safetensors: model.save_pretrained(..., safe_serialization=True)"


@dataclass(frozen=True)
class Listed:
    """Where a tensor lies: the name of a safetensors dtype, a row-major shape, the name of the file, and the offset of
    the first byte. `nbytes` is the size in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class _Kind:
    """A name of the pickle that stands for a type: a kind of storage or a dtype."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    dtype: tuple[str, int]
    first: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def is_pickled(folder: Path) -> bool:
    """Say whether the weights of a folder are PyTorch pickles and nothing else."""
    has_pickles = (folder / SINGLE).is_file() or (folder / INDEX).is_file()
    return has_pickles and not any(folder.glob("*.safetensors"))


def listed(folder: Path) -> list[Listed]:
    """Return the tensors of a checkpoint of pickles, file by file and by name.

    Raises SrdIOError if a file cannot be read, FormatError if a file is damaged or holds more than tensors, and
    ModelError if a file is missing.
    """
    found: dict[str, Listed] = {}
    for name in _files(folder):
        for tensor in sorted(_tensors(folder / name), key=lambda t: t.name):
            if tensor.name in found:
                what = f"'{tensor.name}' is also in {found[tensor.name].file}"
                raise FormatError(message(folder / name, what, "Remove one of the two files"))
            found[tensor.name] = tensor
    return list(found.values())


def _files(folder: Path) -> list[str]:
    if (folder / SINGLE).is_file():
        return [SINGLE]
    index = folder / INDEX
    shards = load_json(index).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) and _all_text(shards) else []
    if not names:
        raise FormatError(message(index, "has no weight_map that names files", _AGAIN))
    for name in names:
        if Path(name).name != name or not name.endswith(".bin"):
            what = f"names the file {shown(name)}, which is not inside the folder"
            raise FormatError(message(index, what, "Do not use this checkpoint"))
        if not (folder / name).is_file():
            raise ModelError(message(index, f"names the file {shown(name)}, which is missing", "Download it"))
    return names


def _all_text(values: Mapping[str, Any]) -> bool:
    return all(isinstance(value, str) for value in values.values())


def _tensors(path: Path) -> list[Listed]:
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise SrdIOError(
            message(path, f"cannot be read: {error.strerror or error}", "Check the file")
        ) from None
    except zipfile.BadZipFile as error:
        what = f"is no zip archive as PyTorch writes it since version 1.6 ({error})"
        raise FormatError(message(path, what, _SAVE)) from None


def _read(path: Path, file: BinaryIO) -> list[Listed]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise FormatError(message(path, f"holds {len(pickles)} pickles, one is expected", _SAVE))
        prefix = pickles[0].removesuffix("data.pkl")
        order = entries.get(f"{prefix}byteorder")
        if order is not None and order.file_size < 16 and archive.read(order) != b"little":
            raise FormatError(message(path, "was saved on a big-endian machine", _SAVE))
        if entries[pickles[0]].file_size > _MAX_PICKLE:
            what = f"has a pickle of {entries[pickles[0]].file_size} bytes, at most {_MAX_PICKLE} are read"
            raise FormatError(message(path, what, _SAVE))
        state = _unpickled(path, archive.read(pickles[0]))
    return [_placed(path, file, entries, prefix, name, tensor) for name, tensor in state.items()]


def _unpickled(path: Path, data: bytes) -> dict[str, _Tensor]:
    """Return the tensors of a pickle by name."""
    try:
        value = _Unpickler(io.BytesIO(data)).load()
    except _Refused as refused:
        raise FormatError(message(path, f"holds {refused}, which is no part of a tensor", _SAVE)) from None
    except RecursionError:
        raise FormatError(message(path, "has a pickle that is nested too deep", _AGAIN)) from None
    except Exception as error:  # whatever a damaged pickle makes the unpickler raise
        what = f"has a pickle that cannot be read ({type(error).__name__}: {str(error)[:80]})"
        raise FormatError(message(path, what, _AGAIN)) from None
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not value or len(value) > _MAX_TENSORS:
        raise FormatError(message(path, "holds no mapping of names to tensors", _SAVE))
    odd = next((k for k, v in value.items() if not isinstance(k, str) or not isinstance(v, _Tensor)), None)
    if odd is not None:
        raise FormatError(message(path, f"has an entry {shown(odd)} that is no tensor", _SAVE))
    return value


def _placed(
    path: Path,
    file: BinaryIO,
    entries: Mapping[str, zipfile.ZipInfo],
    prefix: str,
    name: str,
    tensor: _Tensor,
) -> Listed:
    """Return where the bytes of a tensor lie in the file."""
    place = f"{path}: tensor '{name[:120]}'"
    dtype, size = tensor.dtype
    count = math.prod(tensor.shape)
    if tensor.stride != _contiguous(tensor.shape) and count > 1:
        raise FormatError(message(place, "is a view whose rows do not follow each other", _SAVE))
    entry = entries.get(f"{prefix}data/{tensor.storage.key}")
    if entry is None or entry.compress_type != zipfile.ZIP_STORED:
        raise FormatError(message(place, "has no storage of plain bytes in the archive", _AGAIN))
    if (tensor.first + count) * size > entry.file_size:
        what = f"needs {(tensor.first + count) * size} bytes of a storage of {entry.file_size}"
        raise FormatError(message(place, what, _AGAIN))
    file.seek(entry.header_offset)
    head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise FormatError(message(place, "has a storage without a header in the archive", _AGAIN))
    name_length, extra_length = struct.unpack("<HH", head[26:30])
    start = entry.header_offset + 30 + name_length + extra_length
    return Listed(name, dtype, tensor.shape, path.name, start + tensor.first * size, count * size)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


class _Refused(Exception):
    """A name that the unpickler does not know."""


class _Unpickler(pickle._Unpickler):
    """The unpickler of the standard library that is written in Python: its memory grows with the file only.

    No name of a pickle reaches anything but the functions of this module.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage") and (name in _DTYPES or name == "UntypedStorage"):
            return _Kind(name)
        if module == "torch" and name in _TYPED:
            return _Kind(name)
        if module == "torch._utils" and name in _BUILDERS:
            return _BUILDERS[name]
        raise _Refused(shown(f"{module}.{name}"))

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _Kind(kind), str(key), _, int(count)):
                return _Storage(key, kind, count)
        raise _Refused("an object that is kept elsewhere")


def _sizes(values: Any) -> tuple[int, ...]:
    """Return checked sizes, each a number below 2^48."""
    if not isinstance(values, (tuple, list)) or len(values) > 8:
        _no_tensor()
    if any(not isinstance(v, int) or isinstance(v, bool) or not 0 <= v < 2**48 for v in values):
        _no_tensor()
    return tuple(values)


def _no_tensor() -> NoReturn:
    raise _Refused("a tensor with sizes that cannot be")


def _tensor(storage: Any, first: Any, shape: Any, stride: Any, *rest: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or storage.kind not in _DTYPES:
        _no_tensor()
    return _Tensor(storage, _DTYPES[storage.kind], _sizes([first])[0], _sizes(shape), _sizes(stride))


def _typed_tensor(storage: Any, first: Any, shape: Any, stride: Any, *rest: Any) -> _Tensor:
    """Return a tensor of an untyped storage: the type is the third of the remaining arguments."""
    dtype = rest[2] if len(rest) > 2 else None
    if not isinstance(storage, _Storage) or not isinstance(dtype, _Kind) or dtype.name not in _TYPED:
        _no_tensor()
    return _Tensor(storage, _TYPED[dtype.name], _sizes([first])[0], _sizes(shape), _sizes(stride))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


_BUILDERS: Final = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _typed_tensor,
    "_rebuild_parameter": _parameter,
}
