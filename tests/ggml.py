"""ggml as an oracle, through ctypes on the library that llama-cpp-python or xllamacpp ships."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: name -> (ggml type id, weights of a block, bytes of a block)
TYPES = {
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ2_XXS": (16, 256, 66),
    "IQ2_XS": (17, 256, 74),
    "IQ3_XXS": (18, 256, 98),
    "IQ4_NL": (20, 32, 18),
    "IQ3_S": (21, 256, 110),
    "IQ2_S": (22, 256, 82),
    "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2),
    "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17),
    "IQ1_S": (19, 256, 50),
    "IQ1_M": (29, 256, 56),
    "NVFP4": (40, 64, 36),
    "Q1_0": (41, 128, 18),
    "Q2_0": (42, 64, 18),
}


def _candidates() -> list[Path]:
    found = []
    for package, pattern in (("llama_cpp", "lib/libggml-base.*"), ("xllamacpp", "*.so")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += sorted(Path(spec.origin).parent.glob(pattern))
    return found


@functools.cache
def library() -> ctypes.CDLL | None:
    """The first library that has `ggml_quantize_chunk`, or None."""
    for path in _candidates():
        try:
            lib = ctypes.CDLL(str(path))
            quantize = lib.ggml_quantize_chunk
        except (OSError, AttributeError):
            continue
        quantize.restype = ctypes.c_size_t
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        quantize.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
        return lib
    return None


def _lib() -> ctypes.CDLL:
    lib = library()
    if lib is None:
        raise RuntimeError("no ggml library found; install llama-cpp-python or xllamacpp")
    return lib


def requires_imatrix(quant: str) -> bool:
    """Whether ggml ends the process where this type is quantized without importances."""
    function = _lib().ggml_quantize_requires_imatrix
    function.restype = ctypes.c_bool
    return bool(function(TYPES[quant][0]))


def quantize(kind: str, rows: Floats, importance: Floats | None = None) -> Bytes:
    """Blocks, `[rows, bytes of a row]`, of `rows`, `[rows, columns]`."""
    rows = np.ascontiguousarray(rows, np.float32)
    n, columns = rows.shape
    number, length, size = TYPES[kind]
    out = np.zeros((n, columns // length * size), np.uint8)
    h: Any = None
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        h = importance.ctypes.data
    written = _lib().ggml_quantize_chunk(number, rows.ctypes.data, out.ctypes.data, 0, n, columns, h)
    if written != out.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes, expected {out.nbytes}")
    return out


def dequantize(kind: str, blocks: Bytes) -> Floats:
    """Weights, `[rows, columns]`, of `blocks`, `[rows, bytes of a row]`."""
    blocks = np.ascontiguousarray(blocks)
    _, length, size = TYPES[kind]
    out = np.zeros((blocks.shape[0], blocks.shape[1] // size * length), np.float32)
    plain = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}
    function = getattr(_lib(), plain.get(kind, f"dequantize_row_{kind.lower().replace('_k', '_K')}"))
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function(blocks.ctypes.data, out.ctypes.data, out.size)
    return out
