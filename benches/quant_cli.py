"""Runs the crate's `quant_cli` example, which times the quantizers alone: no checks, no copies for Python."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

ROOT = Path(__file__).parents[1]


@functools.cache
def executable() -> Path:
    """The example, built by cargo; `SRD_QUANT_CLI` names one that is built already."""
    if "SRD_QUANT_CLI" in os.environ:
        return Path(os.environ["SRD_QUANT_CLI"])
    command = ["cargo", "build", "--release", "--quiet", "--example", "quant_cli"]
    subprocess.run(command, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples" / "quant_cli"


@functools.cache
def lists() -> dict[str, list[str]]:
    """The block formats (`types`) and the instruction sets of this CPU (`isas`, the best one first)."""
    result = subprocess.run([str(executable()), "list"], capture_output=True, text=True, check=True)
    lists: dict[str, list[str]] = json.loads(result.stdout)
    return lists


def quantize(
    kind: str, rows: Floats, importance: Floats | None = None, *, isa: str | None = None, repeats: int = 1
) -> tuple[Bytes, list[float]]:
    """Blocks of `rows`, `[rows, columns]`, and the seconds of each repeat. `isa`: a ceiling, like `avx2`."""
    environment = os.environ | ({"SRD_MAX_ISA": isa} if isa else {})
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("rows", "blocks", "importance")]
        np.ascontiguousarray(rows, "<f4").tofile(paths[0])
        if importance is not None:
            importance.astype("<f4").tofile(paths[2])
        else:
            paths[2] = "-"
        command = [str(executable()), "quantize", kind, str(rows.shape[1]), *paths, str(repeats)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        blocks = np.fromfile(paths[1], np.uint8).reshape(rows.shape[0], -1)
    return blocks, json.loads(result.stdout)["seconds"]
