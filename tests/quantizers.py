"""The quantizers of the native module: in this process, or in another one that is held to a narrower vector path."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from srd_rs import _core

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_WRITTEN_FOR = (
    ("portable", "neon") if platform.machine() in ("aarch64", "arm64") else ("portable", "avx2", "avx512")
)
#: Every instruction set that has code for this kind of CPU, as parameters of a test: one that this CPU lacks is
#: skipped, and the skip says what was not tested.
ISAS = [
    pytest.param(
        isa,
        marks=pytest.mark.skipif(
            isa not in _core.instruction_sets(), reason=f"this CPU has no {isa}: its kernels were not tested"
        ),
    )
    for isa in _WRITTEN_FOR
]

quantize = _core.quantize
dequantize = _core.dequantize


def quantize_on(isa: str, kind: str, cases: Iterable[tuple[Floats, Floats | None]]) -> list[Bytes]:
    """The blocks of each (rows, importance) from a process that uses `isa` and nothing wider."""
    arrays = {}
    for i, (rows, importance) in enumerate(cases):
        arrays[f"{i}"] = rows
        if importance is not None:
            arrays[f"{i} importance"] = importance
    return _elsewhere(isa, "quantize", kind, arrays)


def dequantize_on(isa: str, kind: str, blocks: Bytes) -> Floats:
    """The weights of `blocks` from a process that uses `isa` and nothing wider."""
    return _elsewhere(isa, "dequantize", kind, {"0": blocks})[0]


def _elsewhere(isa: str, what: str, kind: str, arrays: dict[str, npt.NDArray]) -> list[npt.NDArray]:
    environment = {k: v for k, v in os.environ.items() if k != "SRD_FORCE_SCALAR"} | {"SRD_MAX_ISA": isa}
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, **arrays)
        command = [sys.executable, __file__, what, kind, str(given), str(made)]
        subprocess.run(command, env=environment, check=True, timeout=300)
        with np.load(made) as results:
            return [results[str(i)] for i in range(len(results.files))]


def _main(what: str, kind: str, given: str, made: str) -> None:
    """The other process: `quantizers.py quantize|dequantize TYPE IN.npz OUT.npz`."""
    results = {}
    with np.load(given) as arrays:
        for name in arrays.files:
            if name.endswith("importance"):
                continue
            importance = f"{name} importance"
            if what == "dequantize":
                results[name] = dequantize(arrays[name], kind)
            elif importance in arrays.files:
                results[name] = quantize(arrays[name], kind, arrays[importance])
            else:
                results[name] = quantize(arrays[name], kind)
    np.savez(made, **results)


if __name__ == "__main__":
    _main(*sys.argv[1:])
