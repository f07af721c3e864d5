"""Runs the quantizer of llama.cpp, to compare srd-rs with llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srd_rs.errors import SrdIOError, UsageError, message
from srd_rs.eval.imatrix import load
from srd_rs.eval.library import failure, library


def quantize(
    source: str | Path,
    output: str | Path,
    ftype: str = "Q4_K_M",
    *,
    imatrix: str | Path | None = None,
    tensor_types: Mapping[str, str] | None = None,
    pure: bool = False,
    threads: int = 0,
) -> None:
    """Quantize an F32, F16 or BF16 GGUF by `llama_model_quantize`, as llama-quantize does.

    imatrix: an importance matrix in GGUF format. tensor_types: regular expression -> type, as llama-quantize's
    `--tensor-type`. threads: 0 for one per CPU.
    """
    lib = library()
    if not Path(source).is_file():
        raise SrdIOError(message(source, "no such file", "Check the path"))
    params = lib.llama_model_quantize_default_params()
    params.ftype = _ftype(lib, ftype)
    params.nthread = threads
    params.pure = pure
    alive: list[Any] = []  # what the parameters point to
    if imatrix is not None:
        params.imatrix = _imatrix(lib, imatrix, alive)
    if tensor_types:
        params.tt_overrides = _tensor_types(lib, tensor_types, alive)
    if lib.llama_model_quantize(str(source).encode(), str(output).encode(), params) != 0:
        raise failure(source, f"llama.cpp does not quantize it to {ftype}", "Check it with: srd-rs inspect")


def _ftype(lib: Any, name: str) -> int:
    for prefix in ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_"):
        found = getattr(lib, prefix + name, None)
        if found is not None:
            return int(found)
    raise UsageError(message(name, "llama.cpp has no such mix", "Name one as llama-quantize lists it"))


def _imatrix(lib: Any, path: str | Path, alive: list[Any]) -> Any:
    entry = getattr(lib, "llama_model_imatrix_data", None)
    if entry is None:
        raise UsageError(
            "llama-cpp-python: too old to quantize with an importance matrix. Run: pip install -U 'srd-rs[eval]'"
        )
    means = load(path)
    entries = [(name.encode(), _pointer(mean), mean.size) for name, mean in means.items()]
    array = (entry * (len(entries) + 1))(*entries)  # ends with an entry without a name
    alive += [means, array]
    return array


def _pointer(values: npt.NDArray[np.float32]) -> Any:
    return values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def _tensor_types(lib: Any, types: Mapping[str, str], alive: list[Any]) -> Any:
    try:
        from gguf import GGMLQuantizationType
    except ImportError as error:
        raise UsageError("tensor_types: the package gguf is not installed. Run: pip install gguf") from error
    entries = [(regex.encode(), GGMLQuantizationType[name].value) for regex, name in types.items()]
    array = (lib.llama_model_tensor_override * (len(entries) + 1))(*entries)
    alive.append(array)
    return array
