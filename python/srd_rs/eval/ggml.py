"""The layout of ggml's tensors, for callbacks that look into a running graph."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from srd_rs.errors import UsageError
from srd_rs.eval.library import library

_MAX_DIMS: Final = 4
_MAX_SRC: Final = 10
_OP_PARAMS: Final = 16
_MAX_NAME: Final = 64
_OBJECT_SIZE: Final = 32  # ggml's own header in front of each tensor of a context
_MAX_OPS: Final = 256

TYPE_F32: Final = 0
TYPE_I32: Final = 26


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor`. `ne` has the row length first; `nb` has the strides in bytes."""


GgmlTensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * _MAX_DIMS),
    ("nb", ctypes.c_size_t * _MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * _OP_PARAMS),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(GgmlTensor) * _MAX_SRC),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * _MAX_NAME),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


@cache
def _ggml() -> Any:
    """The shared library of ggml. Raises `UsageError` if the library lays out its tensors differently."""
    library()
    from llama_cpp._ggml import libggml

    libggml.ggml_tensor_overhead.restype = ctypes.c_size_t
    libggml.ggml_nbytes.restype = ctypes.c_size_t
    libggml.ggml_nbytes.argtypes = [ctypes.c_void_p]
    libggml.ggml_op_name.restype = ctypes.c_char_p
    libggml.ggml_op_name.argtypes = [ctypes.c_int]
    libggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_size_t] * 2]
    libggml.ggml_backend_tensor_get.restype = None
    found = libggml.ggml_tensor_overhead() - _OBJECT_SIZE
    if found != ctypes.sizeof(GgmlTensor):
        raise UsageError(
            f"llama-cpp-python: its tensors have {found} bytes, {ctypes.sizeof(GgmlTensor)} are known."
            " Install another version of it"
        )
    return libggml


@cache
def op_number(name: str) -> int:
    """The number of an operation, such as `MUL_MAT`, in this build. The numbers change from version to version."""
    lib = _ggml()
    for number in range(_MAX_OPS):
        found = lib.ggml_op_name(number)
        if found == name.encode():
            return number
        if not found:
            break
    raise UsageError(f"llama-cpp-python: it has no operation {name}. Install another version of it")


def tensor_at(address: int) -> GgmlTensor:
    return ctypes.cast(address, ctypes.POINTER(GgmlTensor)).contents


def shape_of(tensor: GgmlTensor) -> tuple[int, ...]:
    """The shape in the order of numpy (`ne` reversed), always with four dimensions."""
    return tuple(reversed(tensor.ne[:]))


def read(tensor: GgmlTensor) -> npt.NDArray[Any]:
    """The values of an F32 or I32 tensor on any device, in the shape of `shape_of`. The strides are kept."""
    lib = _ggml()
    size = lib.ggml_nbytes(ctypes.addressof(tensor))
    raw = np.empty(size, np.uint8)
    lib.ggml_backend_tensor_get(ctypes.addressof(tensor), raw.ctypes.data, 0, size)
    dtype: type[Any] = {TYPE_F32: np.float32, TYPE_I32: np.int32}[tensor.type]
    values: npt.NDArray[Any] = np.ndarray(
        shape_of(tensor), dtype, raw.data, strides=tuple(reversed(tensor.nb[:]))
    )
    return values
