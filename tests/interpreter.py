"""A numpy interpreter of the Transform JSON: what Rust is to compute, slowly and in the open."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np


class Weights:
    """Reads tensors of a checkpoint as float32, by the shard that the reader named."""

    def __init__(self, folder: Path, shards: dict[str, str]) -> None:
        self.folder, self.shards = folder, shards
        self._headers: dict[str, tuple[dict[str, Any], int]] = {}

    def __call__(self, name: str) -> np.ndarray:
        shard = self.shards[name]
        path = self.folder / shard
        if shard not in self._headers:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                self._headers[shard] = (json.loads(file.read(length)), 8 + length)
        header, base = self._headers[shard]
        entry = header[name]
        begin, end = entry["data_offsets"]
        with path.open("rb") as file:
            file.seek(base + begin)
            data = file.read(end - begin)
        if entry["dtype"] == "BF16":
            flat = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            flat = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float32)
        return flat.reshape(entry["shape"])


def flat_rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(-1, 1)


def _between(count: int, to: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two positions that each of `to` places on an axis lies between, with their weights."""
    step = np.float32(count - 1) / np.float32(max(to - 1, 1)) if to > 1 else np.float32(0)
    place = step * np.arange(to, dtype=np.float32)
    first = np.minimum(place.astype(np.int64), count - 1)
    second = np.clip(place - first.astype(np.float32), np.float32(0), np.float32(1))
    return np.stack([first, np.minimum(first + 1, count - 1)]), np.float32(1) - second, second


def run(transform: dict[str, Any], weights: Any) -> np.ndarray:
    """The transform's rows; the tensor's shape is its own affair."""
    op = transform["op"]
    if op == "source":
        return weights(transform["tensor"])
    if op == "generated":
        return np.array(transform["values"], dtype=np.float32)
    if op == "concat":
        parts = [run(part, weights) for part in transform["of"]]
        if parts[0].ndim == 1:
            return np.concatenate(parts)
        return np.concatenate([flat_rows(part) for part in parts])
    if op == "product":
        first, *others = (run(part, weights) for part in transform["of"])
        for other in others:
            first = first * other.reshape(first.shape)
        return first
    if op == "sum":
        first, *others = (run(part, weights) for part in transform["of"])
        for other in others:
            first = first + other.reshape(first.shape)
        return first
    if op == "sinusoids":
        half = transform["columns"] // 2
        step = np.float32(-(np.log(10000.0) / (half - 1))) * np.arange(half, dtype=np.float32)
        frequencies = np.exp(step.astype(np.float64)).astype(np.float32)
        if transform.get("open"):
            exponents = np.arange(half, dtype=np.float32) / np.float32(half)
            frequencies = np.float32(1) / np.power(10000.0, exponents.astype(np.float64)).astype(np.float32)
        angles = np.arange(transform["rows"], dtype=np.float32)[:, None] * frequencies
        angles = angles.astype(np.float64)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    if op == "folded_norm":
        variance = run(transform["variance"], weights) + np.float32(transform["epsilon"])
        factor = run(transform["weight"], weights) / np.sqrt(variance)
        if transform["shift"] is None:
            return factor
        bias, mean = (run(part, weights) for part in transform["shift"])
        return bias - mean * factor
    of = run(transform["of"], weights)
    if op == "affine":
        scaled = of * np.float32(transform["mul"])
        return scaled + np.float32(transform["add"]) if transform["add"] else scaled
    if op == "permute_heads":
        heads = transform["heads"]
        split = of.reshape(heads, 2, of.shape[0] // heads // 2, *of.shape[1:])
        return split.swapaxes(1, 2).reshape(of.shape)
    if op == "rows":
        rows = of if of.ndim == 1 else flat_rows(of)
        return rows[transform["start"] : transform["start"] + transform["count"]]
    if op == "transpose":
        rows = flat_rows(of)
        parts = rows.reshape(transform["slices"], -1, rows.shape[1])
        return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(-1, parts.shape[1])
    if op == "pad_rows":
        missing = transform["rows"] - of.shape[0]
        return np.concatenate([of, np.full((missing, *of.shape[1:]), transform["value"], np.float32)])
    if op == "bilinear":
        (h, w), to = transform["from"], transform["to"]
        (y, ya, yb), (x, xa, xb) = (_between(*sides) for sides in zip((h, w), to, strict=True))
        grid = of.reshape(h, w, -1)
        result = np.zeros((*to, grid.shape[2]), np.float32)
        for rows, down, columns, across in (
            (y[1], yb, x[0], xa), (y[1], yb, x[1], xb), (y[0], ya, x[1], xb), (y[0], ya, x[0], xa),
        ):  # fmt: skip
            weight = (down[:, None] * across).astype(np.float64)[..., None]
            # In f64 the product is exact, and the sum is rounded once more than by a fused step: rarely to other bits.
            result = (weight * grid[rows][:, columns] + result).astype(np.float32)
        return result.reshape(-1, grid.shape[2])
    if op == "softplus":
        return np.logaddexp(0.0, of.astype(np.float64)).astype(np.float32)
    if op == "neg_exp":
        return -np.exp(of.astype(np.float64)).astype(np.float32)
    if op == "ternary":
        inverse = np.float32(1) / np.maximum(
            np.float32(np.abs(of).astype(np.float64).mean()), np.float32(1e-5)
        )
        return np.clip(np.round(of * inverse), -1, 1) / inverse
    if op == "view":
        flat = np.ascontiguousarray(of).reshape(-1)[transform["offset"] :]
        steps = [step * flat.itemsize for step in transform["strides"]]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, transform["shape"], steps))
    if op == "reshape":
        return of.reshape(transform["shape"])
    raise AssertionError(op)


def to_bf16(values: np.ndarray) -> bytes:
    """Round to nearest even, as ggml does."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
